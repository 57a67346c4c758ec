//! A host without a node, whose guest is a service in namespaces of its own:
//! its hostname, network and mounts are not this machine's.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inn_guest_proto::wire::{Failure, Hello, Request, end::Outcome, request::Kind};
use inn_guest_proto::{Host, HostEvent};
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;

/// No verdict on speed: only a hang is this slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the guest finds where it looks, and its namespaces. /run is new, so
/// that nothing of this machine's is taken for its own.
const ENTER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount --bind "$DIR/etc" /etc
mount --bind "$DIR/root" /root
mount --bind "$DIR/block" /sys/block
mount --bind "$DIR/sbin" /usr/local/sbin
ip link set lo up
ip link add inn0 type veth peer name inn1
ip addr add 10.7.0.2/24 dev inn0
ip link set inn0 up
ip link set inn1 up
ip route add default via 10.7.0.1
exec "$GUEST" --port "$PORT"
"#;

/// Whether this machine lets us make one.
pub(crate) fn can_enter() -> bool {
    let unshared = Command::new("unshare").args(["-m", "-u", "-n", "true"]).status();
    let can = rustix::process::getuid().is_root() && unshared.is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: only root has namespaces to give");
    }
    can
}

pub(crate) struct Guest {
    process: Child,
    pub(crate) dir: tempfile::TempDir,
    port: File,
    host: Host,
    pub(crate) hello: Option<Hello>,
    /// Keeps the terminal from hanging up.
    _theirs: OwnedFd,
}

impl Guest {
    /// `prepare` fills the folders that become /etc, /root, /sys/block and the first
    /// one of PATH, /usr/local/sbin.
    pub(crate) fn start(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["etc", "root", "block", "sbin"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        prepare(dir.path());
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let port = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&port).unwrap();
        let theirs = rustix::pty::ioctl_tiocgptpeer(&port, flags).unwrap();
        let mut raw = rustix::termios::tcgetattr(&theirs).unwrap();
        raw.make_raw();
        rustix::termios::tcsetattr(&theirs, OptionalActions::Now, &raw).unwrap();
        let name = rustix::pty::ptsname(&port, Vec::new()).unwrap();
        let process = Command::new("unshare")
            .args(["-m", "-u", "-n", "sh", "-c", ENTER])
            .env("DIR", dir.path())
            .env("PORT", name.to_str().unwrap())
            .env("GUEST", env!("CARGO_BIN_EXE_inn-guest"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let host = Host::new([7; 16], "test");
        let mut guest =
            Self { process, dir, port: port.into(), host, hello: None, _theirs: theirs };
        guest.until(|event| matches!(event, HostEvent::Hello { .. }).then_some(()));
        guest
    }

    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.dir.path().join("etc").join(name)
    }

    /// What a program says in the guest's namespaces.
    pub(crate) fn inside(&self, line: &str) -> String {
        let pid = self.process.id().to_string();
        let output = Command::new("nsenter")
            .args(["-t", &pid, "-m", "-u", "-n", "sh", "-c", line])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Until a line says so: what the guest does by itself has no other sign.
    pub(crate) fn until_inside(&self, line: &str, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let said = self.inside(line);
            if wanted(&said) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{line}: {said}");
        }
    }

    pub(crate) fn ask(&mut self, kind: Kind) -> Outcome {
        let asked = self.host.open(Request { kind: Some(kind) }).unwrap();
        let end = self.until(|event| match event {
            HostEvent::End { stream, end } if *stream == asked => Some(end.clone()),
            _ => None,
        });
        end.outcome.unwrap()
    }

    pub(crate) fn refuses(&mut self, kind: Kind) -> Failure {
        match self.ask(kind) {
            Outcome::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn until<T>(&mut self, mut wanted: impl FnMut(&HostEvent) -> Option<T>) -> T {
        loop {
            while !self.host.output().is_empty() {
                let written = self.port.write(self.host.output()).unwrap();
                self.host.wrote(written);
            }
            while let Some(event) = self.host.next_event().unwrap() {
                if let HostEvent::Hello { hello, .. } = &event {
                    self.hello = Some(hello.clone());
                }
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
            let mut ready = [rustix::event::PollFd::new(&self.port, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec {
                tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(),
                tv_nsec: 0,
            };
            assert_eq!(rustix::event::poll(&mut ready, Some(&limit)).unwrap(), 1, "it is silent");
            let mut buffer = [0; 16 * 1024];
            let count = self.port.read(&mut buffer).unwrap();
            self.host.input().extend_from_slice(&buffer[..count]);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A file as a block device.
pub(crate) struct Disk {
    pub(crate) node: PathBuf,
    file: PathBuf,
}

impl Disk {
    /// `None` where the machine has no loop devices.
    pub(crate) fn new(dir: &Path, name: &str, size: u64) -> Option<Self> {
        let file = dir.join(name);
        File::create(&file).unwrap().set_len(size).unwrap();
        let output = Command::new("losetup").args(["-f", "--show"]).arg(&file).output().unwrap();
        let node = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        if node.is_empty() {
            eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self { node: node.into(), file })
    }

    pub(crate) fn grow(&self, size: u64) {
        File::options().write(true).open(&self.file).unwrap().set_len(size).unwrap();
        let status = Command::new("losetup").arg("-c").arg(&self.node).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("losetup").arg("-d").arg(&self.node).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}
