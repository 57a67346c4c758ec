use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inn_units::Bytes;
use inn_vmm::{
    CardLimits, Disk, DiskSource, Forward, Forwarded, Lifetime, Machine, MachineEnd,
    MachineIdentity, Nic, NicBackend, Saved, SavedAhead, Tap,
};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Behaviour;
use crate::forwards::Listeners;
use crate::guest::GuestState;
use crate::session;
use crate::state::State;

/// A handle of one simulated machine. Dropping it ends its connections, as the
/// agent's death does, and leaves the machine.
#[derive(Debug)]
pub struct SimMachine {
    pub(crate) core: Arc<Core>,
    /// Its receivers are the connections' tasks.
    alive: watch::Sender<()>,
}

/// The machine itself, which its runtime keeps until it ends.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) identity: MachineIdentity,
    pub(crate) state: State,
    pub(crate) run_dir: PathBuf,
    pub(crate) lifetime: Lifetime,
    pub(crate) behaviour: Behaviour,
    pub(crate) started: Instant,
    guest: Mutex<GuestState>,
    /// What the guest sees of its disks, by their serials. `None` in another
    /// life: nothing tells of them there, and any disk may grow.
    disks: Option<Mutex<BTreeMap<String, Bytes>>>,
    /// Held until the end, as a VMM does: the device lives by it.
    tap: Mutex<Option<Tap>>,
    /// What its card is held to; `None` in another life, until it is told.
    card_limits: Mutex<Option<CardLimits>>,
    /// The host's ports that lead to it.
    listeners: Mutex<Listeners>,
    paused: watch::Sender<bool>,
    end: watch::Sender<Option<MachineEnd>>,
}

/// What is saved of a machine, before whether its guest was configured.
const SAVED: &str = "a simulated machine, configured ";

impl SimMachine {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let alive = watch::Sender::new(());
        if let Some((after, end)) = core.behaviour.ends_after.clone() {
            let (core, mut alive) = (Arc::clone(&core), alive.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    // Either way the task is over.
                    () = tokio::time::sleep_until(core.started + after) => core.finish(end),
                    _ = alive.changed() => {}
                }
            });
        }
        Self { core, alive }
    }

    fn pair(&self) -> io::Result<(UnixStream, UnixStream)> {
        if self.core.has_ended() {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the machine has ended"));
        }
        UnixStream::pair()
    }
}

/// As its runtime's capabilities say.
fn no_screen() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "a simulated machine has no screen")
}

impl Machine for SimMachine {
    fn identity(&self) -> &MachineIdentity {
        &self.core.identity
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        let (ours, guests) = self.pair()?;
        if let Some(agent) = &self.core.behaviour.agent_at {
            return UnixStream::connect(agent).await;
        }
        tokio::spawn(session::serve(Arc::clone(&self.core), guests, self.alive.subscribe()));
        Ok(ours)
    }

    /// A console that answers each byte with itself.
    async fn connect_console(&self) -> io::Result<UnixStream> {
        let (ours, guests) = self.pair()?;
        let (core, mut alive) = (Arc::clone(&self.core), self.alive.subscribe());
        tokio::spawn(async move {
            let (mut read, mut write) = guests.into_split();
            tokio::select! {
                // All three end the connection; nothing is lost that matters.
                _ = alive.changed() => {}
                _ = core.wait() => {}
                _ = tokio::io::copy(&mut read, &mut write) => {}
            }
            // Fails when the other end has gone first.
            let _ = write.shutdown().await;
        });
        Ok(ours)
    }

    async fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        self.core.resize_disk(serial, size)
    }

    async fn set_vnc_password(&self, _password: &str) -> io::Result<()> {
        Err(no_screen())
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        Err(no_screen())
    }

    async fn press_power_button(&self) -> io::Result<()> {
        if self.core.has_ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the machine has ended"));
        }
        if self.core.behaviour.minds_power_button {
            self.core.finish(MachineEnd::PoweredOff);
        }
        Ok(())
    }

    async fn set_forwards(&self, forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        self.core.set_forwards(forwards)
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        let mut listeners = self.core.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(listeners.is_knocked_at())
    }

    async fn limit_card(&self, limits: &CardLimits) -> io::Result<()> {
        if self.core.has_ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the machine has ended"));
        }
        self.core.hold_card_to(*limits);
        Ok(())
    }

    async fn pause(&self) -> io::Result<()> {
        self.core.set_paused(true)
    }

    async fn resume(&self) -> io::Result<()> {
        self.core.set_paused(false)
    }

    async fn save_after(&self, _: Option<SavedAhead>) -> io::Result<Saved> {
        self.core.save()
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        // It has no memory.
        Ok(None)
    }

    async fn wait(&self) -> MachineEnd {
        self.core.wait().await
    }

    async fn kill(&self) -> io::Result<()> {
        if !self.core.has_ended() {
            tokio::time::sleep(self.core.behaviour.kill_takes).await;
            self.core.finish(MachineEnd::Killed);
        }
        Ok(())
    }
}

impl Core {
    pub(crate) fn new(
        identity: MachineIdentity,
        state: State,
        run_dir: PathBuf,
        lifetime: Lifetime,
        behaviour: Behaviour,
    ) -> Self {
        Self {
            identity,
            state,
            run_dir,
            lifetime,
            behaviour,
            started: Instant::now(),
            guest: Mutex::new(GuestState::new(state.configured)),
            disks: None,
            tap: Mutex::new(None),
            card_limits: Mutex::new(None),
            listeners: Mutex::default(),
            paused: watch::Sender::new(false),
            end: watch::Sender::new(None),
        }
    }

    /// A disk whose file is not there is empty: a simulated machine reads none.
    pub(crate) fn with_disks(self, disks: &[Disk]) -> Self {
        let size = |disk: &Disk| {
            let DiskSource::Raw(path) = &disk.source;
            Bytes(std::fs::metadata(path).map_or(0, |meta| meta.len()))
        };
        let disks = disks.iter().map(|disk| (disk.serial.clone(), size(disk))).collect();
        Self { disks: Some(Mutex::new(disks)), ..self }
    }

    pub(crate) fn with_card(self, nic: Option<&Nic>) -> Self {
        self.hold_card_to(nic.map(Nic::limits).unwrap_or_default());
        let tap = match nic.map(|nic| &nic.backend) {
            Some(NicBackend::Tap(tap)) => Some(tap.clone()),
            Some(NicBackend::User | NicBackend::Nothing | NicBackend::Foreign(_)) | None => None,
        };
        Self { tap: Mutex::new(tap), ..self }
    }

    fn hold_card_to(&self, limits: CardLimits) {
        // One value is replaced.
        *self.card_limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
    }

    pub(crate) fn card_limits(&self) -> Option<CardLimits> {
        *self.card_limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest forgets its programs by it, and no more.
    pub(crate) fn beginning_from(self, saved: Option<&Saved>) -> io::Result<Self> {
        let Some(saved) = saved else { return Ok(self) };
        let mut text = [0; SAVED.len() + 1];
        saved.state.read_exact_at(&mut text, 0)?;
        let (form, configured) = text.split_at(SAVED.len());
        if form != SAVED.as_bytes() {
            return Err(io::Error::other("no simulated machine has written it"));
        }
        self.guest().configured = configured == b"1";
        self.paused.send_replace(true);
        Ok(self)
    }

    /// Resolves at once while the guest is not paused. Cancel safe.
    pub(crate) async fn goes_on(&self) {
        let mut paused = self.paused.subscribe();
        // The sender is `self`'s, so it cannot go in the meantime.
        let _ = paused.wait_for(|paused| !paused).await;
    }

    fn set_forwards(&self, forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        // Under their lock, so that none is made once `finish` has let them go.
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the machine has ended"));
        }
        Ok(listeners.set(forwards))
    }

    fn set_paused(&self, paused: bool) -> io::Result<()> {
        if self.has_ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the machine has ended"));
        }
        self.paused.send_replace(paused);
        Ok(())
    }

    fn save(&self) -> io::Result<Saved> {
        if self.has_ended() || !*self.paused.borrow() {
            return Err(io::Error::other("the machine is not paused"));
        }
        let state = File::from(memfd_create("sim-saved", MemfdFlags::CLOEXEC)?);
        let configured = u8::from(self.guest().configured);
        state.write_all_at(format!("{SAVED}{configured}").as_bytes(), 0)?;
        Ok(Saved { memory: None, state: Arc::new(state) })
    }

    fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        if self.has_ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the machine has ended"));
        }
        let Some(disks) = &self.disks else { return Ok(()) };
        // One value is replaced.
        let mut disks = disks.lock().unwrap_or_else(PoisonError::into_inner);
        match disks.get_mut(serial) {
            Some(now) if size >= *now => *now = size,
            Some(now) => return Err(io::Error::other(format!("{serial} has {now} already"))),
            None => return Err(io::Error::other(format!("there is no disk {serial}"))),
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn disk_size(&self, serial: &str) -> Option<Bytes> {
        let disks = self.disks.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        disks.get(serial).copied()
    }

    pub(crate) fn guest(&self) -> MutexGuard<'_, GuestState> {
        // Its values are whole between any two statements.
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Ends the machine, once.
    pub(crate) fn finish(&self, end: MachineEnd) {
        // First the file: whoever learns of the end finds nothing left.
        if let Err(error) = State::remove(&self.run_dir) {
            tracing::warn!(vm = %self.state.id, %error, "the state file stays behind");
        }
        // A value is taken, and nothing half done.
        drop(self.tap.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        *listeners = Listeners::default();
        self.end.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(end);
            }
            first
        });
    }

    pub(crate) async fn wait(&self) -> MachineEnd {
        let mut end = self.end.subscribe();
        // The sender is `self`'s, so it cannot go in the meantime.
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(MachineEnd::Killed),
            Err(_) => MachineEnd::Killed,
        }
    }

    pub(crate) fn set_configured(&self) -> io::Result<()> {
        self.guest().configured = true;
        match self.lifetime {
            Lifetime::Detached => State { configured: true, ..self.state }.write(&self.run_dir),
            Lifetime::Leased => Ok(()),
        }
    }
}
