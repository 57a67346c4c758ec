//! A libvirtd of a test's own, in namespaces of its own (`scripts/libvirtd`), from
//! the packages that INN_TEST_LIBVIRT has.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Where Debian's packages have libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

#[derive(Debug)]
pub struct Libvirtd {
    root: PathBuf,
    /// The test's own.
    pub dir: PathBuf,
    uri: String,
    /// By which root reaches it, too.
    reach: String,
    script: Child,
    /// Of one that is nobody else's.
    _own: Option<tempfile::TempDir>,
}

/// What not every libvirtd has.
#[derive(Debug, Default)]
pub struct Extra<'a> {
    /// Whose session it is.
    pub user: Option<u32>,
    /// Where more of the distribution's packages were unpacked.
    pub packages: Option<&'a Path>,
}

impl Libvirtd {
    pub fn start() -> Result<Self, String> {
        Self::start_with(Extra::default())
    }

    pub fn start_with(extra: Extra<'_>) -> Result<Self, String> {
        let own = tempfile::tempdir().unwrap();
        let socket = own.path().join("sock/libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let dir = own.path().to_owned();
        Self::of(dir, uri.clone(), uri, extra, Some(own))
    }

    /// The session's, of a user whose home and runtime directory are in `dir`.
    pub fn of_user(dir: &Path, uid: u32) -> Result<Self, String> {
        let socket = dir.join("run/libvirt/libvirt-sock");
        let reach = format!("qemu+unix:///session?socket={}", socket.display());
        let extra = Extra { user: Some(uid), ..Extra::default() };
        Self::of(dir.to_owned(), "qemu:///session".to_owned(), reach, extra, None)
    }

    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    fn of(
        dir: PathBuf,
        uri: String,
        reach: String,
        extra: Extra<'_>,
        own: Option<tempfile::TempDir>,
    ) -> Result<Self, String> {
        let root = std::env::var_os("INN_TEST_LIBVIRT").ok_or("INN_TEST_LIBVIRT names nothing")?;
        let root = PathBuf::from(root);
        if !rustix::process::geteuid().is_root() {
            return Err("only root may make a libvirtd its namespaces".to_owned());
        }
        let log = fs::File::create(dir.join("log")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/libvirtd");
        let script = Command::new(script)
            .args([root.as_path(), &dir])
            .args(extra.user.map(|uid| uid.to_string()))
            .env("LIBVIRTD_ALSO", extra.packages.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut libvirtd = Self { root, dir, uri, reach, script, _own: own };
        wait::until("libvirtd answers", || match libvirtd.script.try_wait().unwrap() {
            Some(status) if status.code() == Some(3) => Some(Err("no namespaces here".to_owned())),
            Some(status) => panic!("libvirtd's script ended with {status}"),
            None => libvirtd.virsh(&["version"]).map(|_| Ok(())),
        })?;
        Ok(libvirtd)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock/libvirt-sock")
    }

    /// What it prints, if it succeeds.
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    pub fn virsh(&self, args: &[&str]) -> Option<String> {
        let output = Command::new(self.root.join("usr/bin/virsh"))
            .env("LD_LIBRARY_PATH", self.root.join(LIBRARIES))
            .args(["-c", &self.reach])
            .args(args)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// What an agent needs to know of it.
    pub fn config(&self) -> String {
        let libraries = self.root.join(LIBRARIES);
        format!("[runtimes.libvirt]\nuri = '{}'\nlibraries = '{}'\n", self.uri, libraries.display())
    }

    pub fn domains(&self) -> String {
        self.virsh(&["list", "--all", "--name"]).unwrap().trim().to_owned()
    }

    /// Ends the daemon; the script starts another.
    pub fn restart(&self) {
        let before = self.daemon().expect("it listens");
        kill_process(before, Signal::KILL).unwrap();
        wait::until("another libvirtd", || self.daemon().filter(|after| *after != before));
    }

    /// The process that listens now.
    fn daemon(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        socket_peercred(&stream).ok().map(|peer| peer.pid)
    }

    /// A file or directory as it has it.
    pub fn sees(&self, path: &str) -> PathBuf {
        let daemon = self.daemon().expect("it listens").as_raw_nonzero();
        PathBuf::from(format!("/proc/{daemon}/root{path}"))
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
