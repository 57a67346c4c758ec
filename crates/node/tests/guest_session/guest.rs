//! An inn-guest of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use inn_node::guest::{Exec, ExecEnd, ExecEvent, ExecSpec, GuestError, GuestSession};
use inn_units::ExecId;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// No verdict on speed: only a hang is this slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the test: the process is killed and its directory removed.
pub(crate) struct TestGuest {
    process: Child,
    pub(crate) dir: TempDir,
}

impl TestGuest {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Self::spawn(&mut command(binary()), &dir);
        Self { process, dir }
    }

    fn spawn(guest: &mut Command, dir: &TempDir) -> Child {
        let socket = dir.path().join("guest.sock");
        guest.arg("--socket").arg(socket).stdin(Stdio::null()).spawn().unwrap()
    }

    /// One that finds a file system of 1 MiB at `small` in its directory, and
    /// nobody else does. As the user who runs the test, whom a user namespace
    /// lets mount it.
    pub(crate) fn start_with_small_disk() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("small");
        std::fs::create_dir(&small).unwrap();
        let script = r#"mount -t tmpfs -o size=1m small "$0" && exec "$@""#;
        let mut guest = command(Path::new("unshare"));
        guest.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(small).arg(binary());
        let process = Self::spawn(&mut guest, &dir);
        Self { process, dir }
    }

    /// Kills the process and starts it again, as a service's restart does.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_file(self.dir.path().join("guest.sock")).unwrap();
        self.process = Self::spawn(&mut command(binary()), &self.dir);
    }

    /// Waits for the socket: the process has just begun.
    pub(crate) async fn connect(&self) -> UnixStream {
        let socket = self.dir.path().join("guest.sock");
        let connected = async {
            loop {
                match UnixStream::connect(&socket).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.expect("the guest opens its socket")
    }

    pub(crate) async fn session(&self) -> GuestSession {
        let stream = self.connect().await;
        patiently(GuestSession::establish(stream)).await.expect("the guest answers")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Ends when the process ends by itself.
    pub(crate) async fn ended(&mut self) {
        let ended = async {
            while self.process.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        patiently(ended).await;
    }
}

impl Drop for TestGuest {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

pub(crate) async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it ends within a minute")
}

pub(crate) fn id(number: u8) -> ExecId {
    ExecId::from_bytes([number; ExecId::BYTES])
}

pub(crate) fn shell(number: u8, script: &str) -> ExecSpec {
    ExecSpec::new(id(number), ["sh", "-c", script].map(str::to_owned).to_vec())
}

/// Everything that an exec said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) first_offset: Option<u64>,
}

pub(crate) async fn collect(exec: &mut Exec) -> Result<(Said, ExecEnd), GuestError> {
    let mut said = Said::default();
    let mut expected = None;
    while let Some(event) = patiently(exec.next()).await? {
        let output = match event {
            ExecEvent::Started { pid, .. } | ExecEvent::RunStarted { pid, .. } => {
                assert!(pid > 1);
                continue;
            }
            ExecEvent::RunEnded { .. } | ExecEvent::InputTaken(_) => continue,
            ExecEvent::Stdout(output) => {
                said.stdout.extend_from_slice(&output.bytes);
                output
            }
            ExecEvent::Stderr(output) => {
                said.stderr.extend_from_slice(&output.bytes);
                output
            }
            ExecEvent::Exited(end) => {
                assert!(patiently(exec.next()).await?.is_none(), "nothing follows the end");
                return Ok((said, end));
            }
        };
        if let Some(expected) = expected {
            assert_eq!(output.offset, expected, "output has no holes");
        }
        said.first_offset.get_or_insert(output.offset);
        expected = Some(output.offset + output.bytes.len() as u64);
    }
    panic!("an exec without an end");
}

pub(crate) async fn run(
    session: &GuestSession,
    spec: ExecSpec,
) -> Result<(Said, ExecEnd), GuestError> {
    collect(&mut patiently(session.exec(spec)).await?).await
}

/// The binary of this build: beside the test's own, or built now.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // `cargo test -p inn-node` alone does not build another package's
        // binary, and one of an earlier build may be stale.
        let target = profile.parent().unwrap();
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
