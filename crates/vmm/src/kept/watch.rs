//! One keeper and its machine, watched by a task of its own.
//!
//! ```text
//!              its VMM has ended
//!   Watching ─────────────────────▶ Ending ──quit─▶ SIGKILL ─▶ Ended
//!      │  ▲            kill()         ▲                          ▲
//!      │  └─ connection lost: again   │                          │
//!      ├──────────────────────────────┘                          │
//!      └─ the keeper has ended by itself ────────────────────────┘
//! ```
//!
//! Dropping the [`KeptMachine`] aborts the task and leaves the machine running,
//! or its keeper waiting after its end, for the next life to adopt.

use std::io::{self, ErrorKind};
use std::time::Duration;

use inn_host::process::{Exit, Process, Signal};
use inn_host::socket;
use inn_units::VmId;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::end::end_of;
use super::{Control, KeptFiles, Report, Said, VmmEnd, reap};
use crate::{MachineEnd, MachineIdentity, complete_logs};

/// For the keeper's end after it was told to: it empties the console's pipe
/// first.
const QUITTING: Duration = Duration::from_secs(10);

/// After which `kill` gives up on processes that even SIGKILL does not end.
const KILL: Duration = Duration::from_secs(90);

/// Between two attempts to reach a keeper whose connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct KeptMachine {
    identity: MachineIdentity,
    files: KeptFiles,
    kill: watch::Sender<bool>,
    end: watch::Receiver<Option<MachineEnd>>,
    task: JoinHandle<()>,
}

impl KeptMachine {
    /// Starts to watch; `known` is how its VMM ended, if it has already.
    pub(super) fn watch(
        identity: MachineIdentity,
        watched: Watched,
        known: Option<(VmmEnd, Option<Said>)>,
    ) -> Self {
        let files = watched.files.clone();
        let (kill, kill_requested) = watch::channel(false);
        let (end_sender, end) = watch::channel(None);
        let task = Task { watched, kill_requested, end: end_sender };
        let task = tokio::spawn(task.run(known));
        Self { identity, files, kill, end, task }
    }
}

impl KeptMachine {
    pub fn identity(&self) -> &MachineIdentity {
        &self.identity
    }

    pub fn files(&self) -> &KeptFiles {
        &self.files
    }

    /// Says that it has ended, if it has.
    pub fn must_live(&self) -> io::Result<()> {
        match self.end.borrow().is_some() {
            true => Err(io::Error::new(ErrorKind::NotConnected, "the machine has ended")),
            false => Ok(()),
        }
    }

    /// What its VMM has not.
    pub fn has_no<T>(&self, what: &str) -> io::Result<T> {
        self.must_live()?;
        let vmm = self.files.kind.vmm;
        Err(io::Error::new(ErrorKind::Unsupported, format!("{vmm} has no {what}")))
    }

    /// As [`crate::Machine::connect_console`].
    pub async fn connect_console(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.console()).await
    }

    /// As [`crate::Machine::wait`].
    pub async fn wait(&self) -> MachineEnd {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        ended.unwrap_or_else(|| MachineEnd::Died("nobody watched it to its end".to_owned()))
    }

    /// As [`crate::Machine::kill`].
    pub async fn kill(&self) -> io::Result<()> {
        self.kill.send_replace(true);
        match timeout(KILL, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(
                ErrorKind::TimedOut,
                format!(
                    "{} (pid {}) is still there after SIGKILL",
                    self.files.kind.keeper, self.identity.pid
                ),
            )),
        }
    }
}

impl Drop for KeptMachine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A keeper that runs and the way to it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) id: VmId,
    pub(super) process: Process,
    /// All of the machine's, the keeper among them.
    pub(super) others: Vec<Process>,
    /// Its log writer, if that one lives.
    pub(super) logs: Option<Process>,
    pub(super) files: KeptFiles,
    pub(super) control: Option<Control>,
}

/// How a watch is over.
enum Seen {
    Killed,
    Vmm(VmmEnd, Option<Said>),
    Keeper(Exit),
}

struct Task {
    watched: Watched,
    kill_requested: watch::Receiver<bool>,
    end: watch::Sender<Option<MachineEnd>>,
}

impl Task {
    async fn run(mut self, known: Option<(VmmEnd, Option<Said>)>) {
        let seen = match known {
            Some((end, said)) => Seen::Vmm(end, said),
            None => self.watch().await,
        };
        self.finish().await;
        if let Some(writer) = &self.watched.logs {
            complete_logs(writer).await;
        }
        let end = self.explain(&seen);
        self.watched.files.remove_sockets();
        tracing::debug!(vm = %self.watched.id, ?end, "the machine has ended");
        self.end.send_replace(Some(end));
    }

    async fn watch(&mut self) -> Seen {
        loop {
            let Watched { control, process, .. } = &mut self.watched;
            let connected = control.is_some();
            let report = async {
                match control {
                    Some(control) => control.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Only looks at a value.
                () = requested(&mut self.kill_requested) => return Seen::Killed,
                // `next` keeps what it has read.
                report = report => match report {
                    Ok(Report { end: Some(end), said, .. }) => return Seen::Vmm(end, said),
                    Ok(Report { end: None, .. }) => {}
                    Err(error) => {
                        tracing::debug!(vm = %self.watched.id, %error, "its keeper's socket");
                        self.watched.control = None;
                    }
                },
                // Only polls a descriptor.
                exit = process.wait() => match exit {
                    Ok(exit) => return Seen::Keeper(exit),
                    Err(error) => {
                        // Out of descriptors, most likely: look again later.
                        tracing::warn!(vm = %self.watched.id, %error, "cannot watch its keeper");
                        sleep(RECONNECT).await;
                    }
                },
                // A new connection is tried for after the wait, not within it.
                () = sleep(RECONNECT), if !connected => self.reconnect().await,
            }
        }
    }

    async fn reconnect(&mut self) {
        let pid = self.watched.process.identity().pid;
        match timeout(RECONNECT, Control::connect(&self.watched.files, Some(pid))).await {
            Ok(Ok(control)) => self.watched.control = Some(control),
            Ok(Err(error)) => {
                tracing::debug!(vm = %self.watched.id, %error, "its keeper cannot be reached");
            }
            Err(_) => tracing::debug!(vm = %self.watched.id, "its keeper does not answer"),
        }
    }

    /// Nothing of what the guest has written is lost with the VMM: its disks
    /// are raw files in the page cache.
    async fn finish(&mut self) {
        let Watched { id, process, others, control, files, .. } = &mut self.watched;
        let kind = files.kind;
        if let Some(control) = control
            && control.quit().await.is_ok()
            && timeout(QUITTING, process.wait()).await.is_ok_and(|exit| exit.is_ok())
        {
            // Its VMM was its child, and is reaped with it.
            tracing::debug!(vm = %id, "its keeper has quit");
        }
        for process in others.iter().chain([&*process]) {
            if let Err(error) = process.kill(Signal::KILL) {
                tracing::warn!(vm = %id, %error, "cannot signal its keeper");
            }
        }
        for process in others.iter().chain([&*process]) {
            while let Err(error) = reap::ended(kind, process).await {
                tracing::warn!(vm = %id, %error, "cannot watch its keeper");
                sleep(RECONNECT).await;
            }
        }
    }

    fn explain(&self, seen: &Seen) -> MachineEnd {
        let kind = self.watched.files.kind;
        let keeper = kind.keeper;
        let words = self.watched.files.last_lines();
        let words = words.last().map(String::as_str);
        match seen {
            Seen::Killed => MachineEnd::Killed,
            Seen::Vmm(end, said) => end_of(kind, *end, *said, words),
            Seen::Keeper(exit) => {
                let how = match exit {
                    Exit::Status(status) => format!("{keeper} ended by itself ({status})"),
                    Exit::Unknown => format!("{keeper} ended while nobody watched"),
                };
                MachineEnd::Died(match words {
                    Some(line) => format!("{how}; its last words: {line}"),
                    None => how,
                })
            }
        }
    }
}

/// Resolves once the value is true, never if nobody is left to set it.
async fn requested(kill: &mut watch::Receiver<bool>) {
    if kill.wait_for(|kill| *kill).await.is_err() {
        std::future::pending().await
    }
}
