use std::time::Duration;

use inn_guest_proto::wire;

use super::{Bytes, clip, configure, millis};
use crate::{GuestError, GuestResume, ResumeReport, ResumeStep, ResumeStepKind, StepResult};

/// Far more than there are kinds.
const MAX_STEPS: usize = 32;

pub(crate) fn resume(resume: GuestResume) -> Result<wire::Resume, GuestError> {
    let GuestResume { entropy, mac, setup, hooks } = resume;
    Ok(wire::Resume {
        entropy: entropy.into(),
        mac: mac.map_or_else(Bytes::new, |mac| Bytes::copy_from_slice(&mac)),
        setup: Some(configure(setup)?),
        hooks_ms: millis(hooks),
    })
}

/// Steps of a kind that is not known, of a guest that is newer, are left out
/// unless they failed.
pub(crate) fn resumed(done: &wire::Resumed) -> ResumeReport {
    ResumeReport { steps: done.steps.iter().take(MAX_STEPS).filter_map(step).collect() }
}

fn step(step: &wire::ResumeStep) -> Option<ResumeStep> {
    use wire::resume_step::Result;
    let result = match &step.result {
        Some(Result::Done(_)) => StepResult::Done,
        Some(Result::Skipped(why)) => StepResult::Skipped(clip(why)),
        Some(Result::Failed(what)) => StepResult::Failed(clip(what)),
        None => StepResult::Failed("say what came of it".to_owned()),
    };
    let kind = match wire::ResumeStepKind::try_from(step.kind) {
        Ok(wire::ResumeStepKind::Entropy) => ResumeStepKind::Entropy,
        Ok(wire::ResumeStepKind::Clock) => ResumeStepKind::Clock,
        Ok(wire::ResumeStepKind::Hostname) => ResumeStepKind::Hostname,
        Ok(wire::ResumeStepKind::MachineId) => ResumeStepKind::MachineId,
        Ok(wire::ResumeStepKind::Network) => ResumeStepKind::Network,
        Ok(wire::ResumeStepKind::Mounts) => ResumeStepKind::Mounts,
        Ok(wire::ResumeStepKind::Secrets) => ResumeStepKind::Secrets,
        Ok(wire::ResumeStepKind::Hooks) => ResumeStepKind::Hooks,
        // The last one that is known: what it was, its text says.
        Err(_) if matches!(result, StepResult::Failed(_)) => ResumeStepKind::Hooks,
        Err(_) => return None,
    };
    Some(ResumeStep { kind, took: Duration::from_nanos(step.took_ns), result })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::resume_step::Result;

    fn told(kind: i32, result: Option<Result>) -> wire::ResumeStep {
        wire::ResumeStep { kind, took_ns: 1_000, result }
    }

    #[test]
    fn nothing_of_a_guest_passes_for_success_that_is_none() {
        let done = || Some(Result::Done(wire::Done {}));
        let report = |steps| resumed(&wire::Resumed { steps });
        assert_eq!(report(vec![told(0, done()), told(99, done())]).steps.len(), 1);
        for bad in [told(0, None), told(99, Some(Result::Failed("x".into())))] {
            assert!(report(vec![bad]).failure().is_some());
        }
        let many = report(vec![told(0, done()); 1000]);
        assert_eq!(many.steps.len(), MAX_STEPS);
    }
}
