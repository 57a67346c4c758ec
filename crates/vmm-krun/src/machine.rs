//! One helper and its machine, watched by a task of its own.
//!
//! ```text
//!              its VMM has ended
//!   Watching ─────────────────────▶ Ending ──quit─▶ SIGKILL ─▶ Ended
//!      │  ▲            kill()         ▲                          ▲
//!      │  └─ connection lost: again   │                          │
//!      ├──────────────────────────────┘                          │
//!      └─ the helper has ended by itself ────────────────────────┘
//! ```
//!
//! Dropping the [`KrunMachine`] aborts the task and leaves the machine running,
//! or its helper waiting after its end, for the next life to adopt.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::time::Duration;

use inn_host::process::{Exit, OpenError, Process, ProcessIdentity, Signal};
use inn_host::socket;
use inn_units::{Bytes, VmId};
use inn_vmm::{Forward, Forwarded, Machine, MachineEnd, MachineIdentity, Saved, SavedAhead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::end;
use crate::files::Files;
use crate::protocol::{LONGEST_REPORT, PORT, PROGRAM, QUIT, Report, VmmEnd};
use crate::reap;

/// For the helper's end after it was told to: it empties the console's pipe
/// first.
const QUITTING: Duration = Duration::from_secs(10);

/// For what is still in the pipes to reach the logs, when nobody fills them any
/// more: some MiB at most, but a disk may be slow.
const DRAIN: Duration = Duration::from_secs(10);

/// After which `kill` gives up on processes that even SIGKILL does not end.
const KILL: Duration = Duration::from_secs(90);

/// Between two attempts to reach a helper whose connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct KrunMachine {
    identity: MachineIdentity,
    files: Files,
    kill: watch::Sender<bool>,
    end: watch::Receiver<Option<MachineEnd>>,
    task: JoinHandle<()>,
}

impl KrunMachine {
    /// Starts to watch; `known` is how its VMM ended, if it has already.
    pub(crate) fn watch(
        identity: MachineIdentity,
        watched: Watched,
        known: Option<VmmEnd>,
    ) -> Self {
        let files = watched.files.clone();
        let (kill, kill_requested) = watch::channel(false);
        let (end_sender, end) = watch::channel(None);
        let task = Task { watched, kill_requested, end: end_sender };
        let task = tokio::spawn(task.run(known));
        Self { identity, files, kill, end, task }
    }

    fn refused<T>(&self, what: &str) -> io::Result<T> {
        let error = match self.end.borrow().is_some() {
            true => io::Error::new(ErrorKind::NotConnected, "the machine has ended"),
            false => io::Error::new(ErrorKind::Unsupported, format!("libkrun has no {what}")),
        };
        Err(error)
    }
}

impl Machine for KrunMachine {
    fn identity(&self) -> &MachineIdentity {
        &self.identity
    }

    /// libkrun accepts before its guest does, and hangs up where that refuses.
    async fn connect_channel(&self) -> io::Result<UnixStream> {
        if self.end.borrow().is_some() {
            return Err(io::Error::new(ErrorKind::NotConnected, "the machine has ended"));
        }
        socket::connect(&self.files.vsock()).await.map_err(|error| match error.kind() {
            // The socket comes with the guest's driver.
            ErrorKind::NotFound => io::Error::new(
                ErrorKind::ConnectionRefused,
                format!("nobody listens at the guest's vsock port {PORT} yet"),
            ),
            _ => error,
        })
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.console()).await
    }

    async fn set_vnc_password(&self, _password: &str) -> io::Result<()> {
        self.refused("screens")
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        self.refused("screens")
    }

    async fn resize_disk(&self, _serial: &str, _size: Bytes) -> io::Result<()> {
        self.refused("way to tell a running guest that a disk has grown")
    }

    async fn press_power_button(&self) -> io::Result<()> {
        self.refused("power button")
    }

    async fn set_forwards(&self, _forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        self.refused("network of its own whose ports could be forwarded")
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        self.refused("network of its own whose ports could be forwarded")
    }

    async fn pause(&self) -> io::Result<()> {
        self.refused("pause")
    }

    async fn resume(&self) -> io::Result<()> {
        // It runs, as it was asked to.
        if self.end.borrow().is_some() { self.refused("resume") } else { Ok(()) }
    }

    async fn save_after(&self, _ahead: Option<SavedAhead>) -> io::Result<Saved> {
        self.refused("snapshots")
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        Ok(None)
    }

    async fn wait(&self) -> MachineEnd {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        ended.unwrap_or_else(|| MachineEnd::Died("nobody watched it to its end".to_owned()))
    }

    async fn kill(&self) -> io::Result<()> {
        self.kill.send_replace(true);
        match timeout(KILL, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("{PROGRAM} (pid {}) is still there after SIGKILL", self.identity.pid),
            )),
        }
    }
}

impl Drop for KrunMachine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn open(identity: &MachineIdentity) -> Result<Process, OpenError> {
    Process::open(&ProcessIdentity {
        pid: identity.pid,
        start_ticks: identity.start_ticks,
        host_boot_id: identity.host_boot_id.clone(),
    })
}

/// Waits until the logs are complete. For when all that fill them have ended.
pub(crate) async fn complete(writer: &Process) {
    let error = match timeout(DRAIN, writer.wait()).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error,
        Err(elapsed) => elapsed.into(),
    };
    let pid = writer.identity().pid;
    tracing::warn!(pid, %error, "a log writer does not end by itself and is ended");
    if let Err(error) = writer.kill(Signal::KILL) {
        tracing::warn!(pid, %error, "a log writer lives on");
    }
}

/// A connection to a helper.
#[derive(Debug)]
pub(crate) struct Control {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Control {
    /// Where a pid is given, whoever listens has to have it: unix(7),
    /// SO_PEERCRED, as of its listen(2).
    pub(crate) async fn connect(files: &Files, pid: Option<u32>) -> io::Result<Self> {
        let stream = socket::connect(&files.control()).await?;
        let peer = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if pid.is_some() && peer != pid {
            return Err(io::Error::other(format!("another process ({peer:?}) has its socket")));
        }
        Ok(Self { stream, read: Vec::new() })
    }

    /// Cancel safe: what was read stays.
    pub(crate) async fn next(&mut self) -> io::Result<Report> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            if self.read.len() > LONGEST_REPORT {
                return Err(io::Error::other("it says more than a report has"));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn quit(&mut self) -> io::Result<()> {
        self.stream.write_all(QUIT).await
    }
}

/// A helper that runs and the way to it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) id: VmId,
    pub(crate) process: Process,
    /// All of the machine's, the helper among them.
    pub(crate) others: Vec<Process>,
    /// Its log writer, if that one lives.
    pub(crate) logs: Option<Process>,
    pub(crate) files: Files,
    pub(crate) control: Option<Control>,
}

/// How a watch is over.
enum Seen {
    Killed,
    Vmm(VmmEnd),
    Helper(Exit),
}

struct Task {
    watched: Watched,
    kill_requested: watch::Receiver<bool>,
    end: watch::Sender<Option<MachineEnd>>,
}

impl Task {
    async fn run(mut self, known: Option<VmmEnd>) {
        let seen = match known {
            Some(end) => Seen::Vmm(end),
            None => self.watch().await,
        };
        self.finish().await;
        if let Some(writer) = &self.watched.logs {
            complete(writer).await;
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
                    Ok(Report { end: Some(end), .. }) => return Seen::Vmm(end),
                    Ok(Report { end: None, .. }) => {}
                    Err(error) => {
                        tracing::debug!(vm = %self.watched.id, %error, "its helper's socket");
                        self.watched.control = None;
                    }
                },
                // Only polls a descriptor.
                exit = process.wait() => match exit {
                    Ok(exit) => return Seen::Helper(exit),
                    Err(error) => {
                        // Out of descriptors, most likely: look again later.
                        tracing::warn!(vm = %self.watched.id, %error, "cannot watch its helper");
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
                tracing::debug!(vm = %self.watched.id, %error, "its helper cannot be reached");
            }
            Err(_) => tracing::debug!(vm = %self.watched.id, "its helper does not answer"),
        }
    }

    /// Nothing of what the guest has written is lost with the VMM: its disks
    /// are raw files in the page cache.
    async fn finish(&mut self) {
        let Watched { id, process, others, control, .. } = &mut self.watched;
        if let Some(control) = control
            && control.quit().await.is_ok()
            && timeout(QUITTING, process.wait()).await.is_ok_and(|exit| exit.is_ok())
        {
            // Its VMM was its child, and is reaped with it.
            tracing::debug!(vm = %id, "its helper has quit");
        }
        for process in others.iter().chain([&*process]) {
            if let Err(error) = process.kill(Signal::KILL) {
                tracing::warn!(vm = %id, %error, "cannot signal its helper");
            }
        }
        for process in others.iter().chain([&*process]) {
            while let Err(error) = reap::ended(process).await {
                tracing::warn!(vm = %id, %error, "cannot watch its helper");
                sleep(RECONNECT).await;
            }
        }
    }

    fn explain(&self, seen: &Seen) -> MachineEnd {
        let words = self.watched.files.last_lines();
        let words = words.last().map(String::as_str);
        match seen {
            Seen::Killed => MachineEnd::Killed,
            Seen::Vmm(end) => end::of(*end, &self.watched.files.console_tail(), words),
            Seen::Helper(exit) => {
                let how = match exit {
                    Exit::Status(status) => format!("{PROGRAM} ended by itself ({status})"),
                    Exit::Unknown => format!("{PROGRAM} ended while nobody watched"),
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
