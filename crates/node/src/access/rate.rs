//! How often somebody may ask: a bucket for each, which fills by and by.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Buckets that are kept: an attacker with more addresses than that shares
/// them, and so do those who ask beside it.
const BUCKETS: usize = 4_096;

/// What a full bucket holds, in seconds of its rate: who has been quiet may
/// ask for so much at once.
const BURST_SECONDS: u32 = 3;

/// Buckets of one rate, which may change.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self { buckets: Mutex::default() }
    }
}

impl<K: Hash + Eq> Rates<K> {
    /// Takes one request out of a bucket; else says when there is one again.
    pub(crate) fn take(&self, key: K, per_second: u32, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(per_second);
        let most = f64::from(per_second.saturating_mul(BURST_SECONDS));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS && !buckets.contains_key(&key) {
            // Those that are full again by now are as good as none.
            buckets.retain(|_, bucket| bucket.filled(rate, most, now).left < most);
            if buckets.len() >= BUCKETS {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: most, at: now });
        *bucket = bucket.filled(rate, most, now);
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) / rate));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn filled(self, rate: f64, most: f64, now: Instant) -> Self {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        Self { left: (self.left + since * rate).min(most), at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rates = Rates::default();
        let start = Instant::now();
        for n in 0..30 {
            assert_eq!(rates.take("a", 10, start), Ok(()), "{n}");
        }
        let wait = rates.take("a", 10, start).unwrap_err();
        assert!(wait > Duration::from_millis(99) && wait < Duration::from_millis(101), "{wait:?}");
        assert_eq!(rates.take("b", 10, start), Ok(()), "another's");
        let later = start + Duration::from_millis(250);
        assert_eq!((rates.take("a", 10, later), rates.take("a", 10, later)), (Ok(()), Ok(())));
        assert!(rates.take("a", 10, later).is_err());
        let much_later = start + Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| rates.take("a", 10, much_later).is_ok()).count(), 30);
        // Another rate holds at once, for buckets that there are.
        assert_eq!(rates.take("b", 1, start), Ok(()));
        let most = (0..100).filter(|_| rates.take("b", 1, start).is_ok()).count();
        assert_eq!(most, 2, "three in all, and not thirty");
        // A clock that goes back gives nothing.
        assert!(rates.take("a", 10, start).is_err());
    }

    #[test]
    fn strangers_without_end_take_no_memory_without_end() {
        let rates = Rates::default();
        let start = Instant::now();
        let taken = (0..BUCKETS * 2).filter(|n| rates.take(*n, 1, start).is_ok()).count();
        assert_eq!(taken, BUCKETS);
        let later = start + Duration::from_secs(10);
        assert_eq!(rates.take(usize::MAX, 1, later), Ok(()), "those have filled again");
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
