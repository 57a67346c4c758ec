//! The end of a machine, however it came about, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use inn_domain::{DownReason, EndKind};
use inn_store::EndRecord;
use inn_vmm::{Machine, MachineEnd};
use jiff::Timestamp;

use super::execute::StepOutcome;
use super::failure::{Failure, StepError, console_of_boot, end_in_words, of_end};
use super::publish::Live;
use super::task::VmTask;

/// How long a machine may take to tell its end after its guest's session has
/// broken off: then the end is the better explanation.
const END_FOLLOWS: Duration = Duration::from_secs(2);

impl VmTask {
    pub(super) async fn machine_ended(&mut self, end: MachineEnd) {
        let desired = self.desired();
        let was_up = self.observed.machine.is_some_and(|machine| machine.counts_as_up());
        let reason = match end {
            MachineEnd::PoweredOff => DownReason::PoweredOff,
            MachineEnd::Reset => DownReason::Reset,
            MachineEnd::Panicked | MachineEnd::Killed | MachineEnd::Died(_) => DownReason::Crashed,
        };
        let name = self.shared.spec.name.clone();
        tracing::info!(vm = %name, ?end, "the machine has ended by itself");
        self.observed = std::mem::take(&mut self.observed).ended(reason, &desired);
        self.meter();
        self.went_down();
        let record = EndRecord {
            how: EndKind::ByItself,
            reason: Some(end_in_words(&end)),
            took: None,
            at: Timestamp::now(),
        };
        self.tell_end(&record);
        self.shared.modify(|view| view.last_end = Some(Arc::new(record)));
        let step = if was_up { "run" } else { "boot" };
        if !was_up || reason == DownReason::Crashed {
            self.explain(step, of_end(&end, !was_up)).await;
        }
        self.machine_is_gone().await;
    }

    pub(super) fn went_down(&mut self) {
        let up = self.up_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.observed.backoff = self.observed.backoff.failed(self.node.now(), up);
    }

    pub(super) async fn explain(&self, step: &str, failure: Failure) {
        let console = if failure.console {
            let boots = Arc::clone(&self.shared.view.borrow().boots);
            console_of_boot(&self.shared.paths, &boots).await
        } else {
            Vec::new()
        };
        let failure = failure.explained_by_console(&console);
        let record = failure.record(step, &self.shared.spec.name, console, Timestamp::now());
        self.tell_failure(&record);
        self.shared.modify(|view| view.failure = Some(Arc::new(record)));
    }

    /// After the machine's end, however it came about.
    pub(super) async fn machine_is_gone(&mut self) {
        self.meter_last().await;
        self.hang_up().await;
        self.drain_workload().await;
        self.machine = None;
        self.ordered = None;
        self.up_since = None;
        self.lost = None;
        self.shared.telemetry.machine_is_gone();
        self.shared.live.send_replace(Live::default());
        self.shared.modify(|view| {
            view.machine = None;
            view.cloud_init = None;
            view.hello = None;
            view.started_at = None;
            if let Some(workload) = &mut view.workload
                && workload.running
            {
                let workload = Arc::make_mut(workload);
                workload.running = false;
                workload.reason = Some("ended with its VM".to_owned());
            }
        });
        self.node.networks.detach(self.shared.id);
        self.leave_groups().await;
        self.bound_logs().await;
        self.persist().await;
    }

    /// A guest that falls silent because its machine has ended: the end says
    /// more than the silence.
    pub(super) async fn explained_by_an_end(
        &self,
        failure: Failure,
    ) -> Result<StepOutcome, StepError> {
        if failure.console
            && let Some(machine) = &self.machine
            && let Ok(end) = tokio::time::timeout(END_FOLLOWS, machine.wait()).await
        {
            return Err(StepError::Ended(end));
        }
        Err(StepError::Failed(failure))
    }
}
