//! A libvirtd of the test's own, in namespaces of its own: `scripts/libvirtd`,
//! with Debian's packages unpacked below INN_TEST_LIBVIRT.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{Exit, Process, ProcessIdentity, Signal, SpawnSpec, Spawner};
use inn_vmm_libvirt::{LibvirtRuntime, Settings};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// Far beyond a start on a loaded host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

const RETRY: Duration = Duration::from_millis(20);

/// Where Debian's packages have libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What the script ends with where it may not make its namespaces.
const NOT_PERMITTED: i32 = 3;

pub(crate) struct Libvirtd {
    root: PathBuf,
    dir: TempDir,
    spawner: Spawner,
    process: Process,
}

impl Libvirtd {
    /// Says aloud why a test cannot run here.
    pub(crate) async fn for_test(name: &str) -> Option<Self> {
        let skip = |why: &str| println!("SKIPPED {name}: {why}");
        let Some(root) = std::env::var_os("INN_TEST_LIBVIRT") else {
            skip("INN_TEST_LIBVIRT names no unpacked libvirt");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            skip("only root may make a libvirtd its namespaces");
            return None;
        }
        let root = PathBuf::from(root);
        let dir = tempfile::tempdir().unwrap();
        let spawner = Spawner::start().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/libvirtd");
        let log = File::create(dir.path().join("log")).unwrap();
        let spec = SpawnSpec::new(script, log).args([root.as_path(), dir.path()]).leased(true);
        let process = spawner.spawn(spec).await.unwrap();
        let libvirtd = Self { root, dir, spawner, process };
        let answers = async {
            while libvirtd.virsh(&["version"]).await.is_err() {
                sleep(RETRY).await;
            }
        };
        tokio::select! {
            answers = timeout(PATIENCE, answers) => answers.expect("libvirtd answers"),
            exit = libvirtd.process.wait() => match exit.unwrap() {
                Exit::Status(status) if status.code() == Some(NOT_PERMITTED) => {
                    skip("the host lets nobody make namespaces and mounts");
                    return None;
                }
                exit => panic!("libvirtd's script: {exit:?}: {}", libvirtd.log()),
            },
        }
        Some(libvirtd)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock/libvirt-sock")
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            uri: format!("qemu+unix:///system?socket={}", self.socket().display()),
            library_dir: Some(self.root.join(LIBRARIES)),
            ..Settings::default()
        }
    }

    pub(crate) fn runtime(&self) -> LibvirtRuntime {
        let writer = env!("CARGO_BIN_EXE_inn-libvirt-log-writer");
        LibvirtRuntime::with_log_writer(self.settings(), writer.into()).unwrap()
    }

    /// What it prints, or what it complains about.
    pub(crate) async fn virsh(&self, args: &[&str]) -> Result<String, String> {
        let output = self.dir.path().join(format!("virsh-{}", args[0]));
        let spec = SpawnSpec::new("/usr/bin/env", File::create(&output).unwrap())
            .args([format!("LD_LIBRARY_PATH={}", self.root.join(LIBRARIES).display())])
            .args([self.root.join("usr/bin/virsh")])
            .args(["-c".to_owned(), self.settings().uri])
            .args(args)
            .leased(true);
        let process = self.spawner.spawn(spec).await.unwrap();
        let exit = timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
        let said = std::fs::read_to_string(output).unwrap();
        match exit {
            Exit::Status(status) if status.success() => Ok(said),
            _ => Err(said),
        }
    }

    /// Not the script: the daemon that listens now.
    pub(crate) async fn daemon(&self) -> Process {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = UnixStream::connect(self.socket()) {
                let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
                let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap();
                if let Ok(identity) = ProcessIdentity::of_pid(pid)
                    && let Ok(process) = Process::open(&identity)
                {
                    return process;
                }
            }
            assert!(Instant::now() < deadline, "nobody listens: {}", self.log());
            sleep(RETRY).await;
        }
    }

    /// Ends the daemon; the script starts another.
    pub(crate) async fn restart(&self) {
        let daemon = self.daemon().await;
        daemon.kill(Signal::KILL).unwrap();
        timeout(PATIENCE, daemon.wait()).await.unwrap().unwrap();
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        // Takes all of its namespace along.
        let _ = self.process.kill(Signal::KILL);
    }
}
