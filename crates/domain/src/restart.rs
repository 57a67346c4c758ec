use std::time::Duration;

use crate::RestartPolicy;
use crate::observed::DownReason;

/// A point in time as a distance from some fixed one in the agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub Duration);

impl Moment {
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

/// How often a VM went down by itself of late, and when it may be started
/// again: after 1 s, 2 s, 4 s … and at most [`Backoff::LONGEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
    not_before: Moment,
}

impl Backoff {
    pub const FIRST: Duration = Duration::from_secs(1);
    pub const LONGEST: Duration = Duration::from_secs(300);
    /// A VM that ran so long was well: its next end counts as the first.
    pub const WELL: Duration = Duration::from_secs(60);

    /// As an earlier life of the agent left it, with so much of the wait left:
    /// never more than there ever is.
    #[must_use]
    pub fn restored(failures: u32, now: Moment, left: Duration) -> Self {
        Self { failures: failures.min(31), not_before: now.plus(left.min(Self::LONGEST)) }
    }

    /// After one more end at `now` of a VM that was up for `up`.
    #[must_use]
    pub fn failed(self, now: Moment, up: Duration) -> Self {
        self.failed_within(now, up, Self::LONGEST)
    }

    /// The same where no wait shall be longer than `longest`.
    #[must_use]
    pub fn failed_within(self, now: Moment, up: Duration, longest: Duration) -> Self {
        let failures = if up >= Self::WELL { 0 } else { self.failures };
        let wait = Self::FIRST.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
        Self {
            // Past that the wait is at its longest anyway.
            failures: failures.saturating_add(1).min(31),
            not_before: now.plus(wait.min(longest)),
        }
    }

    pub fn not_before(self) -> Moment {
        self.not_before
    }

    /// How often it went down since it was last well.
    pub fn failures(self) -> u32 {
        self.failures
    }
}

/// Whether a VM that went down so starts again without being asked.
///
/// A guest that asked for a reset is always given one. A machine that never
/// answered is not tried again: what kept it from booting is still there. But
/// a VM that was up and whose restart failed is, under its policy.
pub(crate) fn starts_again(policy: RestartPolicy, reason: DownReason, was_up: bool) -> bool {
    match (reason, policy) {
        // What goes on in place of it boots.
        (DownReason::Reset | DownReason::NotWoken, _) => was_up,
        (DownReason::PoweredOff, policy) => policy == RestartPolicy::Always,
        (DownReason::Crashed | DownReason::StartFailed, RestartPolicy::No) => false,
        (DownReason::Crashed | DownReason::StartFailed, _) => was_up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_a_well_run_forgives() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            backoff = backoff.failed(Moment::default(), Duration::ZERO);
            waits.push(backoff.not_before().0.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        for _ in 0..100 {
            backoff = backoff.failed(Moment::default(), Duration::ZERO);
        }
        assert_eq!(backoff.not_before().0, Backoff::LONGEST);
        let short =
            backoff.failed_within(Moment::default(), Duration::ZERO, Duration::from_secs(9));
        assert_eq!(short.not_before().0.as_secs(), 9);
        let now = Moment(Duration::from_secs(1_000));
        backoff = backoff.failed(now, Backoff::WELL);
        assert_eq!(backoff.not_before(), now.plus(Backoff::FIRST));
    }

    #[test]
    fn a_backoff_goes_on_in_another_life() {
        let now = Moment(Duration::from_secs(3));
        let goes_on = Backoff::restored(3, now, Duration::from_secs(5));
        assert_eq!(goes_on.not_before(), now.plus(Duration::from_secs(5)));
        let later = Moment(Duration::from_secs(10));
        let next = goes_on.failed(later, Duration::ZERO);
        assert_eq!((next.failures(), next.not_before()), (4, later.plus(Duration::from_secs(8))));
        // A clock that was set back keeps nobody waiting for longer than ever.
        let day = Backoff::restored(u32::MAX, now, Duration::from_secs(86_400));
        assert_eq!(day.not_before(), now.plus(Backoff::LONGEST));
        assert_eq!(day.failed(now, Duration::ZERO).not_before(), now.plus(Backoff::LONGEST));
    }

    #[test]
    fn a_policy_says_who_starts_again() {
        use DownReason::{Crashed, PoweredOff, Reset, StartFailed};
        use RestartPolicy::{Always, No, OnFailure};
        for (policy, reason, was_up, again) in [
            (No, PoweredOff, true, false),
            (OnFailure, PoweredOff, true, false),
            (Always, PoweredOff, true, true),
            (No, Crashed, true, false),
            (OnFailure, Crashed, true, true),
            (OnFailure, StartFailed, true, true),
            (Always, StartFailed, false, false),
            (No, Reset, true, true),
            (Always, Reset, false, false),
        ] {
            assert_eq!(
                starts_again(policy, reason, was_up),
                again,
                "{policy:?} {reason:?} {was_up}"
            );
        }
    }
}
