//! When to ask again. Pure but for the die that jitter throws.

use std::time::{Duration, SystemTime};

/// Of the first wait; each further one doubles it.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// Nobody waits longer for a host that asks for patience: past it the error
/// says until when.
const MOST_PATIENCE: Duration = Duration::from_secs(120);

/// A wait before try `tries` (1 is the first repetition), between half and the
/// whole of what doubling gives: many that failed together come back apart.
pub(crate) fn backoff(tries: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST);
    whole.mul_f64(0.5 + fraction() / 2.0)
}

/// Of a 429 or 503: how long the host wants to be left alone. None where it
/// doesn't say.
pub(crate) fn retry_after(value: Option<&str>, now: SystemTime) -> Option<Duration> {
    let value = value?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    // RFC 9110, 10.2.3: a date else; one that is past means now.
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The wait before the next try, or none where there is to be no next.
pub(crate) fn wait(tries: u32, asked: Option<Duration>) -> Option<Duration> {
    match asked {
        Some(asked) if asked > MOST_PATIENCE => None,
        // A little later than asked for: clocks differ, and so do clients.
        Some(asked) => Some(asked + FIRST.mul_f64(fraction())),
        None => Some(backoff(tries)),
    }
}

/// From 0 to 1.
fn fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn waits_double_up_to_a_bound_and_differ() {
        for tries in 1..60 {
            let whole = FIRST.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST);
            let wait = backoff(tries);
            assert!(wait >= whole / 2 && wait <= whole, "{tries}: {wait:?}");
        }
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| backoff(5)).collect();
        assert!(waits.len() > 10);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(Some("7"), EPOCH), Some(Duration::from_secs(7)));
        let date = "Thu, 01 Jan 1970 00:01:00 GMT";
        assert_eq!(retry_after(Some(date), EPOCH), Some(Duration::from_secs(60)));
        let later = EPOCH + Duration::from_secs(600);
        assert_eq!(retry_after(Some(date), later), Some(Duration::ZERO));
        for odd in ["soon", "-3", "", "1.5"] {
            assert_eq!(retry_after(Some(odd), EPOCH), None, "{odd}");
        }
    }

    #[test]
    fn patience_has_an_end() {
        let asked = wait(1, Some(Duration::from_secs(5))).unwrap();
        assert!(asked >= Duration::from_secs(5) && asked < Duration::from_secs(6));
        assert_eq!(wait(1, Some(Duration::from_secs(3600))), None);
        assert_eq!(wait(1, Some(Duration::MAX)), None);
        assert!(wait(1, None).unwrap() <= FIRST);
    }
}
