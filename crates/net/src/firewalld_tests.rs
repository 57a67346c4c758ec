//! The real firewalld beside our tables: the distribution's own, with a message
//! bus of the test's, in a namespace of the test's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use inn_domain::network::{Declared, Instance, Listen, NetworkKind, Policy, Transport};
use inn_units::InterfaceName;
use tempfile::TempDir;

use crate::firewalld::{Ask, Kept, keep_in_zone};
use crate::foreign::{Blocker, Owner, blockers};
use crate::namespace::Namespace;
use crate::nft::{self, Kernel};
use crate::table::{tables, tests as sample};
use crate::traffic::{World, serve, try_tcp};

/// Where its packages are unpacked.
const VARIABLE: &str = "INN_TEST_FIREWALLD";

/// The one that its packages are for.
const PYTHON: &str = "/usr/bin/python3";

/// Python on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

/// For what must not arrive.
const SILENCE: Duration = Duration::from_millis(500);

/// Between two looks at whether something is there.
const RETRY: Duration = Duration::from_millis(50);

const BUS: &str = r#"<busconfig>
  <type>system</type>
  <listen>unix:path=BUS</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>"#;

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Firewalld<'a> {
    namespace: &'a Namespace,
    root: PathBuf,
    dir: TempDir,
    processes: Vec<Running>,
}

impl<'a> Firewalld<'a> {
    /// Or why there is none.
    fn start(namespace: &'a Namespace) -> Result<Self, String> {
        let root = std::env::var_os(VARIABLE).ok_or(format!("no {VARIABLE}"))?;
        let dir = TempDir::new().unwrap();
        let mut own = Self { namespace, root: root.into(), dir, processes: Vec::new() };
        let modules = "import dbus, gi, nftables, firewall; from gi.repository import GLib";
        let probe = own.run(PYTHON, &["-sP", "-c", modules]).map_err(|error| error.to_string())?;
        if !probe.status.success() {
            let error = String::from_utf8_lossy(&probe.stderr);
            return Err(format!("its modules do not load: {}", error.lines().last().unwrap_or("")));
        }
        let config = own.dir.path().join("bus.conf");
        fs::write(&config, BUS.replace("BUS", &own.bus().display().to_string())).unwrap();
        let daemon = own.root.join("usr/bin/dbus-daemon");
        let argument = format!("--config-file={}", config.display());
        own.spawn(&daemon, &[&argument, "--nofork"]);
        own.until("a message bus", |own| own.bus().exists());
        fs::create_dir(own.dir.path().join("etc")).unwrap();
        own.daemon();
        Ok(own)
    }

    /// It, on the bus that there is.
    fn daemon(&mut self) {
        let path = |below: &str| self.root.join(below).display().to_string();
        let (defaults, program) = (path("usr/lib/firewalld"), path("usr/sbin/firewalld"));
        let (system, log) = (self.dir.path().join("etc"), self.dir.path().join("log"));
        let (system, log) = (system.display().to_string(), log.display().to_string());
        let more = ["--log-file", &log, "--system-config", &system, "--default-config", &defaults];
        let daemon: Vec<&str> =
            ["-sP", &program, "--nofork", "--nopid"].into_iter().chain(more).collect();
        self.spawn(Path::new(PYTHON), &daemon);
        // Asking by Python takes CPUs that its start needs.
        self.until("firewalld's tables", |own| {
            let foreign = own.namespace.run(|| nft::foreign(&Instance::default()).unwrap());
            !foreign.is_empty()
        });
        self.until("firewalld", |own| own.ask(&["--state"]).status.success());
    }

    /// As its unit does. What it leaves of its tables goes, too.
    fn restart(&mut self) {
        drop(self.processes.pop());
        self.namespace.program(&["nft", "delete", "table", "inet", "firewalld"], "");
        self.daemon();
    }

    fn bus(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    /// With a /run of its own, where firewalld keeps what is temporary.
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\""]);
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        command
            .arg(program)
            .args(arguments)
            .env("PYTHONPATH", self.root.join("usr/lib/python3/dist-packages"))
            .env("GI_TYPELIB_PATH", libraries.join("girepository-1.0"))
            .env("LD_LIBRARY_PATH", libraries)
            .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.bus().display()));
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        self.namespace.run(|| self.command(Path::new(program), arguments).output())
    }

    fn spawn(&mut self, program: &Path, arguments: &[&str]) {
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.namespace.run(|| command.spawn().unwrap());
        self.processes.push(Running(child));
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let program = self.root.join("usr/bin/firewall-cmd").display().to_string();
        let all: Vec<&str> =
            ["-sP", &program].into_iter().chain(arguments.iter().copied()).collect();
        self.run(PYTHON, &all).unwrap()
    }

    fn tell(&self, arguments: &[&str]) {
        let output = self.ask(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }

    #[expect(clippy::disallowed_methods, reason = "a program of others tells nobody")]
    fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !so(self) {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "never: {what}: {log}");
            std::thread::sleep(RETRY);
        }
    }
}

impl Ask for Firewalld<'_> {
    fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Firewalld::ask(self, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// A VM behind our bridge, and its way out and in.
#[test]
fn its_zone_lets_real_traffic_through_as_long_as_it_is_asked_to() {
    let name = "its_zone_lets_real_traffic_through_as_long_as_it_is_asked_to";
    let network = sample::network(1, NetworkKind::Nat);
    let bridge = network.bridge();
    let to_vm = (&["10.77.1.2"][..], 80);
    let declared = Declared {
        networks: vec![network],
        attachments: vec![sample::card(1, 2, Policy::AllowAll)],
        maps: vec![sample::map(Listen::Any, Transport::Tcp, (8080, 8080), to_vm)],
        ..Declared::default()
    };
    let Some(world) = World::new(name, declared.clone()) else { return };
    serve(&world.outside, "0.0.0.0:80");
    serve(world.vm(0), "0.0.0.0:80");
    let out = || try_tcp(world.vm(0), "192.0.2.100:80", PATIENCE);
    let mapped = || try_tcp(&world.outside, "192.0.2.1:8080", PATIENCE);
    assert!(out().is_ok() && mapped().is_ok(), "before it is there");

    let mut firewalld = match Firewalld::start(&world.host) {
        Ok(firewalld) => firewalld,
        Err(why) => return println!("SKIPPED {name}: {why}"),
    };
    let shut = || try_tcp(world.vm(0), "192.0.2.100:80", SILENCE).is_err();
    assert!(shut(), "what it drops by itself");
    let (none, ours): ([InterfaceName; 0], _) = ([], [bridge]);
    let kept = keep_in_zone(&firewalld, &ours, &none).unwrap();
    assert_eq!((kept.done.len(), kept.refused), (1, vec![]));
    let open = |when: &str| {
        out().unwrap_or_else(|error| panic!("{when}, out: {error}"));
        mapped().unwrap_or_else(|error| panic!("{when}, by a port map: {error}"));
        let foreign = world.host.run(|| nft::foreign(&Instance::default()).unwrap());
        assert_eq!(blockers(&foreign, &declared), [], "{when}");
    };
    open("in its zone");
    assert_eq!(keep_in_zone(&firewalld, &ours, &ours), Ok(Kept::default()), "as it should be");
    // Its reload may have kept it or not; its restart has not.
    firewalld.tell(&["--reload"]);
    keep_in_zone(&firewalld, &ours, &ours).unwrap();
    open("after a reload");
    firewalld.restart();
    assert!(shut(), "what was at runtime only is gone");
    assert_eq!(keep_in_zone(&firewalld, &ours, &ours).unwrap().done.len(), 1);
    open("after a restart");
    let kept = keep_in_zone(&firewalld, &none, &ours).unwrap();
    assert_eq!((kept.done.len(), kept.refused), (1, vec![]));
    assert!(shut(), "nobody asks for it any more");
}

#[test]
fn firewalld_and_ours_do_not_break_each_other() {
    let name = "firewalld_and_ours_do_not_break_each_other";
    let Some(namespace) = Namespace::new(name) else { return };
    let firewalld = match Firewalld::start(&namespace) {
        Ok(firewalld) => firewalld,
        Err(why) => return println!("SKIPPED {name}: {why}"),
    };
    let network = sample::network(1, NetworkKind::Nat);
    namespace.ip(&format!("link add {} type bridge", network.bridge()));
    let declared = Declared { networks: vec![network], ..Declared::default() };
    let theirs = || namespace.program(&["nft", "list", "table", "inet", "firewalld"], "");
    let before = theirs();
    let mut kernel = namespace.run(|| Kernel::open(Instance::default()).unwrap());
    kernel.reconcile(&tables(&declared)).unwrap();
    assert_eq!(theirs(), before);

    let seen = || -> Vec<Blocker> {
        blockers(&namespace.run(|| nft::foreign(&Instance::default()).unwrap()), &declared)
    };
    let found = seen();
    assert!(!found.is_empty() && found.iter().all(|it| it.owner == Owner::Firewalld), "{found:?}");
    // Its reloads leave ours alone.
    for reload in ["--reload", "--complete-reload"] {
        firewalld.tell(&[reload]);
        kernel.forget();
        assert!(kernel.reconcile(&tables(&declared)).unwrap().is_empty(), "after {reload}");
    }
    // What is advised is what helps, beyond a reload.
    for call in &found[0].opt_in {
        let words: Vec<&str> = call.iter().skip(1).map(String::as_str).collect();
        firewalld.tell(&words);
    }
    assert_eq!(seen(), []);
    firewalld.tell(&["--reload"]);
    assert_eq!(seen(), []);
    let before = theirs();
    kernel.reconcile(&tables(&Declared::default())).unwrap();
    assert_eq!(theirs(), before, "ours go, and theirs stay");
}
