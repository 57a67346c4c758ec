//! Debian's firewalld in a network of a test's own: unpacked below
//! `INN_TEST_FIREWALLD`, on a message bus of the test's, with a `firewall-cmd`
//! for an agent to find (`Host::with_programs`).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::netns::Netns;
use crate::wait;

const VARIABLE: &str = "INN_TEST_FIREWALLD";

/// The one that its packages are for.
const PYTHON: &str = "/usr/bin/python3";

const NFT: &str = "/usr/sbin/nft";

const BUS: &str = r#"<busconfig>
  <type>system</type>
  <listen>unix:path=BUS</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>"#;

/// Ends with this.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
pub struct Firewalld<'a> {
    netns: &'a Netns,
    root: PathBuf,
    dir: TempDir,
    /// None, while it does not run.
    daemon: Option<Process>,
    _bus: Process,
}

impl<'a> Firewalld<'a> {
    /// One that runs, or why there is none.
    pub fn start(netns: &'a Netns) -> Result<Self, String> {
        let root = std::env::var_os(VARIABLE).ok_or(format!("no {VARIABLE}"))?;
        let root = PathBuf::from(root);
        let dir = tempfile::Builder::new().prefix("inn-firewalld-").tempdir().unwrap();
        for part in ["etc", "bin"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let modules = "import dbus, gi, nftables, firewall; from gi.repository import GLib";
        let probe = command(netns, &root, dir.path(), Path::new(PYTHON), &["-sP", "-c", modules]);
        let probe = ended(probe);
        if !probe.status.success() {
            let error = String::from_utf8_lossy(&probe.stderr).into_owned();
            return Err(format!("its modules do not load: {}", error.lines().last().unwrap_or("")));
        }
        let (config, bus) = (dir.path().join("bus.conf"), dir.path().join("bus"));
        fs::write(&config, BUS.replace("BUS", &bus.display().to_string())).unwrap();
        let argument = format!("--config-file={}", config.display());
        let daemon = root.join("usr/bin/dbus-daemon");
        let daemon = command(netns, &root, dir.path(), &daemon, &[&argument, "--nofork"]);
        let daemon = spawned(daemon);
        wait::until("a message bus", || bus.exists().then_some(()));
        write_client(&root, dir.path());
        let mut own = Self { netns, root, dir, daemon: None, _bus: daemon };
        own.begin();
        Ok(own)
    }

    /// Where `firewall-cmd` is.
    pub fn programs(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// What it says of it by `firewall-cmd`; it has to succeed.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let client = self.programs().join("firewall-cmd").display().to_string();
        self.netns.program(&client, arguments).unwrap().trim().to_owned()
    }

    /// As its unit's start does.
    pub fn begin(&mut self) {
        let path = |below: &str| self.root.join(below).display().to_string();
        let (defaults, program) = (path("usr/lib/firewalld"), path("usr/sbin/firewalld"));
        let own = |name: &str| self.dir.path().join(name).display().to_string();
        let (system, log) = (own("etc"), own("log"));
        let arguments = [
            "-sP",
            &program,
            "--nofork",
            "--nopid",
            "--log-file",
            &log,
            "--system-config",
            &system,
            "--default-config",
            &defaults,
        ];
        let python = Path::new(PYTHON);
        let daemon = command(self.netns, &self.root, self.dir.path(), python, &arguments);
        self.daemon = Some(spawned(daemon));
        // Asking by Python takes CPUs that its start needs.
        wait::until("firewalld's tables", || {
            let tables = self.netns.program(NFT, &["list", "tables"]).ok()?;
            tables.contains("firewalld").then_some(())
        });
        let client = self.programs().join("firewall-cmd").display().to_string();
        wait::until("firewalld", || self.netns.program(&client, &["--state"]).ok());
    }

    /// With its table, as its unit's end does.
    pub fn end(&mut self) {
        drop(self.daemon.take());
        self.netns.program(NFT, &["delete", "table", "inet", "firewalld"]).unwrap();
    }
}

/// By which the agent asks, too.
fn write_client(root: &Path, dir: &Path) {
    let variables: Vec<String> = environment(root, dir)
        .into_iter()
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect();
    let program = root.join("usr/bin/firewall-cmd");
    let script = format!(
        "#!/bin/sh\n{}exec {PYTHON} -sP '{}' \"$@\"\n",
        variables.concat(),
        program.display()
    );
    let client = dir.join("bin/firewall-cmd");
    fs::write(&client, script).unwrap();
    fs::set_permissions(&client, Permissions::from_mode(0o755)).unwrap();
}

fn environment(root: &Path, dir: &Path) -> [(&'static str, String); 4] {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let shown = |path: PathBuf| path.display().to_string();
    [
        ("PYTHONPATH", shown(root.join("usr/lib/python3/dist-packages"))),
        ("GI_TYPELIB_PATH", shown(libraries.join("girepository-1.0"))),
        ("LD_LIBRARY_PATH", shown(libraries)),
        ("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", shown(dir.join("bus")))),
    ]
}

/// With a /run of its own, where firewalld keeps what is temporary.
#[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
fn command(netns: &Netns, root: &Path, dir: &Path, program: &Path, arguments: &[&str]) -> Command {
    let (nsenter, before) = netns.entrance();
    let mut command = Command::new(nsenter);
    command.args(before);
    command.args(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\""]);
    command.arg(program).args(arguments).envs(environment(root, dir)).stdin(Stdio::null());
    command
}

fn ended(mut command: Command) -> Output {
    command.output().unwrap()
}

fn spawned(mut command: Command) -> Process {
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}
