//! What a VM's task is at, for whoever asks why.

use inn_domain::{Moment, VmStep};
use jiff::Timestamp;
use tokio::time::Instant;

use super::execute::RECONNECT;
use super::task::VmTask;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    /// What is desired has been reached, or only a request changes anything.
    #[default]
    Idle,
    AtWork {
        step: VmStep,
        since: Timestamp,
        /// When it is given up, where it is not bounded by what it does.
        deadline: Option<Timestamp>,
    },
    /// For the next attempt at `step`.
    Waits { step: VmStep, until: Moment },
}

impl VmTask {
    pub(super) fn begins(&self, step: &VmStep) {
        let since = Timestamp::now();
        let deadline = self.deadline_of(step).map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            since.checked_add(left).unwrap_or(Timestamp::MAX)
        });
        let activity = Activity::AtWork { step: step.clone(), since, deadline };
        self.quietly(|view| view.activity = activity);
    }

    pub(super) fn rests(&self, next: Option<&VmStep>, until: Option<Moment>) {
        let activity = match (next, until) {
            (Some(step), Some(until)) => Activity::Waits { step: step.clone(), until },
            _ => Activity::Idle,
        };
        self.quietly(|view| view.activity = activity);
    }

    fn deadline_of(&self, step: &VmStep) -> Option<Instant> {
        match step {
            VmStep::Launch { .. } => Some(Instant::now() + self.node.config.live().start_deadline),
            VmStep::Handshake | VmStep::Configure | VmStep::StartWorkload => {
                Some(self.boot_deadline)
            }
            VmStep::CloudInit => Some(self.cloud_init_deadline()),
            VmStep::Reconnect => Some(Instant::now() + RECONNECT),
            VmStep::Shutdown { grace } => Some(Instant::now() + *grace),
            // As long as there are bytes to copy or to remove; a runtime
            // escalates by itself.
            VmStep::MakeDisks
            | VmStep::Pause
            | VmStep::Resume
            | VmStep::Suspend
            | VmStep::Discard
            | VmStep::Kill
            | VmStep::WaitUntil(_)
            | VmStep::RemoveFiles { .. }
            | VmStep::Forget => None,
        }
    }
}
