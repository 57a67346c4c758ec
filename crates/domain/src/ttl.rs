//! The time that a VM is given to live.
//!
//! An agent counts it down by a clock that nobody sets, so that a jump of the
//! host's time moves no end while it runs. What it stores for its next life is
//! a wall-clock time, and that life bounds what a jump in between can do: a VM
//! never has more left than it was given, and never less than a short grace,
//! so that a clock that leapt forward ends nothing before somebody could have
//! renewed it.

use std::time::Duration;

/// What becomes of a VM whose time is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TtlAction {
    Stop,
    #[default]
    Delete,
}

/// How long a VM is left at least when an agent begins, so that whoever renews
/// it can, and so that not all go in the same instant as the agent comes up.
pub const TTL_GRACE: Duration = Duration::from_secs(60);

/// Ten years: beyond that no time to live is the better one.
pub const LONGEST_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TtlDeniedReason {
    #[error("a time to live is a second at least")]
    TooShort,
    #[error("a time to live is ten years at most; leave it out for a VM that stays")]
    TooLong,
}

pub fn admit_ttl(ttl: Duration) -> Result<(), TtlDeniedReason> {
    if ttl < Duration::from_secs(1) {
        Err(TtlDeniedReason::TooShort)
    } else if ttl > LONGEST_TTL {
        Err(TtlDeniedReason::TooLong)
    } else {
        Ok(())
    }
}

/// What is left at an agent's start of a time that was `granted`, where the
/// host's clock says `by_clock`; nothing, once that is past.
pub fn ttl_left(by_clock: Duration, granted: Duration) -> Duration {
    by_clock.max(TTL_GRACE).min(granted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clock_that_jumps_gives_no_more_than_was_granted_and_no_less_than_a_grace() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for (by_clock, granted, left) in [
            (minutes(7), minutes(10), minutes(7)),
            // Back by a day.
            (minutes(1440), minutes(10), minutes(10)),
            // Forward, past the end.
            (Duration::ZERO, minutes(10), TTL_GRACE),
            (Duration::ZERO, Duration::from_secs(5), Duration::from_secs(5)),
        ] {
            assert_eq!(ttl_left(by_clock, granted), left, "{by_clock:?} of {granted:?}");
        }
        assert!(admit_ttl(Duration::from_millis(999)).is_err());
        assert!(admit_ttl(LONGEST_TTL + Duration::from_secs(1)).is_err());
        assert_eq!(admit_ttl(Duration::from_secs(1)), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_left_is_bounded(by_clock in 0u64..u64::MAX, granted in 1u64..400_000_000) {
            let granted = Duration::from_secs(granted);
            let left = ttl_left(Duration::from_millis(by_clock), granted);
            prop_assert!(left <= granted && left >= TTL_GRACE.min(granted));
        }
    }
}
