//! The end of the VM.
//!
//! ```text
//!  SIGTERM to all ─▶ childless or grace over ─▶ SIGKILL ─▶ sync ─▶ unmount ─▶ reboot(2)
//! ```

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use inn_guest_proto::wire::FailureKind;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};

use super::boot::BootError;
use super::process::DEFAULT_PATH;
use super::programs::Programs;
use super::reaper::Reaper;
use super::{mount_table, raw};
use crate::apart::apart;
use crate::console;
use crate::refusal::Refusal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    PowerOff,
    Reboot,
}

/// After SIGKILL nothing takes long but a process inside the kernel, which
/// must not keep the VM from ending.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// The writable disk's own mount, which lies under the VM's root unseen.
static WRITABLE: OnceLock<OwnedFd> = OnceLock::new();

/// Called while `path` can still be seen.
pub(crate) fn keep_writable_disk(path: &str) {
    if let Ok(dir) = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        let _only_once = WRITABLE.set(dir);
    }
}

/// Only where its overlay is the VM's root.
pub(crate) fn writable_disk() -> Option<&'static OwnedFd> {
    WRITABLE.get()
}

/// As PID 1: ends everything in good order, then the machine.
pub(crate) async fn shut_down(reaper: &Reaper, last: Last, grace: Duration) -> ! {
    // SIGHUP for interactive shells, which ignore SIGTERM; SIGCONT for what is
    // stopped and would not notice.
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGCONT] {
        let _nobody_there = raw::signal_all(signal);
    }
    if tokio::time::timeout(grace, reaper.childless()).await.is_err() {
        let _nobody_there = raw::signal_all(libc::SIGKILL);
        let _stuck = tokio::time::timeout(AFTER_KILL, reaper.childless()).await;
    }
    put_away_disks();
    match last {
        Last::PowerOff => power_off(),
        Last::Reboot => reset(),
    }
}

fn put_away_disks() {
    rustix::fs::sync();
    for mounted in mount_table::read().unwrap_or_default().iter().rev() {
        if mounted.source.starts_with("/dev/") && mounted.target != "/" {
            let _in_use = unmount(mounted.target.as_str(), UnmountFlags::empty());
        }
    }
    // The root cannot be unmounted, and neither can what is under it.
    let _in_use = mount_remount("/", MountFlags::RDONLY, c"");
    if let Some(disk) = WRITABLE.get()
        && rustix::process::fchdir(disk).is_ok()
    {
        let _in_use = mount_remount(".", MountFlags::RDONLY, c"");
    }
}

/// A boot that cannot go on: says why, and ends the machine, so that the host
/// need not wait for a deadline to know.
pub(crate) fn fail(error: &BootError) -> ! {
    console::say(&format!("cannot {}: {}", error.step, error.source));
    rustix::fs::sync();
    power_off()
}

/// Where no firmware can switch off, a reset ends the machine as well: its
/// runtime does not let it start again.
pub(crate) fn power_off() -> ! {
    if std::path::Path::new("/sys/firmware/acpi").exists() {
        let _cannot = reboot(RebootCommand::PowerOff);
    }
    // A runtime sees no difference but this line (crates/vmm-krun, end.rs).
    console::note("power off, by a reset");
    reset()
}

pub(crate) fn reset() -> ! {
    let _cannot = reboot(RebootCommand::Restart);
    // The kernel refuses: the end of PID 1 is a panic, which ends it too.
    std::process::exit(1)
}

/// As a service of a full VM, whose init ends it.
///
/// ```text
///  init's program is there? ─▶ (answered) ─▶ it runs ─▶ init ends all, us too
///                                                └ still here after the grace ─▶ sync ─▶ reboot(2)
/// ```
#[derive(Debug)]
pub(crate) struct Request {
    argv: [&'static str; 2],
}

/// What asks init, in the order in which they are looked for: systemd's own
/// first, since the others may be links that lead nowhere in a slim image.
const ASK_POWER_OFF: [[&str; 2]; 4] = [
    ["systemctl", "poweroff"],
    ["poweroff", ""],
    ["openrc-shutdown", "--poweroff"],
    ["shutdown", "-h"],
];
const ASK_REBOOT: [[&str; 2]; 4] =
    [["systemctl", "reboot"], ["reboot", ""], ["openrc-shutdown", "--reboot"], ["shutdown", "-r"]];

/// For init's program to pass the wish on; it does not wait for the end.
const ASKING: Duration = Duration::from_secs(20);

/// How init is to be asked; fails where the guest has no program for it.
pub(crate) fn prepare(last: Last) -> Result<Request, Refusal> {
    find_program(last, |name| DEFAULT_PATH.split(':').any(|dir| Path::new(dir).join(name).exists()))
        .map(|argv| Request { argv })
        .ok_or_else(|| {
            let what = "ask its init to end the machine: it has neither systemctl nor poweroff";
            Refusal::new(FailureKind::Unsupported, what)
        })
}

fn find_program(last: Last, exists: impl Fn(&str) -> bool) -> Option<[&'static str; 2]> {
    let all = match last {
        Last::PowerOff => ASK_POWER_OFF,
        Last::Reboot => ASK_REBOOT,
    };
    all.into_iter().find(|[name, _]| exists(name))
}

/// Asks init, and ends the machine by force if it is still there after
/// `grace`; no grace is no force.
pub(crate) async fn ask_init(programs: &Programs, request: Request, last: Last, grace: Duration) {
    let programs = programs.clone();
    let asked = apart("ask-init", move || {
        let [program, word] = request.argv;
        let argv: &[&str] = match (program, word) {
            ("shutdown", word) => &[program, word, "now"],
            (_, "") => &[program],
            _ => &[program, word],
        };
        programs.run(argv, ASKING)
    });
    if let Ok(Err(error)) = asked.await {
        console::say(&format!("cannot ask init to end the machine: {error}"));
        return;
    }
    if grace.is_zero() {
        return;
    }
    tokio::time::sleep(grace).await;
    console::say("init did not end the machine in time: ending it");
    rustix::fs::sync();
    match last {
        Last::PowerOff => power_off(),
        Last::Reboot => reset(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_asked_by_what_there_is() {
        assert_eq!(find_program(Last::PowerOff, |_| true), Some(["systemctl", "poweroff"]));
        let busybox = |name: &str| name == "reboot" || name == "poweroff";
        assert_eq!(find_program(Last::Reboot, busybox), Some(["reboot", ""]));
        assert_eq!(find_program(Last::PowerOff, |_| false), None);
    }
}
