//! How often each VM may ask: a bucket of answers each, that fills up again.

use std::collections::HashMap;
use std::time::Duration;

use inn_units::VmId;
use tokio::time::Instant;

/// Answers that a VM has saved up at most, and how long one takes to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) burst: u32,
    pub(crate) each: Duration,
}

/// Holds VMs that are declared, and so no more than there are.
#[derive(Debug)]
pub(crate) struct Rate {
    limit: Limit,
    /// When each VM's bucket will be, or was, full again.
    full_at: HashMap<VmId, Instant>,
}

impl Rate {
    pub(crate) fn new(limit: Limit) -> Self {
        Self { limit, full_at: HashMap::new() }
    }

    /// Whether it gets an answer now.
    pub(crate) fn allows(&mut self, vm: VmId, now: Instant) -> bool {
        let Limit { burst, each } = self.limit;
        let full_at = self.full_at.entry(vm).or_insert(now);
        let next = (*full_at).max(now) + each;
        let allowed = next <= now + each * burst;
        if allowed {
            *full_at = next;
        }
        allowed
    }

    /// Forgets those whose bucket is full: they are as new.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_at_a_time_and_each_for_itself() {
        let limit = Limit { burst: 3, each: Duration::from_secs(1) };
        let (mut rate, now) = (Rate::new(limit), Instant::now());
        let (one, two) = (VmId::from_bytes([1; 5]), VmId::from_bytes([2; 5]));
        let burst: Vec<bool> = (0..5).map(|_| rate.allows(one, now)).collect();
        assert_eq!(burst, [true, true, true, false, false]);
        assert!(rate.allows(two, now));
        let later = now + Duration::from_secs(1);
        assert!(rate.allows(one, later) && !rate.allows(one, later));
        rate.forget(later);
        assert_eq!(rate.full_at.len(), 1);
        rate.forget(later + Duration::from_secs(9));
        assert!(rate.full_at.is_empty());
    }
}
