//! One QEMU process, watched by a task of its own.
//!
//! ```text
//!              SHUTDOWN, GUEST_PANICKED
//!   Watching ─────────────────────────────▶ Ending ──quit─▶ SIGTERM ─▶ SIGKILL ─▶ Ended
//!      │  ▲            kill()                 ▲                                    ▲
//!      │  └─ QMP lost: connect again          │                                    │
//!      ├──────────────────────────────────────┘                                    │
//!      └─ the process has ended by itself ─────────────────────────────────────────┘
//! ```
//!
//! The task owns the one QMP connection that QEMU accepts. Dropping the
//! [`QemuMachine`] aborts the task and closes the connection, which leaves the
//! machine running, or paused after its end, for the next life to adopt.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{Exit, Process, Signal};
use inn_host::socket;
use inn_units::VmId;
use inn_vmm::{Lifetime, Machine, MachineEnd, MachineIdentity, read_tail};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::args::TRACE_LOG;
use crate::end;
use crate::qmp::{Event, Qmp, QmpError};

/// For an answer from a QEMU that is well.
const ANSWER: Duration = Duration::from_secs(2);

/// For QEMU's end after it has agreed to it: it flushes its disks first.
const FLUSH: Duration = Duration::from_secs(10);

/// For QEMU's end after SIGTERM.
const TERM: Duration = Duration::from_secs(2);

/// After which `kill` gives up on a process that even SIGKILL does not end.
const KILL: Duration = Duration::from_secs(60);

/// Between two attempts to reach a QEMU whose QMP connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);

/// How much of a log is read to explain an end.
const LAST_WORDS: usize = 8 << 10;

#[derive(Debug)]
pub struct QemuMachine {
    identity: MachineIdentity,
    files: Files,
    kill: watch::Sender<bool>,
    end: watch::Receiver<Option<MachineEnd>>,
    task: JoinHandle<()>,
}

/// What a machine has in its run directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    run_dir: PathBuf,
}

pub(crate) type Control = Qmp<UnixStream>;

impl QemuMachine {
    /// Starts to watch; `known` is how it ended, if it has already.
    pub(crate) fn watch(
        identity: MachineIdentity,
        watched: Watched,
        known: Option<MachineEnd>,
    ) -> Self {
        let files = watched.files.clone();
        let (kill, kill_requested) = watch::channel(false);
        let (end_sender, end) = watch::channel(None);
        let task = Task { watched, kill_requested, end: end_sender };
        Self { identity, files, kill, end, task: tokio::spawn(task.run(known)) }
    }
}

impl Machine for QemuMachine {
    fn identity(&self) -> &MachineIdentity {
        &self.identity
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.agent()).await
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.console()).await
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
                io::ErrorKind::TimedOut,
                format!("QEMU (pid {}) is still there after SIGKILL", self.identity.pid),
            )),
        }
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Files {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned() }
    }

    pub(crate) fn qmp(&self) -> PathBuf {
        self.run_dir.join("qmp.sock")
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.run_dir.join("console.sock")
    }

    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }

    /// Tells a later life where the console's log is.
    pub(crate) fn link_console_log(&self, log: &Path) -> io::Result<()> {
        socket::remove(&self.console_link())?;
        symlink(log, self.console_link())
    }

    fn console_link(&self) -> PathBuf {
        self.run_dir.join("console.log")
    }

    fn console_tail(&self) -> Vec<u8> {
        // Whatever is not there explains nothing.
        std::fs::read_link(self.console_link())
            .and_then(|log| read_tail(&log, LAST_WORDS))
            .unwrap_or_default()
    }

    fn trace_tail(&self) -> Vec<u8> {
        read_tail(&self.run_dir.join(TRACE_LOG), LAST_WORDS).unwrap_or_default()
    }

    /// QEMU's last words.
    pub(crate) fn vmm_last_lines(&self) -> Vec<String> {
        const LINES: usize = 20;
        let tail = read_tail(&self.vmm_log(), LAST_WORDS).unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let mut lines: Vec<String> = text.lines().rev().take(LINES).map(str::to_owned).collect();
        lines.reverse();
        lines
    }

    pub(crate) fn remove_sockets(&self) {
        for path in [self.qmp(), self.agent(), self.console(), self.console_link()] {
            if let Err(error) = socket::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a socket stays behind");
            }
        }
    }
}

/// A running QEMU and the way to it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) id: VmId,
    pub(crate) process: Process,
    pub(crate) files: Files,
    pub(crate) control: Option<Control>,
    pub(crate) lifetime: Lifetime,
}

struct Task {
    watched: Watched,
    kill_requested: watch::Receiver<bool>,
    end: watch::Sender<Option<MachineEnd>>,
}

impl Task {
    async fn run(mut self, known: Option<MachineEnd>) {
        let end = match known {
            Some(end) => end,
            None => self.watch().await,
        };
        self.finish().await;
        let end = end::with_console(end, &self.watched.files.console_tail());
        self.watched.files.remove_sockets();
        tracing::debug!(vm = %self.watched.id, ?end, "the machine has ended");
        self.end.send_replace(Some(end));
    }

    async fn watch(&mut self) -> MachineEnd {
        loop {
            let Watched { control, process, .. } = &mut self.watched;
            let connected = control.is_some();
            let event = async {
                match control {
                    Some(qmp) => qmp.next_event().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Only looks at a value.
                () = requested(&mut self.kill_requested) => return MachineEnd::Killed,
                // `next_event` keeps what it has read.
                event = event => match event {
                    Ok(Event::Shutdown { reason }) => return end::of_reason(&reason),
                    Ok(Event::GuestPanicked) => return MachineEnd::Panicked,
                    Err(error) => {
                        tracing::debug!(vm = %self.watched.id, %error, "QMP connection lost");
                        self.watched.control = None;
                    }
                },
                // Only polls a descriptor.
                exit = process.wait() => match exit {
                    Ok(exit) => return self.died(exit),
                    Err(error) => {
                        // Out of descriptors, most likely: look again later.
                        tracing::warn!(vm = %self.watched.id, %error, "cannot watch QEMU's process");
                        tokio::time::sleep(RECONNECT).await;
                    }
                },
                // A new connection is tried for after the wait, not within it.
                () = tokio::time::sleep(RECONNECT), if !connected => {
                    if let Some(end) = self.reconnect().await {
                        return end;
                    }
                }
            }
        }
    }

    /// The end that came about while nobody was connected, if one did.
    async fn reconnect(&mut self) -> Option<MachineEnd> {
        match connect(&self.watched.files, self.watched.id, ANSWER).await {
            Ok((control, end)) => {
                self.watched.control = Some(control);
                end
            }
            Err(error) => {
                tracing::debug!(vm = %self.watched.id, %error, "QEMU cannot be reached");
                None
            }
        }
    }

    fn died(&self, exit: Exit) -> MachineEnd {
        let how = match exit {
            Exit::Status(status) => format!("QEMU ended by itself ({status})"),
            Exit::Unknown => "QEMU ended while nobody watched".to_owned(),
        };
        let words = self.watched.files.vmm_last_lines();
        MachineEnd::Died(match words.last() {
            Some(line) => format!("{how}; its last words: {line}"),
            None => how,
        })
    }

    /// Ends QEMU, gently where its disks outlive it.
    async fn finish(&mut self) {
        let process = &self.watched.process;
        if self.watched.lifetime == Lifetime::Detached {
            if let Some(qmp) = &mut self.watched.control
                && qmp.quit(ANSWER).await.is_ok()
                && timeout(FLUSH, process.wait()).await.is_ok_and(|exit| exit.is_ok())
            {
                return;
            }
            self.signal(Signal::TERM);
            if timeout(TERM, process.wait()).await.is_ok_and(|exit| exit.is_ok()) {
                return;
            }
        }
        // Its disks are raw files in the page cache: nothing of what the guest
        // has written is lost with the process.
        self.signal(Signal::KILL);
        while let Err(error) = process.wait().await {
            tracing::warn!(vm = %self.watched.id, %error, "cannot watch QEMU's process");
            tokio::time::sleep(RECONNECT).await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.watched.process.kill(signal) {
            tracing::warn!(vm = %self.watched.id, %error, "cannot signal QEMU");
        }
    }
}

/// Resolves once the value is true, never if nobody is left to set it.
async fn requested(kill: &mut watch::Receiver<bool>) {
    if kill.wait_for(|kill| *kill).await.is_err() {
        std::future::pending().await
    }
}

/// Connects to the QEMU that is to be `id`'s and asks how it is.
pub(crate) async fn connect(
    files: &Files,
    id: VmId,
    deadline: Duration,
) -> Result<(Control, Option<MachineEnd>), QmpError> {
    let stream = socket::connect(&files.qmp()).await?;
    let mut control = Qmp::handshake(stream, deadline).await?;
    let name = control.query_name(deadline).await?;
    if name.as_deref() != Some(crate::args::machine_name(id).as_str()) {
        return Err(QmpError::Garbled(format!("it calls itself {name:?}")));
    }
    let status = control.query_status(deadline).await?;
    let end = end::of_status(&status, &files.trace_tail());
    Ok((control, end))
}
