//! What a guest is told and tells when its machine goes on from a saved one.

use std::fmt;
use std::time::Duration;

use crate::GuestSetup;

/// Makes it itself again.
#[derive(Clone)]
pub struct GuestResume {
    /// 32 to 512 bytes that nobody else has.
    pub entropy: Vec<u8>,
    /// Of its only card; `None` leaves it.
    pub mac: Option<[u8; 6]>,
    /// As of a fresh one. What is mounted stays so.
    pub setup: GuestSetup,
    /// What the programs in /etc/innkeeper/resume.d may take all together; they
    /// are not run where it is zero.
    pub hooks: Duration,
}

/// Without the entropy.
impl fmt::Debug for GuestResume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestResume")
            .field("mac", &self.mac)
            .field("setup", &self.setup)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

/// The guest's word of each step, in order; after one that failed there is no
/// other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResumeReport {
    pub steps: Vec<ResumeStep>,
}

impl ResumeReport {
    /// The step that failed, if one did, and how.
    pub fn failure(&self) -> Option<(ResumeStepKind, &str)> {
        self.steps.iter().find_map(|step| match &step.result {
            StepResult::Failed(what) => Some((step.kind, what.as_str())),
            StepResult::Done | StepResult::Skipped(_) => None,
        })
    }

    /// By how much the guest's clock may lag behind the one that it was told,
    /// where the answer came `took` after: all of it, but for the steps since.
    pub fn clock_lag(&self, took: Duration) -> Duration {
        let since = self.steps.iter().skip_while(|step| step.kind != ResumeStepKind::Clock).skip(1);
        took.saturating_sub(since.map(|step| step.took).sum())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeStep {
    pub kind: ResumeStepKind,
    pub took: Duration,
    pub result: StepResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeStepKind {
    /// Its random numbers begin anew.
    Entropy,
    Clock,
    Hostname,
    MachineId,
    /// MAC and addresses.
    Network,
    Mounts,
    /// What its owner keeps from disks and snapshots, delivered again.
    Secrets,
    /// The owner's programs in /etc/innkeeper/resume.d.
    Hooks,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepResult {
    Done,
    /// Why.
    Skipped(String),
    /// Completes "the guest cannot …".
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_lags_by_all_that_came_before_it_was_set() {
        let step = |kind, ms| ResumeStep {
            kind,
            took: Duration::from_millis(ms),
            result: StepResult::Done,
        };
        let steps = vec![
            step(ResumeStepKind::Entropy, 3),
            step(ResumeStepKind::Clock, 1),
            step(ResumeStepKind::Hostname, 20),
            step(ResumeStepKind::Network, 70),
        ];
        let lag = |steps, took| ResumeReport { steps }.clock_lag(Duration::from_millis(took));
        assert_eq!(lag(steps.clone(), 100), Duration::from_millis(10));
        assert_eq!(lag(steps, 80), Duration::ZERO, "a guest that tells of more than there was");
        assert_eq!(lag(Vec::new(), 80), Duration::from_millis(80));
    }
}
