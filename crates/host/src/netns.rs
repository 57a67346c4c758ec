//! Network namespaces of one's own, for tests and measurements: nothing in
//! them touches the machine's network, and what is left in one goes with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Goes with the last thread, program and socket in it, once this is dropped.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// Needs CAP_SYS_ADMIN. Its loopback is down.
    #[allow(unsafe_code)]
    pub fn make() -> io::Result<Self> {
        let made = thread::spawn(|| {
            // SAFETY: descriptors stay shared, UnshareFlags::FILES is not among
            // the flags; the namespace becomes this one thread's (unshare(2)),
            // which ends here.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        });
        made.join().map_err(|_| io::Error::other("its thread ended early"))?.map(Self)
    }

    /// On a thread in it. Sockets, threads and programs that are made there stay
    /// in it, wherever they are used. What panics there does so here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.as_fd(), kind).expect("it is a namespace");
                work()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Where programs find it, as long as this process has it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Whether it has an interface of this name.
    pub fn has_interface(&self, name: &str) -> bool {
        self.run(|| {
            let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let of = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
            table.lines().filter_map(of).any(|found| found == name)
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
