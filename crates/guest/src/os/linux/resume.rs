//! Makes a machine that goes on from a saved one itself again.
//!
//! ```text
//!   entropy ─▶ clock ─▶ hostname ─▶ machine-id ─▶ network ─▶ mounts ─▶ secrets ─▶ hooks
//!      └──────────┴──────────── one that fails is the last ───────┴──────────┘
//! ```
//!
//! Entropy first: until it is there, every clone of one machine draws the same
//! random numbers. The host hands the machine to nobody before all is done.
//!
//! In a full VM its own system has set up the network, and does so again at its next
//! boot: its files are told of the new MAC, and so is the kernel, which tells whoever
//! holds the card (systemd-networkd asks by DHCP again then). ifupdown's client is
//! told by nobody, and is begun anew.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inn_guest_proto::wire::{
    Configure, Done, FailureKind, Mount, Network, Resume, ResumeStep, ResumeStepKind as Kind,
    Resumed, resume_step,
};

use super::programs::Programs;
use super::{clock, etc, hostname, identity, ioctls, mount_table, network, readdress, renumber};
use crate::agent::Role;
use crate::refusal::{OrRefuse, Refusal};

/// What its owner wants to have done in a machine that was restored.
const HOOKS: &str = "/etc/innkeeper/resume.d";

const ETC: &str = "/etc";

/// Which cards ifupdown has brought up.
const IFSTATE: &str = "/run/network/ifstate";

/// For ifupdown's programs, each: a DHCP client under an emulated CPU.
const IFUPDOWN: Duration = Duration::from_secs(60);

/// Of systems that have no link there, but a copy.
const DBUS_MACHINE_ID: &str = "/var/lib/dbus/machine-id";

const RANDOM: &str = "/dev/random";

/// As much as the kernel's generator is seeded with.
const MIN_ENTROPY: usize = 32;

enum Took {
    Done,
    Skipped(String),
}

type Taken = Result<Took, Refusal>;

/// What is done at once. Nobody is served before, so it keeps nobody waiting; and
/// an emulated CPU would have more to translate for a thread than for all of it.
pub(crate) fn begin(request: &Resume, role: Role) -> Course {
    let none = Configure::default();
    let setup = request.setup.as_ref().unwrap_or(&none);
    let etc = Path::new(ETC);
    if !etc.is_dir() {
        // Where there can be none, each file says so.
        let _there_or_not = fs::create_dir_all(etc);
    }
    let mut course = Course::of(role);
    course.step(Kind::Entropy, || entropy(&request.entropy));
    course.step(Kind::Clock, || set_clock(setup.clock_unix_ns));
    course.step(Kind::Hostname, || take_hostname(setup));
    course.step(Kind::MachineId, || take_machine_id(etc, setup));
    course.by_ifupdown = match role {
        Role::Resident if !request.mac.is_empty() => ifupdown_card(Path::new(IFSTATE)),
        Role::Resident | Role::Init | Role::Bare => None,
    };
    if course.by_ifupdown.is_none() {
        course.step(Kind::Network, || take_network(&request.mac, setup.network.as_ref(), role));
    }
    course
}

pub(crate) fn succeeded(resumed: &Resumed) -> bool {
    !resumed.steps.iter().any(|step| matches!(step.result, Some(resume_step::Result::Failed(_))))
}

#[derive(Debug)]
pub(crate) struct Course {
    steps: Vec<ResumeStep>,
    failed: bool,
    role: Role,
    /// The card that its programs have to begin anew.
    by_ifupdown: Option<String>,
}

impl Course {
    fn of(role: Role) -> Self {
        Self { steps: Vec::new(), failed: false, role, by_ifupdown: None }
    }

    /// The rest of it waits for disks, or for programs of its owner's.
    pub(crate) fn takes_time(&self, request: &Resume) -> bool {
        let mounts = request.setup.as_ref().is_some_and(|setup| !setup.mounts.is_empty());
        let slow = mounts || self.by_ifupdown.is_some();
        !self.failed && (slow || hooks_in(Path::new(HOOKS)).is_ok_and(|hooks| !hooks.is_empty()))
    }

    pub(crate) fn finish(mut self, request: &Resume, programs: &Programs) -> Resumed {
        let (mounts, role) =
            (request.setup.as_ref().map_or(&[][..], |setup| &setup.mounts), self.role);
        if let Some(card) = self.by_ifupdown.take() {
            self.step(Kind::Network, || begin_anew(&card, request, programs));
        }
        self.step(Kind::Mounts, || mount_all(mounts, role));
        self.step(Kind::Secrets, || skipped("it has none"));
        let limit = Duration::from_millis(request.hooks_ms.into());
        self.step(Kind::Hooks, || run_hooks(Path::new(HOOKS), limit, programs));
        Resumed { steps: self.steps }
    }

    fn step(&mut self, kind: Kind, take: impl FnOnce() -> Taken) {
        if self.failed {
            return;
        }
        let start = Instant::now();
        let result = match take() {
            Ok(Took::Done) => resume_step::Result::Done(Done {}),
            Ok(Took::Skipped(why)) => resume_step::Result::Skipped(why),
            Err(refusal) => {
                self.failed = true;
                resume_step::Result::Failed(refusal.to_string())
            }
        };
        let took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.steps.push(ResumeStep { kind: kind.into(), took_ns, result: Some(result) });
    }
}

fn skipped(why: &str) -> Taken {
    Ok(Took::Skipped(why.to_owned()))
}

fn entropy(bytes: &[u8]) -> Taken {
    if !(MIN_ENTROPY..=ioctls::MAX_ENTROPY).contains(&bytes.len()) {
        return Err(Refusal::invalid(format!(
            "begin its random numbers from {} bytes",
            bytes.len()
        )));
    }
    let random = File::open(RANDOM).or_refuse(|| format!("open {RANDOM}"))?;
    ioctls::add_entropy(random.as_fd(), bytes).or_refuse(|| "take entropy".into())?;
    Ok(Took::Done)
}

fn set_clock(unix_ns: u64) -> Taken {
    if unix_ns == 0 {
        return skipped("no time was given");
    }
    clock::set_kernel(Duration::from_nanos(unix_ns)).or_refuse(|| "set its clock".into())?;
    Ok(Took::Done)
}

fn take_hostname(setup: &Configure) -> Taken {
    if setup.hostname.is_empty() {
        return skipped("no name was given");
    }
    hostname::check(&setup.hostname)?;
    rustix::system::sethostname(setup.hostname.as_bytes())
        .or_refuse(|| format!("take the hostname {}", setup.hostname))?;
    // An image may have an odd /etc: the kernel's name counts.
    match identity::write_name(etc::overwrite, Path::new(ETC), &setup.hostname) {
        Ok(()) => Ok(Took::Done),
        Err(refusal) => {
            Ok(Took::Skipped(format!("the kernel has it, but the guest cannot {refusal}")))
        }
    }
}

/// One that can't be replaced is its parent's, and shared with its siblings.
fn take_machine_id(dir: &Path, setup: &Configure) -> Taken {
    if setup.machine_id.is_empty() {
        return skipped("none was given");
    }
    match identity::write_machine_id(etc::overwrite, dir, &setup.machine_id) {
        Ok(()) => {
            let copy = Path::new(DBUS_MACHINE_ID);
            if fs::symlink_metadata(copy).is_ok_and(|meta| meta.is_file()) {
                // Where it is another one D-Bus says so, and takes the first.
                let _left = etc::overwrite(copy, &format!("{}\n", setup.machine_id), 0o444);
            }
            Ok(Took::Done)
        }
        Err(_) if !dir.join("machine-id").exists() => skipped("there is no place for one"),
        Err(refusal) => Err(refusal),
    }
}

fn take_network(mac: &[u8], wanted: Option<&Network>, role: Role) -> Taken {
    if mac.is_empty() && wanted.is_none() {
        return skipped("no card or address was given");
    }
    let taken = renumber::take(Path::new(ETC), mac, wanted)?;
    if role == Role::Resident {
        readdress::rewrite(Path::new("/"), &taken.words)?;
    }
    match taken.but {
        None => Ok(Took::Done),
        Some(but) => Ok(Took::Skipped(format!("it has its address, but the guest cannot {but}"))),
    }
}

/// The card that ifupdown has brought up, where it is the first that is no loopback:
/// its lines are `eth0=eth0` (ifup(8)).
fn ifupdown_card(state: &Path) -> Option<String> {
    let text = fs::read_to_string(state).ok()?;
    let names = text.lines().filter_map(|line| line.split('=').next());
    let card = network::first_card()?;
    names.into_iter().any(|name| name == card).then_some(card)
}

fn begin_anew(card: &str, request: &Resume, programs: &Programs) -> Taken {
    let run = |argv: &[&str]| {
        let ran = programs.run(argv, IFUPDOWN);
        ran.map_err(|error| error.refuse(&format!("bring up {card} as another machine's")))
    };
    run(&["ifdown", "--force", card])?;
    let wanted = request.setup.as_ref().and_then(|setup| setup.network.as_ref());
    let took = take_network(&request.mac, wanted, Role::Resident)?;
    run(&["ifup", card])?;
    Ok(took)
}

fn mount_all(mounts: &[Mount], role: Role) -> Taken {
    if mounts.is_empty() {
        return skipped("there are none");
    }
    if role != Role::Init {
        return Err(Refusal::new(
            FailureKind::Unsupported,
            "mount its disks: it is not PID 1 of its machine",
        ));
    }
    for wanted in mounts {
        let there = mount_table::at(&wanted.target).or_refuse(|| "read its mounts".into())?;
        if there.is_none() {
            identity::mount_disk(&wanted.serial, &wanted.target, wanted.read_only)?;
        }
    }
    Ok(Took::Done)
}

fn run_hooks(dir: &Path, limit: Duration, programs: &Programs) -> Taken {
    let hooks = match hooks_in(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return skipped(&format!("there is no {}", dir.display()));
        }
        hooks => hooks.or_refuse(|| format!("read {}", dir.display()))?,
    };
    if hooks.is_empty() {
        return skipped(&format!("nothing in {} can be run", dir.display()));
    }
    if limit.is_zero() {
        return skipped("they were not asked for");
    }
    let start = Instant::now();
    for hook in hooks {
        let left = limit.saturating_sub(start.elapsed());
        programs
            .run(&[&hook.to_string_lossy()], left)
            .map_err(|error| error.refuse("run its resume hooks"))?;
    }
    Ok(Took::Done)
}

/// By their names, as run-parts(8) has it, without its rules of what a name is.
fn hooks_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut hooks = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let meta = fs::metadata(&path);
        let runs = meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if runs && !hidden {
            hooks.push(path);
        }
    }
    hooks.sort();
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Configure {
        Configure { machine_id: "0123456789abcdef0123456789abcdef".into(), ..Configure::default() }
    }

    #[test]
    fn a_step_that_fails_is_the_last() {
        let mut course = Course::of(Role::Init);
        course.step(Kind::Entropy, || Ok(Took::Done));
        course.step(Kind::Clock, || skipped("no time was given"));
        course.step(Kind::Hostname, || Err(Refusal::invalid("take a hostname that is none")));
        course.step(Kind::MachineId, || panic!("it is not taken"));
        let resumed = Resumed { steps: course.steps };
        assert_eq!(resumed.steps.len(), 3);
        assert!(!succeeded(&resumed));
        assert!(matches!(&resumed.steps[2].result,
            Some(resume_step::Result::Failed(what)) if what.contains("hostname")));
        assert!(succeeded(&Resumed { steps: resumed.steps[..2].to_vec() }));
    }

    #[test]
    fn too_little_and_too_much_entropy_are_refused() {
        for length in [0, MIN_ENTROPY - 1, ioctls::MAX_ENTROPY + 1] {
            assert!(entropy(&vec![1; length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_machine_id_that_cannot_be_replaced_is_no_success() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path();
        assert!(matches!(take_machine_id(etc, &setup()), Ok(Took::Done)));
        fs::remove_file(etc.join("machine-id")).unwrap();
        fs::create_dir(etc.join("machine-id")).unwrap();
        fs::write(etc.join("machine-id/x"), "").unwrap();
        assert!(take_machine_id(etc, &setup()).is_err());
        let nowhere = etc.join("nowhere");
        assert!(matches!(take_machine_id(&nowhere, &setup()), Ok(Took::Skipped(_))));
        assert!(matches!(take_machine_id(etc, &Configure::default()), Ok(Took::Skipped(_))));
    }

    #[test]
    fn hooks_are_what_can_be_run_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in
            [("20-b", 0o755), ("10-a", 0o700), (".hidden", 0o755), ("readme", 0o644)]
        {
            let path = dir.path().join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(dir.path().join("30-directory")).unwrap();
        let names: Vec<_> = hooks_in(dir.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["10-a", "20-b"]);
        assert!(hooks_in(&dir.path().join("none")).is_err());
    }
}
