//! The real firewalld beside our tables: the distribution's own, with a message
//! bus of the test's, in a namespace of the test's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use inn_domain::network::{Declared, Instance, NetworkKind};
use tempfile::TempDir;

use crate::foreign::{Blocker, Owner, blockers};
use crate::namespace::Namespace;
use crate::nft::{self, Kernel};
use crate::table::{tables, tests as sample};

/// Where its packages are unpacked.
const VARIABLE: &str = "INN_TEST_FIREWALLD";

/// The one that its packages are for.
const PYTHON: &str = "/usr/bin/python3";

/// Python on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

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
        let path = |below: &str| own.root.join(below).display().to_string();
        let (defaults, program) = (path("usr/lib/firewalld"), path("usr/sbin/firewalld"));
        let (system, log) = (own.dir.path().join("etc"), own.dir.path().join("log"));
        fs::create_dir(&system).unwrap();
        let (system, log) = (system.display().to_string(), log.display().to_string());
        let more = ["--log-file", &log, "--system-config", &system, "--default-config", &defaults];
        let daemon: Vec<&str> =
            ["-sP", &program, "--nofork", "--nopid"].into_iter().chain(more).collect();
        own.spawn(Path::new(PYTHON), &daemon);
        // Asking by Python takes CPUs that its start needs.
        own.until("firewalld's tables", |own| {
            let foreign = own.namespace.run(|| nft::foreign(&Instance::default()).unwrap());
            !foreign.is_empty()
        });
        own.until("firewalld", |own| own.ask(&["--state"]).status.success());
        Ok(own)
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
