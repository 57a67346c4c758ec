//! An idle VM whose memory is saved goes on from there, once.
//!
//! ```text
//!   running ─▶ noted: it stands still ─▶ CPUs stopped ─▶ memory on the disk, named ─▶ machine ended
//!      ▲                                   │ it cannot be saved, or somebody needs it     │
//!      │◀── it runs on, and rests later ◀──┘                                              ▼
//!      └── its guest confirms ◀── CPUs run ◀── memory taken away ◀── machine noted ◀── asleep
//!                  └── it does not: it boots                  damaged, another host: it boots ──┘
//! ```
//!
//! Its disks stay where they are, and agree with its memory only as long as no
//! machine has run on them since: so what was saved is taken away before any
//! CPU runs, and a machine that is noted by then is found and let go on by the
//! next life of an agent that dies in between.

use std::path::PathBuf;
use std::sync::Arc;

use inn_domain::{Guest, Motion, Origin, VmStep};
use inn_fail_point::{Point, fail_point};
use inn_guest_proto::capability;
use inn_units::SnapshotId;
use inn_vmm::Machine;
use tokio_util::sync::CancellationToken;

use super::super::VmHandle;
use super::super::capture::{Capture, CaptureError, Shape};
use super::super::failure::{Failure, StepError};
use super::super::task::{Booted, VmTask};
use super::files::io_failure;
use crate::error::Chain;
use crate::runtime::AnyMachine;
use crate::snapshots::{Held, keep, kept_run, take_away, take_up};

const RUNS_ON: &str = "it runs on, and rests when it is idle again";

impl VmTask {
    pub(super) async fn suspend(&mut self) -> Result<(), StepError> {
        let machine = self.machine()?;
        let hello = self.shared.view.borrow().hello.clone();
        let unable = |error: CaptureError| Failure::caused("it cannot be saved", &error, RUNS_ON);
        let absent = self.observed.machine.is_none_or(|machine| machine.guest == Guest::Absent);
        match hello {
            Some(hello) if !hello.can(capability::RESUME) => {
                return Err(unable(CaptureError::Older).into());
            }
            Some(_) if !absent => {}
            _ => return Err(unable(CaptureError::NoAgent).into()),
        }
        let Shape { made_by, boot, .. } = self.shape(None).await.map_err(unable)?;
        let mut record = self.shared.view.borrow().to_record();
        record.observed = self.observed.clone();
        record.observed.set_motion(Motion::Paused);
        self.node
            .store
            .set_observed(self.shared.id, record)
            .await
            .map_err(|error| Failure::of(&error, RUNS_ON))?;
        fail_point(Point::SuspendNoted);
        self.hang_up_between_frames().await;
        let between_frames = self.way.between_frames;
        self.drain_workload().await;
        machine.pause().await.map_err(|error| unable(CaptureError::Machine(error)))?;
        fail_point(Point::SuspendStands);
        let saved = machine.save().await.map_err(|error| unable(CaptureError::Machine(error)))?;
        let capture = Capture { saved, made_by, boot, between_frames };
        let run = self.observed.machine.map_or(self.desired().run, |machine| machine.run);
        let path = self.shared.paths.asleep();
        let persist = self.shared.spec.persist.then(|| self.persist_disk());
        let disks: Vec<PathBuf> = persist.into_iter().chain([self.shared.paths.disk()]).collect();
        let given_up = CancellationToken::new();
        let (to, wanted) = (path.clone(), given_up.clone());
        let mut writing = tokio::task::spawn_blocking(move || {
            // They have to be as old as the memory whatever becomes of the host.
            for disk in disks {
                std::fs::File::open(disk)?.sync_all()?;
            }
            keep(&capture, run, &to, &wanted)
        });
        let kept = tokio::select! {
            // What is begun ends by itself, whether it is waited for or not.
            kept = &mut writing => kept,
            () = self.wakes() => {
                given_up.cancel();
                writing.await
            }
        };
        match kept.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Err(_) if given_up.is_cancelled() => {
                // As good as one that was paused: the plan lets it go on.
                self.observed.session_lost();
                self.observed.set_motion(Motion::Paused);
                Err(StepError::Superseded)
            }
            kept => kept.map_err(io_failure("write", &path)),
        }
    }

    /// Resolves once somebody wants it back, or the agent ends.
    async fn wakes(&self) {
        tokio::select! {
            // Both only look at values.
            () = self.wants(|desired| desired.rest.is_none()) => {}
            () = self.node.closing.cancelled() => {}
        }
    }

    /// Its memory could not be saved: it is as good as woken.
    pub(in super::super) async fn stays_awake(&mut self, failure: Failure) {
        self.hang_up().await;
        self.observed.session_lost();
        self.observed.set_motion(Motion::Paused);
        self.retry = self.retry.failed(self.node.now(), std::time::Duration::ZERO);
        self.explain(VmStep::Suspend.name(), failure).await;
        let (vm, node) = (VmHandle { shared: Arc::clone(&self.shared) }, Arc::clone(&self.node));
        // Not here: whoever has the order of requests may wait for this task.
        node.tasks.clone().spawn(async move {
            if let Err(error) = vm.wake(&node, "not having been saved").await {
                let error = Chain(&error).to_string();
                tracing::error!(vm = %vm.spec().name, error, "it is saved again");
            }
        });
    }

    pub(super) async fn discard(&self) -> Result<(), StepError> {
        self.let_go_of_origin();
        self.take_memory_away().await
    }

    async fn take_memory_away(&self) -> Result<(), StepError> {
        let path = self.shared.paths.asleep();
        let directory = path.clone();
        let gone = tokio::task::spawn_blocking(move || take_away(&directory));
        let gone = gone.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        gone.map_err(io_failure("remove", &path))
    }

    /// What it was saved as, where its next machine goes on from that.
    pub(in super::super) fn own_memory(&self) -> Option<Arc<Held>> {
        self.goes_on_from_memory().then(|| self.lock_origin().clone()).flatten()
    }

    fn goes_on_from_memory(&self) -> bool {
        self.observed.asleep == Some(self.desired().run)
    }

    /// Before its next machine: reads what it was saved as. What is damaged or does
    /// not fit this host any more is thrown away, and told: it boots in place of it.
    pub(super) async fn read_memory(&mut self) -> Result<(), StepError> {
        if !self.goes_on_from_memory() || self.own_memory().is_some() {
            return Ok(());
        }
        let (paths, id) = (&self.shared.paths, self.own_id());
        let (path, disk) = (paths.asleep(), paths.disk());
        let reading = tokio::task::spawn_blocking(move || take_up(&path, id, disk)).await;
        let read = reading.map_err(|error| {
            Failure::new(format!("reading its memory: {error}"), "start the VM again")
        })?;
        let boots = "it boots in place of that, from its disks";
        let what = "it cannot go on from its memory";
        let failure = match read {
            Err(error) => Failure::caused(what, &error, boots),
            Ok(held) => match self.unfit(&held).await? {
                Some(misfits) => Failure::new(format!("{what}: {misfits}"), boots),
                None => {
                    *self.lock_origin() = Some(Arc::new(held));
                    return Ok(());
                }
            },
        };
        tracing::warn!(vm = %self.shared.spec.name, cause = failure.cause, "boots");
        self.take_memory_away().await?;
        self.observed.asleep = None;
        self.explain("wake", failure).await;
        Ok(())
    }

    /// What of it does not fit here, if anything.
    async fn unfit(&self, held: &Held) -> Result<Option<String>, StepError> {
        let shape = self.shape(Some(&held.made_by)).await.map_err(|error| {
            Failure::caused("what it is made of is not known", &error, "start the VM again")
        })?;
        let mut here = shape.made_by;
        // It is in its memory.
        here.kernel.clone_from(&held.made_by.kernel);
        let misfits: Vec<String> =
            held.made_by.misfits(&here).iter().map(ToString::to_string).collect();
        Ok((!misfits.is_empty()).then(|| misfits.join("; ")))
    }

    /// Of a machine that has its memory and stands still: once this returns
    /// nothing else goes on from that, whatever becomes of this agent.
    pub(super) async fn about_to_wake(
        &self,
        machine: &AnyMachine,
        booted: Booted,
    ) -> Result<(), StepError> {
        let Some(run) = self.observed.asleep else { return Ok(()) };
        let mut record = self.shared.view.borrow().to_record();
        let launch = VmStep::Launch { run, full: self.shared.spec.is_full(), saved: false };
        record.observed = self.observed.clone().after(&launch);
        record.observed.set_motion(Motion::Paused);
        record.machine = Some(Self::machine_record(machine, booted));
        self.node
            .store
            .set_observed(self.shared.id, record)
            .await
            .map_err(|error| Failure::of(&error, "start the VM again"))?;
        fail_point(Point::WakeNoted);
        self.take_memory_away().await?;
        fail_point(Point::WakeTaken);
        Ok(())
    }

    /// Whether there is anything to go on from still.
    pub(super) fn look_for_memory(&mut self) {
        if self.observed.asleep.is_some() {
            self.observed.asleep = kept_run(&self.shared.paths.asleep());
        }
    }

    /// For the receipt of one that goes on from there.
    pub(in super::super) fn own_origin(&self) -> Option<Origin> {
        self.observed
            .is_woken()
            .then(|| Origin { snapshot: self.own_id(), name: self.shared.spec.name.to_string() })
    }

    /// What it goes on from has no other name.
    fn own_id(&self) -> SnapshotId {
        let mut bytes = [0; SnapshotId::BYTES];
        for (to, from) in bytes.iter_mut().zip(self.shared.id.as_bytes()) {
            *to = *from;
        }
        SnapshotId::from_bytes(bytes)
    }
}
