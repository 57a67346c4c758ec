//! Network namespaces of one's own, for tests and measurements: nothing in
//! them touches the machine's network, and what is left in one goes with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// One job at a time, as its one thread works.
const JOBS: usize = 1;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and a thread that is in it. Sockets and programs that
/// its jobs make are in it, wherever they are used.
#[derive(Debug)]
pub struct Netns {
    file: File,
    jobs: SyncSender<Job>,
}

impl Netns {
    /// Needs CAP_SYS_ADMIN.
    #[allow(unsafe_code)]
    pub fn make() -> io::Result<Self> {
        let (made, ready) = sync_channel(1);
        let (jobs, work) = sync_channel::<Job>(JOBS);
        thread::Builder::new().name("netns".to_owned()).spawn(move || {
            // SAFETY: descriptors stay shared, UnshareFlags::FILES is not among
            // the flags; the namespace becomes this one thread's (unshare(2)).
            let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(io::Error::from)
                .and_then(|()| File::open("/proc/thread-self/ns/net"));
            // Whoever waits for it is the caller, below.
            let _ = made.send(entered);
            for job in work {
                job();
            }
        })?;
        let file = ready.recv().map_err(io::Error::other)??;
        Ok(Self { file, jobs })
    }

    /// Runs a job on its thread, and waits for it. A job that panics does so
    /// here.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = sync_channel(1);
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = done.send(outcome);
        };
        self.jobs.send(Box::new(job)).expect("its thread waits for jobs");
        match result.recv().expect("its thread answers every job") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Whether it has an interface of this name.
    pub fn has_interface(&self, name: &str) -> bool {
        let name = name.to_owned();
        self.run(move || {
            let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let of = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
            table.lines().filter_map(of).any(|found| found == name)
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
