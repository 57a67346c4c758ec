//! A network of a test's own, so that the machine's stays as it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// util-linux and iproute2 have them there; a test's own PATH may lead nowhere.
const NSENTER: &str = "/usr/bin/nsenter";
const IP: &str = "/sbin/ip";

/// Goes with the last program in it once this is dropped.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// With a loopback that is up. Needs root.
    pub fn make() -> io::Result<Self> {
        let made = thread::spawn(|| -> io::Result<OwnedFd> {
            #[expect(
                deprecated,
                reason = "its safe form; a network is shared with no other thread"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let netns = Self(made.join().expect("it does not panic")?);
        netns.program(IP, &["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// What has a program run in it: `nsenter` and its arguments.
    pub fn entrance(&self) -> (&'static str, Vec<String>) {
        (NSENTER, vec![format!("--net={}", self.path()), "--".to_owned()])
    }

    /// Where programs find it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// On a thread in it; sockets stay in it afterwards.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.0.as_fd(), kind).expect("it is a namespace");
                work()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// What it prints; it has to succeed.
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    pub fn program(&self, program: &str, args: &[&str]) -> io::Result<String> {
        let (nsenter, before) = self.entrance();
        let output = Command::new(nsenter).args(before).arg(program).args(args).output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("{program} {args:?}: {error}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
