//! A real inn-guest behind a simulated machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use inn_vmm_sim::Behaviour;
use tempfile::TempDir;

/// Ends with the test: the process is killed and its directory removed.
#[derive(Debug)]
pub(super) struct RealGuest {
    process: Child,
    pub(super) dir: TempDir,
}

impl RealGuest {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Self::spawn(&mut command(binary()), &dir);
        Self { process, dir }
    }

    /// One that finds a file system of 1 MiB at `small` in its directory, and
    /// nobody else does: a user namespace lets it mount it.
    pub(super) fn start_with_small_disk() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("small");
        std::fs::create_dir(&small).unwrap();
        let script = r#"mount -t tmpfs -o size=1m small "$0" && exec "$@""#;
        let mut guest = command(Path::new("unshare"));
        guest.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(small).arg(binary());
        let process = Self::spawn(&mut guest, &dir);
        Self { process, dir }
    }

    fn spawn(guest: &mut Command, dir: &TempDir) -> Child {
        let socket = dir.path().join("guest.sock");
        guest.arg("--socket").arg(socket).stdin(Stdio::null()).spawn().unwrap()
    }

    /// A machine whose guest it is.
    pub(super) fn behaviour(&self) -> Behaviour {
        let agent_at = Some(self.dir.path().join("guest.sock"));
        Behaviour { agent_at, resident: true, ..Behaviour::default() }
    }

    /// Kills the process and starts it again, as a service's restart does.
    pub(super) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_file(self.dir.path().join("guest.sock")).unwrap();
        self.process = Self::spawn(&mut command(binary()), &self.dir);
    }

    /// A path in its directory, as the API has it.
    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for RealGuest {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The binary of this build: `cargo test -p inn-node` alone does not build
/// another package's, and one of an earlier build may be stale.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = command(Path::new(&cargo))
            .args(["build", "--quiet", "--package", "inn-guest", "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "cargo could not build inn-guest");
        target.join("debug/inn-guest")
    })
}

#[expect(clippy::disallowed_methods, reason = "a test starts the program it tests")]
fn command(program: &Path) -> Command {
    Command::new(program)
}
