//! One thread that starts long-lived processes and reaps them.
//!
//! ```text
//!   Spawner::spawn ──request──▶ thread "spawner" ──fork──▶ child
//!        ▲                        │   ▲                      │
//!        └───────Process──────────┘   └──────pidfd readable──┘ reaped: the status
//!                                                               goes to its Process
//! ```
//!
//! One thread, because PR_SET_PDEATHSIG follows the parent *thread*
//! (prctl(2)): spawned from a pool, a leased machine would die whenever the
//! pool lets a thread go. The thread ends once no handle and no child is left.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use inn_fail_point::{Point, fail_point};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::identity::Process;
use super::{Signal, SpawnSpec};

/// Requests in flight: each waits for one fork, about a millisecond, so more
/// would only hide that the host is not keeping up.
const REQUESTS: usize = 32;

/// Starts processes. Clones share one thread.
#[derive(Debug, Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` only while it is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    wake: OwnedFd,
}

#[derive(Debug)]
struct Request {
    spec: SpawnSpec,
    /// Keeps the thread alive as long as the process's handle is.
    spawner: Spawner,
    reply: oneshot::Sender<io::Result<Unclaimed>>,
}

impl Spawner {
    pub fn start() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let thread = Thread { inbox, wake: wake.try_clone()?, children: Vec::new() };
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || thread.run())?;
        Ok(Self { shared: Arc::new(Shared { requests: Some(requests), wake }) })
    }

    /// Starts a process. Cancelled, it leaves none behind.
    pub async fn spawn(&self, spec: SpawnSpec) -> io::Result<Process> {
        let gone = || io::Error::other("the thread that spawns processes is gone");
        let (reply, answer) = oneshot::channel();
        let request = Request { spec, spawner: self.clone(), reply };
        let requests = self.shared.requests.as_ref().ok_or_else(gone)?;
        requests.send(request).await.map_err(|_| gone())?;
        self.shared.wake();
        Ok(answer.await.map_err(|_| gone())??.claim())
    }
}

impl Shared {
    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.requests.take());
        self.wake();
    }
}

/// A process on its way to the one who asked for it: killed if that one has
/// gone in the meantime.
#[derive(Debug)]
struct Unclaimed(Option<Process>);

impl Unclaimed {
    fn claim(mut self) -> Process {
        self.0.take().expect("only claimed or dropped, once")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(process) = self.0.take()
            && let Err(error) = process.kill(Signal::KILL)
        {
            tracing::warn!(pid = process.identity().pid, %error, "an unclaimed process lives on");
        }
    }
}

struct Thread {
    inbox: mpsc::Receiver<Request>,
    wake: OwnedFd,
    children: Vec<Running>,
}

struct Running {
    child: Child,
    pidfd: OwnedFd,
    exit: watch::Sender<Option<ExitStatus>>,
}

impl Thread {
    fn run(mut self) {
        loop {
            self.reap();
            match self.inbox.try_recv() {
                Ok(Request { spec, spawner, reply }) => {
                    let spawned = self.spawn(spec, spawner);
                    // A lost receiver drops the value, which kills the process.
                    let _ = reply.send(spawned);
                }
                Err(TryRecvError::Disconnected) if self.children.is_empty() => return,
                Err(_) => self.wait_for_news(),
            }
        }
    }

    fn spawn(&mut self, spec: SpawnSpec, spawner: Spawner) -> io::Result<Unclaimed> {
        let mut child = spec.start()?;
        fail_point(Point::HostSpawned);
        let (exit, exited) = watch::channel(None);
        let opened = Process::of_child(child.id(), exited, spawner)
            .and_then(|process| Ok((process.pidfd().try_clone_to_owned()?, process)));
        match opened {
            Ok((pidfd, process)) => {
                self.children.push(Running { child, pidfd, exit });
                Ok(Unclaimed(Some(process)))
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Blocks until a request or a child's end. With no handle left, `wake`
    /// stays silent and only the children are waited for.
    fn wait_for_news(&self) {
        let mut fds: Vec<PollFd<'_>> = std::iter::once(self.wake.as_fd())
            .chain(self.children.iter().map(|c| c.pidfd.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "cannot wait for child processes");
                // Out of memory in the kernel: anything but a busy loop.
                let a_while = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                let _ = poll(&mut [], Some(&a_while));
            }
        }
        // Resets the counter; empty when it was a child that woke us.
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
    }

    fn reap(&mut self) {
        self.children.retain_mut(|running| match running.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                running.exit.send_replace(Some(status));
                false
            }
            Err(error) => {
                // Somebody else reaped it; dropping `exit` tells its Process.
                tracing::warn!(pid = running.child.id(), %error, "a child's status is lost");
                false
            }
        });
    }
}
