//! One domain's QEMU, watched by a task of its own.
//!
//! ```text
//!              its process has ended
//!   Watching ────────────────────────▶ Ended: how? ─▶ definition removed ─▶ told
//!      │                                  ▲
//!      └─kill()─▶ libvirt ends it ─▶ SIGKILL, where libvirt doesn't
//! ```
//!
//! The pidfd tells the end, whether libvirt is there or not; libvirt tells how
//! it came. Dropping the [`LibvirtMachine`] aborts the task and leaves the domain
//! running, or its definition after its end, for the next life to adopt.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

use inn_host::process::{Process, Signal};
use inn_host::socket;
use inn_units::{Bytes, ForeignNetwork, VmId};
use inn_vmm::{
    Forward, Forwarded, Machine, MachineEnd, MachineIdentity, Saved, SavedAhead, chain,
    complete_logs,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::addresses::{self, KnownBy};
use crate::definition::target_of;
use crate::end;
use crate::files::Files;
use crate::launch::ANSWER;
use crate::library::{CallError, Domain, DomainState};
use crate::link::{Ear, Link};
use crate::monitor::{refusal, set_screen_password};
use crate::reap::{self, DESTROY};

/// For libvirt to notice that a QEMU has ended whose pidfd says so.
const SETTLE: Duration = Duration::from_secs(10);

/// For QEMU to resize a disk, or to stop its CPUs: it waits for what is being
/// written.
const RESIZE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(30);

/// After which `kill` gives up on a process that even SIGKILL does not end.
const KILL: Duration = Duration::from_secs(180);

/// Between two looks at a process that cannot be watched.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct LibvirtMachine {
    identity: MachineIdentity,
    id: VmId,
    files: Files,
    link: Link,
    kill: watch::Sender<bool>,
    end: watch::Receiver<Option<MachineEnd>>,
    task: JoinHandle<()>,
}

impl LibvirtMachine {
    /// Starts to watch.
    pub(crate) fn watch(identity: MachineIdentity, watched: Watched) -> Self {
        let (id, files, link) = (watched.id, watched.files.clone(), watched.link.clone());
        let (kill, kill_requested) = watch::channel(false);
        let (end_sender, end) = watch::channel(None);
        let task = tokio::spawn(Task { watched, kill_requested, end: end_sender }.run());
        Self { identity, id, files, link, kill, end, task }
    }

    /// One that ended while nobody watched.
    pub(crate) fn ended(
        identity: MachineIdentity,
        link: &Link,
        id: VmId,
        files: Files,
        how: MachineEnd,
    ) -> Self {
        let (kill, _) = watch::channel(true);
        let (end_sender, end) = watch::channel(None);
        let (clear_link, clear_files) = (link.clone(), files.clone());
        let task = tokio::spawn(async move {
            clear(&clear_link, id, &clear_files).await;
            end_sender.send_replace(Some(how));
        });
        Self { identity, id, files, link: link.clone(), kill, end, task }
    }

    fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Asks something of its domain.
    async fn ask<T: Send + 'static>(
        &self,
        step: &'static str,
        limit: Duration,
        work: impl FnOnce(&Domain) -> Result<T, CallError> + Send + 'static,
    ) -> io::Result<T> {
        if self.has_ended() {
            return Err(ended());
        }
        let (id, run_dir) = (self.id, self.files.run_dir().to_owned());
        let asked = self.link.call(step, limit, move |connection| {
            match reap::ours(connection, id, &run_dir)? {
                Some(domain) => work(&domain).map(Some),
                None => Ok(None),
            }
        });
        asked.await?.ok_or_else(ended)
    }

    fn refused<T>(&self, what: &str) -> io::Result<T> {
        if self.has_ended() {
            return Err(ended());
        }
        Err(io::Error::new(ErrorKind::Unsupported, format!("libvirt's machines have no {what}")))
    }

    /// What libvirt calls a disk, by its serial.
    fn target(&self, serial: &str) -> io::Result<String> {
        let definition = self.files.read_definition()?;
        target_of(&definition, serial).ok_or_else(|| {
            io::Error::new(ErrorKind::NotFound, format!("it has no disk {serial:?}"))
        })
    }

    /// What is known of its card's addresses on a network that is not the node's:
    /// nothing, as long as its guest has not asked for one, or said anything.
    pub async fn addresses(
        &self,
        network: &ForeignNetwork,
        card: [u8; 6],
    ) -> io::Result<Option<(KnownBy, Vec<IpAddr>)>> {
        if self.has_ended() {
            return Err(ended());
        }
        let (id, run_dir) = (self.id, self.files.run_dir().to_owned());
        let (network, subnet) = (network.clone(), self.link.settings().subnet);
        let asked = self.link.call("asking for its addresses", ANSWER, move |connection| {
            addresses::look_up(connection, &network, card, id, &run_dir, subnet)
        });
        Ok(asked.await?)
    }

    /// The size of a disk, by its serial, as QEMU has it now.
    pub async fn disk_size(&self, serial: &str) -> io::Result<Bytes> {
        let target = self.target(serial)?;
        self.ask("asking for a disk's size", ANSWER, move |domain| {
            domain.disk_size(&target).map(Bytes)
        })
        .await
    }
}

fn ended() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the machine has ended")
}

impl Machine for LibvirtMachine {
    fn identity(&self) -> &MachineIdentity {
        &self.identity
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.agent()).await
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        socket::connect(&self.files.console()).await
    }

    async fn set_vnc_password(&self, password: &str) -> io::Result<()> {
        let command = set_screen_password(password);
        let answer = self.ask("setting the screen's password", ANSWER, move |domain| {
            domain.tell_qemu(&command, None)
        });
        refusal(&answer.await?).map_or(Ok(()), |why| Err(io::Error::other(why)))
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        let opened = self.ask("opening the screen", ANSWER, Domain::open_screen).await?;
        let stream = std::os::unix::net::UnixStream::from(opened);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }

    async fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        let target = self.target(serial)?;
        self.ask("resizing a disk", RESIZE, move |domain| {
            if domain.disk_size(&target)? > size.get() {
                return Err(CallError::other("resizing a disk", "a disk never shrinks"));
            }
            domain.resize_disk(&target, size.get())
        })
        .await
    }

    async fn press_power_button(&self) -> io::Result<()> {
        self.ask("pressing the power button", ANSWER, Domain::press_power_button).await
    }

    async fn set_forwards(&self, _forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        self.refused("ports of the host's on a network of their own")
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        self.refused("ports of the host's on a network of their own")
    }

    async fn pause(&self) -> io::Result<()> {
        self.ask("pausing the domain", PAUSE, Domain::suspend).await
    }

    async fn resume(&self) -> io::Result<()> {
        self.ask("letting the domain run", PAUSE, Domain::resume).await
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
                format!("QEMU (pid {}) is still there after SIGKILL", self.identity.pid),
            )),
        }
    }
}

impl Drop for LibvirtMachine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Removes what is left of a machine whose process has ended. A definition that
/// libvirt cannot be asked to remove now is removed with the VM, or replaced by
/// its next start.
async fn clear(link: &Link, id: VmId, files: &Files) {
    match reap::remove_domain(link, id, files.run_dir()).await {
        Ok(()) => files.forget_definition(),
        Err(error) => {
            tracing::warn!(vm = %id, error = %chain(&error), "its definition stays behind");
        }
    }
    files.remove_sockets();
}

/// A QEMU that runs and the way to it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) id: VmId,
    pub(crate) process: Process,
    /// Its log writer, if that one lives.
    pub(crate) logs: Option<Process>,
    pub(crate) files: Files,
    pub(crate) link: Link,
    pub(crate) ear: Ear,
}

struct Task {
    watched: Watched,
    kill_requested: watch::Receiver<bool>,
    end: watch::Sender<Option<MachineEnd>>,
}

impl Task {
    async fn run(mut self) {
        let killed = tokio::select! {
            biased;
            // Only looks at a value.
            () = requested(&mut self.kill_requested) => true,
            // Only polls a descriptor.
            () = ended_process(&self.watched) => false,
        };
        if killed {
            self.kill().await;
        }
        let how = if killed { MachineEnd::Killed } else { self.how_it_ended().await };
        if let Some(writer) = &self.watched.logs {
            complete_logs(writer).await;
        }
        let Watched { id, files, link, .. } = &self.watched;
        clear(link, *id, files).await;
        tracing::debug!(vm = %id, end = ?how, "the machine has ended");
        self.end.send_replace(Some(how));
    }

    /// Nothing of what the guest has written is lost with QEMU: its disks are
    /// raw files in the page cache.
    async fn kill(&self) {
        let Watched { id, process, files, link, .. } = &self.watched;
        let run_dir = files.run_dir().to_owned();
        let vm = *id;
        let destroy =
            link.call("ending the domain", DESTROY, move |connection| {
                match reap::ours(connection, vm, &run_dir)? {
                    Some(domain) if domain.state()? == DomainState::Active => domain.destroy(),
                    _ => Ok(()),
                }
            });
        if let Err(error) = destroy.await
            && process.is_alive()
        {
            tracing::warn!(vm = %id, error = %chain(&error), "ended by its process");
        }
        if let Err(error) = process.kill(Signal::KILL) {
            tracing::warn!(vm = %id, %error, "cannot signal its QEMU");
        }
        ended_process(&self.watched).await;
    }

    /// What was heard tells most; what libvirt says settles with its own look at
    /// the process's end.
    async fn how_it_ended(&mut self) -> MachineEnd {
        let deadline = Instant::now() + SETTLE;
        let state = loop {
            let Watched { id, files, link, ear, .. } = &mut self.watched;
            let (vm, run_dir) = (*id, files.run_dir().to_owned());
            let asked = link.call("asking how the domain ended", ANSWER, move |connection| {
                reap::ours(connection, vm, &run_dir)?.map(|domain| domain.state()).transpose()
            });
            // A poke between question and wait is not lost: it is kept.
            match timeout_at(deadline, asked).await {
                Ok(Ok(Some(DomainState::Active))) => {}
                Ok(Ok(state)) => break state,
                Ok(Err(error)) => {
                    tracing::warn!(vm = %id, error = %chain(&error), "how it ended is not known");
                    break None;
                }
                Err(_) => break None,
            }
            if timeout_at(deadline, ear.changed()).await.is_err() {
                break None;
            }
        };
        let heard = self.watched.ear.reason();
        end::of(heard.as_deref(), state, &self.watched.files.console_tail())
    }
}

/// Waits for the end of its process, however long.
async fn ended_process(watched: &Watched) {
    while let Err(error) = watched.process.wait().await {
        // Out of descriptors, most likely: look again later.
        tracing::warn!(vm = %watched.id, %error, "cannot watch its QEMU");
        sleep(AGAIN).await;
    }
}

/// Resolves once the value is true, never if nobody is left to set it.
async fn requested(kill: &mut watch::Receiver<bool>) {
    if kill.wait_for(|kill| *kill).await.is_err() {
        std::future::pending().await
    }
}
