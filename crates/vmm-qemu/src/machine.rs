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

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inn_fail_point::{Point, fail_point};
use inn_host::process::{Exit, Process, Signal};
use inn_host::socket;
use inn_units::{Bytes, VmId};
use inn_vmm::{
    ChannelKind, Forward, Forwarded, LAST_WORDS, Lifetime, Machine, MachineEnd, MachineIdentity,
    Saved, SavedAhead, complete_logs, last_lines, read_tail,
};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::args::{has_firmware, has_generation_id, node_name};
use crate::memory::Ram;
use crate::qmp::{Event, Qmp, QmpError};
use crate::{bridge, end, memory};

/// For an answer from a QEMU that is well.
const ANSWER: Duration = Duration::from_secs(2);

/// For QEMU to resize a disk: it waits for what is being written to it.
const RESIZE: Duration = Duration::from_secs(30);

/// For the disks of a guest that stands still to be flushed.
const PAUSE: Duration = Duration::from_secs(30);

/// For CPUs and devices to be written down: some 10 ms, or more where the
/// memory goes with them.
const SAVE: Duration = Duration::from_secs(60);

/// For QEMU's end after it has agreed to it: it flushes its disks first.
const FLUSH: Duration = Duration::from_secs(10);

/// For QEMU's end after SIGTERM.
const TERM: Duration = Duration::from_secs(2);

/// After which `kill` gives up on a process that even SIGKILL does not end.
const KILL: Duration = Duration::from_secs(60);

/// Between two attempts to reach a QEMU whose QMP connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);

/// Between two looks at a log for what must be on its way there.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Questions that wait for their turn on the one QMP connection:
/// each is answered in milliseconds, and a VM's owner asks one at a time.
const QUESTIONS: usize = 4;

#[derive(Debug)]
pub struct QemuMachine {
    identity: MachineIdentity,
    files: Files,
    channel: ChannelKind,
    bridge: Option<u32>,
    questions: mpsc::Sender<Question>,
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
        // Whether its process still lives or not.
        let channel = match files.vsock().exists() {
            true => ChannelKind::Vsock,
            false => ChannelKind::Serial,
        };
        let bridge = watched.bridge.as_ref().map(|process| process.identity().pid);
        let (kill, kill_requested) = watch::channel(false);
        let (end_sender, end) = watch::channel(None);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let task = Task { watched, asked, kill_requested, end: end_sender };
        let task = tokio::spawn(task.run(known));
        Self { identity, files, channel, bridge, questions, kill, end, task }
    }

    fn cmdline(&self) -> io::Result<Vec<u8>> {
        std::fs::read(format!("/proc/{}/cmdline", self.identity.pid))
    }

    /// Firmware, its tables and the screen's picture lie beside the guest's memory,
    /// and a state of devices alone has none of them: a migration has. It leaves out
    /// memory that is shared, and nothing of a private view; so a machine that goes
    /// on from a saved one is written whole.
    fn way_to_save(&self, ahead: bool) -> io::Result<(SaveWay, Option<Ram>)> {
        let has = memory::recorded(self.files.run_dir())?;
        let ram = |firmware| match firmware && !ahead {
            true => Ok(None),
            false => memory::ram_of(self.identity.pid, has),
        };
        let firmware = has_firmware(&self.cmdline()?);
        Ok(match (ram(firmware)?, firmware) {
            (Some(ram), false) => (SaveWay::Devices, Some(ram)),
            (Some(ram @ Ram::Shared(_)), true) => (SaveWay::AllButShared, Some(ram)),
            (Some(Ram::Private(_)), true) | (None, _) => (SaveWay::Whole, None),
        })
    }

    /// The size of a disk, by its serial, as QEMU has it now.
    pub async fn disk_size(&self, serial: &str) -> io::Result<Bytes> {
        let serial = serial.to_owned();
        self.ask(|answer| Question::Size { serial, answer }).await
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Question,
    ) -> io::Result<T> {
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the machine has ended");
        let (answer, answered) = oneshot::channel();
        self.questions.send(question(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// What the machine's task asks QEMU for somebody.
#[derive(Debug)]
enum Question {
    Size { serial: String, answer: oneshot::Sender<io::Result<Bytes>> },
    Resize { serial: String, size: Bytes, answer: oneshot::Sender<io::Result<()>> },
    PowerButton { answer: oneshot::Sender<io::Result<()>> },
    VncPassword { password: VncPassword, answer: oneshot::Sender<io::Result<()>> },
    Vnc { answer: oneshot::Sender<io::Result<UnixStream>> },
    Forwards { wanted: BTreeSet<Forward>, answer: oneshot::Sender<io::Result<Forwarded>> },
    Knocked { answer: oneshot::Sender<io::Result<bool>> },
    Pause { answer: oneshot::Sender<io::Result<()>> },
    Resume { answer: oneshot::Sender<io::Result<()>> },
    Save { into: File, way: SaveWay, answer: oneshot::Sender<io::Result<()>> },
}

/// What QEMU writes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SaveWay {
    /// CPUs and devices.
    Devices,
    /// Those, and all memory but the guest's own, which is copied beside it.
    AllButShared,
    /// All of it.
    Whole,
}

/// Never shown.
struct VncPassword(String);

impl std::fmt::Debug for VncPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VncPassword(..)")
    }
}

impl Machine for QemuMachine {
    fn identity(&self) -> &MachineIdentity {
        &self.identity
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        match self.channel {
            ChannelKind::Serial => socket::connect(&self.files.agent()).await,
            ChannelKind::Vsock => bridge::connect(&self.files, self.bridge).await,
        }
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.console()).await
    }

    async fn set_vnc_password(&self, password: &str) -> io::Result<()> {
        let password = VncPassword(password.to_owned());
        self.ask(|answer| Question::VncPassword { password, answer }).await
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        self.ask(|answer| Question::Vnc { answer }).await
    }

    async fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        let serial = serial.to_owned();
        self.ask(|answer| Question::Resize { serial, size, answer }).await
    }

    async fn press_power_button(&self) -> io::Result<()> {
        self.ask(|answer| Question::PowerButton { answer }).await
    }

    async fn set_forwards(&self, forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        let wanted = forwards.clone();
        self.ask(|answer| Question::Forwards { wanted, answer }).await
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        self.ask(|answer| Question::Knocked { answer }).await
    }

    async fn pause(&self) -> io::Result<()> {
        self.ask(|answer| Question::Pause { answer }).await
    }

    async fn resume(&self) -> io::Result<()> {
        self.ask(|answer| Question::Resume { answer }).await
    }

    async fn save_after(&self, ahead: Option<SavedAhead>) -> io::Result<Saved> {
        if self.channel == ChannelKind::Vsock {
            // Its bridge holds a part of the device's state, and QEMU refuses.
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a machine that is reached by a vsock can't be saved; give it a serial channel \
                 (--channel serial)",
            ));
        }
        let start = Instant::now();
        let has = memory::recorded(self.files.run_dir())?;
        let (way, ram) = self.way_to_save(ahead.is_some())?;
        let (state, into) = match way {
            SaveWay::Whole => memory::state_of_at_most(has)?,
            SaveWay::AllButShared => memory::state_of_at_most(Bytes::ZERO)?,
            SaveWay::Devices => memory::state_to_truncate()?,
        };
        let copying = tokio::task::spawn_blocking(move || {
            let copy = |ram: Ram| {
                let copy = match ahead {
                    Some(ahead) => memory::complete(&ram, has, ahead)?,
                    None => memory::copy(&ram, has)?,
                };
                memory::seal(&copy)?;
                Ok::<_, io::Error>(Arc::new(copy))
            };
            (ram.map(copy).transpose(), start.elapsed())
        });
        let told = self.ask(|answer| Question::Save { into, way, answer }).await;
        let state_took = start.elapsed();
        let (memory, memory_took) = copying.await.map_err(io::Error::other)?;
        told?;
        let state = match way {
            SaveWay::Whole | SaveWay::AllButShared => memory::finish_state(state)?,
            SaveWay::Devices => memory::state_of_devices(&state)?,
        };
        tracing::debug!(pid = self.identity.pid, ?way, ?state_took, ?memory_took, "saved");
        Ok(Saved { memory: memory?, state: Arc::new(state) })
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        let start = Instant::now();
        let has = memory::recorded(self.files.run_dir())?;
        let (_, Some(ram)) = self.way_to_save(true)? else { return Ok(None) };
        let copied = tokio::task::spawn_blocking(move || memory::ahead(&ram, has));
        let ahead = copied.await.map_err(io::Error::other)??;
        tracing::debug!(pid = self.identity.pid, took = ?start.elapsed(), "saved ahead");
        Ok(Some(ahead))
    }

    fn has_generation_id(&self) -> io::Result<bool> {
        Ok(has_generation_id(&self.cmdline()?))
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
    pub(crate) const VHOST: &str = "vhost.sock";
    pub(crate) const VSOCK: &str = "vsock.sock";

    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned() }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
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

    /// Where the vsock's bridge serves QEMU.
    pub(crate) fn vhost(&self) -> PathBuf {
        self.run_dir.join(Self::VHOST)
    }

    /// Where it takes connections to the guest.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.run_dir.join(Self::VSOCK)
    }

    pub(crate) fn bridge_log(&self) -> PathBuf {
        self.run_dir.join("vsock.log")
    }

    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }

    pub(crate) fn trace_log(&self) -> PathBuf {
        self.run_dir.join("trace.log")
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
        read_tail(&self.trace_log(), LAST_WORDS).unwrap_or_default()
    }

    /// QEMU's last words.
    pub(crate) fn vmm_last_lines(&self) -> Vec<String> {
        last_lines(&self.vmm_log())
    }

    /// The last words of the vsock's bridge.
    pub(crate) fn bridge_last_lines(&self) -> Vec<String> {
        last_lines(&self.bridge_log())
    }

    pub(crate) fn remove_sockets(&self) {
        for path in [
            self.qmp(),
            self.agent(),
            self.console(),
            self.console_link(),
            self.vhost(),
            self.vsock(),
            self.run_dir.join(memory::RECORD),
        ] {
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
    /// The vsock's, where the channel is one.
    pub(crate) bridge: Option<Process>,
    /// Its log writer, if that one lives.
    pub(crate) logs: Option<Process>,
    pub(crate) files: Files,
    pub(crate) control: Option<Control>,
    pub(crate) lifetime: Lifetime,
}

/// How a watch is over.
enum Seen {
    End(MachineEnd),
    /// Its last words tell more, once they are all written.
    Exit(Exit),
}

struct Task {
    watched: Watched,
    asked: mpsc::Receiver<Question>,
    kill_requested: watch::Receiver<bool>,
    end: watch::Sender<Option<MachineEnd>>,
}

impl Task {
    async fn run(mut self, known: Option<MachineEnd>) {
        let seen = match known {
            Some(end) => Seen::End(end),
            None => self.watch().await,
        };
        // Whoever asks now, or waits for an answer, learns that it has ended.
        self.asked.close();
        while self.asked.try_recv().is_ok() {}
        self.finish().await;
        self.finish_bridge().await;
        if let Some(writer) = &self.watched.logs {
            complete_logs(writer).await;
        }
        fail_point(Point::QemuKilled);
        let end = match seen {
            Seen::End(end) => end,
            Seen::Exit(exit) => self.died(exit),
        };
        let end = end::with_console(end, &self.watched.files.console_tail());
        self.watched.files.remove_sockets();
        tracing::debug!(vm = %self.watched.id, ?end, "the machine has ended");
        self.end.send_replace(Some(end));
    }

    async fn watch(&mut self) -> Seen {
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
                () = requested(&mut self.kill_requested) => return Seen::End(MachineEnd::Killed),
                // `next_event` keeps what it has read.
                event = event => match event {
                    Ok(Event::Shutdown { reason }) => return Seen::End(end::of_reason(&reason)),
                    Ok(Event::GuestPanicked) => return Seen::End(MachineEnd::Panicked),
                    Err(error) => {
                        tracing::debug!(vm = %self.watched.id, %error, "QMP connection lost");
                        self.watched.control = None;
                    }
                },
                // A queue loses nothing when nobody takes from it.
                Some(question) = self.asked.recv() => self.answer(question).await,
                // Only polls a descriptor.
                exit = process.wait() => match exit {
                    Ok(exit) => return Seen::Exit(exit),
                    Err(error) => {
                        // Out of descriptors, most likely: look again later.
                        tracing::warn!(vm = %self.watched.id, %error, "cannot watch QEMU's process");
                        tokio::time::sleep(RECONNECT).await;
                    }
                },
                // A new connection is tried for after the wait, not within it.
                () = tokio::time::sleep(RECONNECT), if !connected => {
                    if let Some(end) = self.reconnect().await {
                        return Seen::End(end);
                    }
                }
            }
        }
    }

    /// What QEMU refuses leaves its connection as it was; any other failure is
    /// found again by the next event.
    async fn answer(&mut self, question: Question) {
        let control = self.watched.control.as_mut();
        match question {
            Question::Size { serial, answer } => {
                let size = match control {
                    Some(qmp) => qmp.disk_size(&node_name(&serial), ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                // Nobody waits any more.
                let _ = answer.send(size.map_err(io::Error::other));
            }
            Question::Resize { serial, size, answer } => {
                let resized = match control {
                    Some(qmp) => qmp.grow_disk(&node_name(&serial), size, RESIZE).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(resized.map_err(io::Error::other));
            }
            Question::VncPassword { password, answer } => {
                let set = match control {
                    Some(qmp) => qmp.set_vnc_password(&password.0, ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(set.map_err(io::Error::other));
            }
            Question::Vnc { answer } => {
                let connected = match control {
                    Some(qmp) => qmp.connect_vnc(ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(connected.map_err(io::Error::other));
            }
            Question::Forwards { wanted, answer } => {
                let set = match control {
                    Some(qmp) => qmp.set_forwards(&wanted, ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(set.map_err(io::Error::other));
            }
            Question::Knocked { answer } => {
                let knocked = match control {
                    Some(qmp) => qmp.is_knocked_at(ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(knocked.map_err(io::Error::other));
            }
            Question::Pause { answer } => {
                let paused = match control {
                    Some(qmp) => qmp.pause(PAUSE).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(paused.map_err(io::Error::other));
            }
            Question::Resume { answer } => {
                let resumed = match control {
                    Some(qmp) => qmp.resume(ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(resumed.map_err(io::Error::other));
            }
            Question::Save { into, way, answer } => {
                let into = into.as_fd();
                let saved = match (control, way) {
                    (Some(qmp), SaveWay::Whole) => qmp.migrate_to(into, true, SAVE).await,
                    (Some(qmp), SaveWay::AllButShared) => qmp.migrate_to(into, false, SAVE).await,
                    (Some(qmp), SaveWay::Devices) => qmp.save_devices(into, SAVE).await,
                    (None, _) => Err(QmpError::Closed),
                };
                let _ = answer.send(saved.map_err(io::Error::other));
            }
            Question::PowerButton { answer } => {
                let pressed = match control {
                    Some(qmp) => qmp.press_power_button(ANSWER).await,
                    None => Err(QmpError::Closed),
                };
                let _ = answer.send(pressed.map_err(io::Error::other));
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

    async fn finish_bridge(&self) {
        if let Some(process) = &self.watched.bridge
            && let Err(error) = bridge::end(process).await
        {
            tracing::warn!(vm = %self.watched.id, %error, "the vsock's bridge lives on");
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
    let told = async {
        loop {
            let trace = files.trace_tail();
            if end::is_told(&status, &trace) {
                return trace;
            }
            sleep(LOOK_EVERY).await;
        }
    };
    // What QEMU traced before it answered may still be in its pipe.
    let trace = timeout(ANSWER, told).await.unwrap_or_else(|_| files.trace_tail());
    let end = end::of_status(&status, &trace);
    Ok((control, end))
}
