//! A VM caught at one moment: memory, devices and disk, which agree with each
//! other.
//!
//! ```text
//!   asked ─▶ its task, once nothing is to be done ─▶ most of its memory ─▶ noted: it stands still
//!              ─▶ CPUs stopped ─▶ rest of its memory ┬─▶ CPUs run ─▶ noted ─▶ answered
//!                                 devices            │
//!                                 disk ──────────────┘
//! ```
//!
//! Its guest notices nothing but that time has passed, and its session stays; on a
//! vsock, whose connections end with a save, it is made anew.
//! An agent that dies meanwhile leaves it standing, and noted so: the next one
//! lets it go on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use inn_domain::network::AddressWish;
use inn_domain::{Guest, Motion, VmSpec};
use inn_fail_point::{Point, fail_point};
use inn_guest_proto::capability;
use inn_image::{ImageError, copy_disk};
use inn_store::StoreError;
use inn_vmm::{
    Boot, Card, ChannelKind, Fingerprint, KernelBoot, Machine, Runtime, Saved, SavedAhead,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::handle::{RECONNECT, VmHandle};
use super::link::Link;
use super::publish::VmView;
use super::task::VmTask;
use crate::error::Chain;
use crate::guest::HeldBack;
use crate::runtime::AnyMachine;
use crate::snapshots::{DISK, PERSIST};

/// How long a guest that stands still soon has for what it was told: one that is busy
/// is left amid a frame, which costs a clone some milliseconds.
pub(super) const SETTLES: Duration = Duration::from_millis(100);

/// What was caught.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) saved: Saved,
    pub(crate) made_by: Fingerprint,
    /// `None` where no kernel is booted directly.
    pub(crate) boot: Option<KernelBoot>,
    /// Whether its guest had read all that was ever written to it: whoever opens its
    /// channel next need not complete a frame.
    pub(crate) between_frames: bool,
}

/// What a VM's machine is.
pub(super) struct Shape {
    pub(super) made_by: Fingerprint,
    /// `None` where no kernel is booted directly.
    pub(super) boot: Option<KernelBoot>,
    pub(super) channel: ChannelKind,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error(
        "it is {0}; only one that runs and whose guest answers, or that is paused, can be saved"
    )]
    Neither(String),
    #[error(
        "its guest agent cannot make a saved machine itself again; start it anew, with the agent of this version"
    )]
    Older,
    #[error(
        "it has no guest agent, which has to make a saved machine itself again; have it paused or stopped"
    )]
    NoAgent,
    #[error(
        "its guest agent is reached by a vsock, which its runtime {0} cannot save; make the VM with --channel serial"
    )]
    Channel(&'static str),
    #[error("its runtime {0} cannot save machines")]
    Runtime(&'static str),
    #[error("{0}")]
    Shape(String),
    #[error("its machine cannot be saved")]
    Machine(#[source] std::io::Error),
    #[error("its disk cannot be copied")]
    Disk(#[from] ImageError),
    #[error("that it stands still cannot be kept")]
    Store(#[from] StoreError),
    #[error("the agent ends")]
    Closing,
}

/// One at a time, by the order of requests.
#[derive(Debug)]
pub(super) struct CaptureRequest {
    to: PathBuf,
    reply: oneshot::Sender<Result<Capture, CaptureError>>,
}

impl VmHandle {
    /// Catches it, its own disks as files in the directory `to`. It runs on, unless
    /// it was paused.
    pub(crate) async fn capture(&self, to: PathBuf) -> Result<Capture, CaptureError> {
        // One that was resumed a moment ago has its guest back in another.
        let settled = |view: &VmView| {
            let machine = view.observed.machine;
            view.gone
                || view.link == Link::Ready
                || machine.is_none_or(|machine| machine.motion == Motion::Paused)
        };
        // What then is not so is refused by name.
        let _ = timeout(RECONNECT, self.watch().wait_for(settled)).await;
        // It neither starts nor stops meanwhile.
        let _order = self.shared.requests.lock().await;
        let (reply, answer) = oneshot::channel();
        if self.shared.view.borrow().gone {
            return Err(CaptureError::Neither("deleted".to_owned()));
        }
        *self.lock_capture() = Some(CaptureRequest { to, reply });
        self.shared.poke.notify_one();
        answer.await.unwrap_or(Err(CaptureError::Closing))
    }

    /// As another one like it would be made now.
    pub(crate) fn spec_now(&self) -> VmSpec {
        let view = self.shared.view.borrow();
        VmSpec {
            disk: self.disk_size(),
            policy: view.policy.clone(),
            limits: view.limits,
            // Those are this one's.
            addresses: AddressWish::default(),
            lease: false,
            from: None,
            ..self.spec().clone()
        }
    }

    fn lock_capture(&self) -> MutexGuard<'_, Option<CaptureRequest>> {
        // One value is replaced.
        self.shared.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VmTask {
    pub(super) fn take_capture(&self) -> Option<CaptureRequest> {
        self.shared.capture.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) async fn capture(&mut self, request: CaptureRequest) {
        let CaptureRequest { to, reply } = request;
        let caught = self.try_capture(&to).await;
        // Whoever asked may be gone.
        let _ = reply.send(caught);
    }

    pub(super) async fn try_capture(&mut self, to: &Path) -> Result<Capture, CaptureError> {
        let was_paused = self.observed.is_paused();
        let (Some(machine), true) = (self.machine.clone(), was_paused || self.observed.is_up())
        else {
            let phase = self.shared.view.borrow().phase;
            return Err(match self.waits_for_cloud_init() {
                true => CaptureError::Neither("being set up by cloud-init".to_owned()),
                false => CaptureError::Neither(phase.to_string()),
            });
        };
        self.admit_guest()?;
        let Shape { made_by, boot, channel } = self.shape(None).await?;
        let mut ahead = None;
        if !was_paused {
            ahead = self.look_ahead(&machine).await?;
            let mut record = self.shared.view.borrow().to_record();
            record.observed = self.observed.clone();
            record.observed.set_motion(Motion::Paused);
            self.node.store.set_observed(self.shared.id, record).await?;
        }
        fail_point(Point::CaptureNoted);
        let begun = Instant::now();
        // Until it goes on.
        let held_back = match (&self.session, channel) {
            (Some(session), ChannelKind::Serial) => Some(session.hold_back(SETTLES).await),
            // A save ends its connections: whoever needs the guest waits for the
            // next session.
            (Some(_), ChannelKind::Vsock) => {
                self.hang_up().await;
                self.drain_workload().await;
                self.observed.session_lost();
                self.lost = Some("it was saved".into());
                None
            }
            (None, _) => None,
        };
        let between_frames =
            held_back.as_ref().map_or(self.way.between_frames, HeldBack::is_between_frames);
        let caught = self.hold_still(&machine, ahead, to).await;
        if !was_paused {
            match machine.resume().await {
                Ok(()) => fail_point(Point::CaptureGoesOn),
                Err(error) => {
                    let name = &self.shared.spec.name;
                    tracing::error!(vm = %name, %error, "it does not go on yet");
                    // What any paused VM has that is to run: it is tried again.
                    self.hang_up().await;
                    self.observed.session_lost();
                    self.observed.set_motion(Motion::Paused);
                }
            }
        }
        drop(held_back);
        let stood_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !was_paused {
            self.persist().await;
        }
        tracing::info!(vm = %self.shared.spec.name, stood_ms, "caught");
        Ok(Capture { saved: caught?, made_by, boot, between_frames })
    }

    /// Whether its guest can become another one.
    fn admit_guest(&self) -> Result<(), CaptureError> {
        let hello = self.shared.view.borrow().hello.clone();
        let full = self.shared.spec.is_full();
        let needs = if full { capability::RESUME_2 } else { capability::RESUME };
        let absent = self.observed.machine.is_some_and(|machine| machine.guest == Guest::Absent);
        match hello {
            Some(hello) if !hello.can(needs) => Err(CaptureError::Older),
            _ if full && absent => Err(CaptureError::NoAgent),
            // Of one that was paused under an earlier agent nothing is known.
            Some(_) | None => Ok(()),
        }
    }

    /// What need not be done while it stands still: most of the copy of its
    /// memory, and that what it has written reaches the disk.
    async fn look_ahead(
        &self,
        machine: &Arc<AnyMachine>,
    ) -> Result<Option<SavedAhead>, CaptureError> {
        let disks = self.own_disks();
        // Without it the flush takes longer once it stands still, which says
        // what is wrong with the disk.
        let flushing = tokio::task::spawn_blocking(move || {
            disks.iter().try_for_each(|(disk, _)| File::open(disk)?.sync_data())
        });
        let (ahead, _) = tokio::join!(machine.save_ahead(), flushing);
        ahead.map_err(CaptureError::Machine)
    }

    /// Those that no other VM has, and what each is called where it is saved.
    fn own_disks(&self) -> Vec<(PathBuf, &'static str)> {
        let persist = self.shared.spec.persist.then(|| (self.persist_disk(), PERSIST));
        [(self.shared.paths.disk(), DISK)].into_iter().chain(persist).collect()
    }

    async fn hold_still(
        &self,
        machine: &Arc<AnyMachine>,
        ahead: Option<SavedAhead>,
        to: &Path,
    ) -> Result<Saved, CaptureError> {
        let begun = Instant::now();
        machine.pause().await.map_err(CaptureError::Machine)?;
        let pause = begun.elapsed();
        fail_point(Point::CaptureStands);
        let (disks, to) = (self.own_disks(), to.to_owned());
        let copying = crate::images::blocking("copy the disk", move || {
            disks.iter().try_for_each(|(disk, name)| copy_disk(disk, &to.join(name)))
        });
        let copying = async { (copying.await, begun.elapsed()) };
        let (saved, (copied, disk)) = tokio::join!(machine.save_after(ahead), copying);
        tracing::debug!(vm = %self.shared.spec.name, ?pause, ?disk, all = ?begun.elapsed(), "saved");
        copied?;
        saved.map_err(CaptureError::Machine)
    }

    /// What made its machine, and of what; or what would make one that goes on from
    /// what was `saved`.
    pub(super) async fn shape(&self, saved: Option<&Fingerprint>) -> Result<Shape, CaptureError> {
        let unknown = |error: &dyn std::fmt::Display| {
            CaptureError::Shape(format!("what its machine is made of cannot be told: {error}"))
        };
        let unfit = |error| match error {
            super::failure::StepError::Failed(failure) => unknown(&failure.cause),
            _ => unknown(&"its machine has ended"),
        };
        let spec = &self.shared.spec;
        let name = self.machine.as_ref().map(|machine| machine.identity().runtime.clone());
        let runtime = match name {
            Some(name) => {
                let named = self.node.runtimes.named(&name).await;
                let named = named.map_err(|error| unknown(&Chain(&error)))?;
                named.ok_or_else(|| unknown(&"its runtime is not known here"))?
            }
            None => self.runtime().await.map_err(unfit)?,
        };
        let can = runtime.capabilities();
        if !can.snapshots {
            return Err(CaptureError::Runtime(can.name));
        }
        let mut config = self.machine_shape(&runtime).await.map_err(unfit)?;
        if !can.snapshot_channels.contains(&config.channel) {
            return Err(CaptureError::Channel(can.name));
        }
        config.generation_id = match (saved, &self.machine) {
            (Some(saved), _) => saved.has_generation_id(),
            (None, Some(machine)) => machine.has_generation_id().map_err(CaptureError::Machine)?,
            (None, None) => config.generation_id,
        };
        let mut kernel = None;
        if let Some(machine) = &self.shared.view.borrow().machine {
            use inn_vmm::Accel;
            config.accel = if machine.kvm { Accel::Kvm } else { Accel::Tcg };
            kernel.clone_from(&machine.kernel);
        }
        let mut made_by = Fingerprint { kernel, ..runtime.fingerprint(&config).await };
        made_by.card = match &spec.network {
            inn_domain::Network::None | inn_domain::Network::Foreign(_) => None,
            network if self.node.networks.of(network).is_some() => Some(Card::Tap),
            _ => Some(Card::User),
        };
        let boot = match config.boot {
            Boot::Kernel(boot) => Some(boot),
            Boot::Firmware => None,
        };
        Ok(Shape { made_by, boot, channel: config.channel })
    }
}
