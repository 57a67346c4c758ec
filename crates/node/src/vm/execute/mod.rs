//! One step of a plan, done on the host.
//!
//! What undoes a step that failed is the next plan: a machine whose guest
//! never answered is killed by it, a disk half made is made again.

mod asleep;
mod cloud_init;
mod draft;
mod files;
mod guest;
mod identify;
mod launch;
mod opening;
mod pause;
mod seed;
mod stop;
mod supervise;
mod turn;

pub(super) use self::cloud_init::waiting;
pub(crate) use self::draft::{Draft, HandedOver};
pub(super) use self::files::grow_file;
pub(super) use self::identify::Ordered;
pub(crate) use self::launch::channel;
pub(super) use self::opening::Way;
pub(super) use self::turn::Waits;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::{Desired, Power, VmStep};
use inn_store::EndRecord;
use inn_vmm::Machine;
use tokio::time::timeout_at;

use super::failure::{Failure, StepError};
use super::task::VmTask;
use crate::guest::{GuestError, GuestSession};
use crate::runtime::AnyMachine;

/// How long one attempt to get a lost session back may take, and what a guest
/// that came late has for the rest of its start.
pub(super) const RECONNECT: Duration = Duration::from_secs(10);

/// What a step that succeeded has brought, beyond what every such step does.
#[derive(Debug)]
pub(super) enum StepOutcome {
    Done,
    /// Of the handshake of a full VM: nobody has answered in time.
    NoAgent,
    /// It is over and did not do what it was for; the VM runs on.
    Impaired,
    /// The machine is gone, so.
    Ended(EndRecord),
}

impl VmTask {
    pub(super) async fn execute(&mut self, step: &VmStep) -> Result<StepOutcome, StepError> {
        let done = match step {
            VmStep::MakeDisks => self.make_disks().await,
            VmStep::Launch { .. } => self.launch().await,
            VmStep::Handshake => return self.handshake().await,
            VmStep::Configure => self.configure().await,
            VmStep::CloudInit => return self.cloud_init().await,
            VmStep::StartWorkload => self.start_workload().await,
            VmStep::Reconnect => self.reconnect().await,
            VmStep::Pause => self.pause().await,
            VmStep::Resume => self.resume().await,
            VmStep::Suspend => self.suspend().await,
            VmStep::Discard => self.discard().await,
            VmStep::Shutdown { grace } => return self.shutdown(*grace).await,
            VmStep::Kill => return self.kill().await,
            VmStep::RemoveFiles { removal } => self.remove_files(*removal).await,
            VmStep::Forget => self.forget().await,
            // Never executed: the task waits for it.
            VmStep::WaitUntil(_) => Ok(()),
        };
        done.map(|()| StepOutcome::Done)
    }

    /// What the guest is asked on its way up has the start's deadline, and is
    /// given up for the machine's end and for another desire.
    async fn while_booting<T>(
        &self,
        asking: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<T, StepError> {
        let machine = self.machine()?;
        tokio::select! {
            // The guest may have done it: configuring twice does no harm, and
            // an exec with an id that is there is found again.
            answer = timeout_at(self.boot_deadline, asking) => match answer {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Failure::new(
                    "the guest agent has answered and then fell silent",
                    "see what its console says, then start the VM again",
                )
                .try_this("inn vm logs {vm} --source console")
                .with_console()
                .into()),
            },
            end = machine.wait() => Err(StepError::Ended(end)),
            () = self.superseded() => Err(StepError::Superseded),
        }
    }

    /// Resolves once this way up leads to nothing that is desired any more.
    async fn superseded(&self) {
        let run = self.desired().run;
        tokio::select! {
            // Both only look at values.
            () = self.wants(|desired| desired.power != Power::Running || desired.run > run) => {}
            () = self.node.closing.cancelled() => {}
        }
    }

    async fn wants(&self, wanted: impl Fn(&Desired) -> bool) {
        let mut views = self.shared.view.subscribe();
        if views.wait_for(|view| wanted(&view.wanted())).await.is_err() {
            // We hold the sender ourselves.
            std::future::pending().await
        }
    }

    fn machine(&self) -> Result<Arc<AnyMachine>, StepError> {
        self.machine
            .clone()
            .ok_or_else(|| Failure::new("its machine is not there", "start the VM again").into())
    }

    fn session(&self) -> Result<GuestSession, StepError> {
        self.session.clone().ok_or_else(|| {
            Failure::new("its guest's session is not there", "start the VM again")
                .with_console()
                .into()
        })
    }
}
