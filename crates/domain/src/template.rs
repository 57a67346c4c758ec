//! Templates: which VMs begin from one, and how many clones of each wait.
//!
//! ```text
//!   a VM that boots ──▶ kind: image, kernel, size, runtime ──▶ one template for all of that kind
//!   uses of each kind, budget ──plan_pool (pure)──▶ PoolStep: one more clone, one less
//! ```

use std::cmp::Reverse;
use std::time::Duration;

use inn_units::Bytes;

use crate::{Moment, VmSpec};

/// A kind that nobody has asked for in so long has no clones waiting.
pub const CLONES_KEPT: Duration = Duration::from_secs(600);

/// Uses within this time are likely to come together again.
pub const CLONES_TOGETHER: Duration = Duration::from_secs(60);

/// Why a VM boots, though others begin from a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTemplateReason {
    #[error("it has an operating system of its own")]
    Full,
    #[error("it has a disk at /persist, which belongs to its name")]
    Persist,
    #[error("its guest is reached by a channel that its runtime cannot save")]
    Channel,
    #[error("it begins from a snapshot or from another VM")]
    Saved,
}

/// Whether a VM may begin from a template of its kind.
pub fn admit_template(spec: &VmSpec) -> Result<(), NoTemplateReason> {
    match spec {
        spec if spec.is_full() => Err(NoTemplateReason::Full),
        VmSpec { persist: true, .. } => Err(NoTemplateReason::Persist),
        VmSpec { from: Some(_), .. } => Err(NoTemplateReason::Saved),
        _ => Ok(()),
    }
}

/// What clones that wait may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// All of them together. Zero: there is no pool.
    pub memory: Bytes,
    /// The most of one kind.
    pub each: usize,
}

/// Clones of one kind, and who asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolKind<K> {
    pub kind: K,
    /// Those that wait, and those that are being made.
    pub clones: usize,
    /// What one takes of the host's memory.
    pub cost: Bytes,
    /// Uses in the last [`CLONES_TOGETHER`].
    pub recent: usize,
    pub last_used: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolStep<K> {
    Retire(K),
    Make(K),
}

/// From what is used, and what there is, to what to do: first what goes. Every
/// kind in use has one before any has a second; the most used come first.
pub fn plan_pool<K: Copy + Ord>(
    kinds: &[PoolKind<K>],
    limits: PoolLimits,
    now: Moment,
) -> Vec<PoolStep<K>> {
    let mut order: Vec<&PoolKind<K>> = kinds.iter().collect();
    order.sort_by_key(|kind| (Reverse(kind.recent), Reverse(kind.last_used), kind.kind));
    let mut wanted = vec![0; order.len()];
    let mut left = limits.memory.get();
    let each = if left == 0 { 0 } else { limits.each };
    for round in 0..each {
        for (kind, wanted) in order.iter().zip(&mut wanted) {
            let asked = if is_idle(kind, now) { 0 } else { kind.recent.max(1) };
            let cost = kind.cost.get();
            if *wanted == round && round < asked && cost <= left {
                *wanted += 1;
                left -= cost;
            }
        }
    }
    let mut steps = Vec::new();
    for (kind, wanted) in order.iter().zip(&wanted) {
        let surplus = kind.clones.saturating_sub(*wanted);
        steps.extend(std::iter::repeat_n(PoolStep::Retire(kind.kind), surplus));
    }
    for (kind, wanted) in order.iter().zip(&wanted) {
        let missing = wanted.saturating_sub(kind.clones);
        steps.extend(std::iter::repeat_n(PoolStep::Make(kind.kind), missing));
    }
    steps
}

/// When the plan next changes though nobody asks for anything.
pub fn next_pool_change<K>(kinds: &[PoolKind<K>], now: Moment) -> Option<Moment> {
    let changes = kinds.iter().filter(|kind| kind.clones > 0 && !is_idle(kind, now));
    changes.map(|kind| Moment(kind.last_used.0 + CLONES_KEPT)).min()
}

fn is_idle<K>(kind: &PoolKind<K>, now: Moment) -> bool {
    now.0.saturating_sub(kind.last_used.0) >= CLONES_KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(kind: u8, clones: usize, recent: usize, last_used: u64) -> PoolKind<u8> {
        let last_used = Moment(Duration::from_secs(last_used));
        PoolKind { kind, clones, cost: Bytes::mib(40), recent, last_used }
    }

    fn plan(kinds: &[PoolKind<u8>], mib: u64, now: u64) -> Vec<PoolStep<u8>> {
        let limits = PoolLimits { memory: Bytes::mib(mib), each: 4 };
        plan_pool(kinds, limits, Moment(Duration::from_secs(now)))
    }

    #[test]
    fn each_kind_in_use_has_one_before_any_has_a_second() {
        use PoolStep::Make;
        let kinds = [kind(1, 0, 3, 100), kind(2, 0, 1, 90)];
        assert_eq!(plan(&kinds, 80, 100), [Make(1), Make(2)]);
        assert_eq!(plan(&kinds, 120, 100), [Make(1), Make(1), Make(2)]);
        assert_eq!(plan(&kinds, 40, 100), [Make(1)]);
        assert_eq!(plan(&kinds, 39, 100), []);
    }

    #[test]
    fn no_kind_has_more_than_its_share() {
        let many = [kind(1, 0, 100, 100)];
        assert_eq!(plan(&many, 10_000, 100).len(), 4);
    }

    #[test]
    fn what_nobody_asks_for_any_more_goes() {
        use PoolStep::Retire;
        let kinds = [kind(1, 2, 0, 100)];
        // Once they come no more together, one stays.
        assert_eq!(plan(&kinds, 1000, 200), [Retire(1)]);
        let end = 100 + CLONES_KEPT.as_secs();
        assert_eq!(plan(&kinds, 1000, end), [Retire(1), Retire(1)]);
        let now = |s| Moment(Duration::from_secs(s));
        assert_eq!(next_pool_change(&kinds, now(200)), Some(now(end)));
        assert_eq!(next_pool_change(&kinds, now(end)), None);
    }

    #[test]
    fn a_smaller_budget_shrinks_the_pool_at_once() {
        let kinds = [kind(1, 3, 3, 100), kind(2, 1, 1, 100)];
        assert_eq!(plan(&kinds, 0, 100).len(), 4);
        assert!(plan(&kinds, 0, 100).iter().all(|step| matches!(step, PoolStep::Retire(_))));
    }

    proptest::proptest! {
        #[test]
        fn what_is_planned_fits_and_is_stable(
            all in proptest::collection::vec((0usize..6, 0u64..100, 0usize..9, 0u64..1000), 0..6),
            memory in 0u64..600,
            now in 0u64..2000,
        ) {
            let mut kinds: Vec<PoolKind<u8>> = (0u8..)
                .zip(all)
                .map(|(n, (clones, cost, recent, last_used))| PoolKind {
                    kind: n,
                    clones,
                    cost: Bytes(cost),
                    recent,
                    last_used: Moment(Duration::from_secs(last_used)),
                })
                .collect();
            let limits = PoolLimits { memory: Bytes(memory), each: 4 };
            let now = Moment(Duration::from_secs(now));
            for step in plan_pool(&kinds, limits, now) {
                let (PoolStep::Make(of) | PoolStep::Retire(of)) = step;
                let kind = &mut kinds[usize::from(of)];
                match step {
                    PoolStep::Make(_) => kind.clones += 1,
                    PoolStep::Retire(_) => kind.clones -= 1,
                }
            }
            let taken: u64 = kinds.iter().map(|k| k.cost.get() * k.clones as u64).sum();
            proptest::prop_assert!(taken <= memory);
            proptest::prop_assert!(kinds.iter().all(|k| k.clones <= 4));
            proptest::prop_assert_eq!(plan_pool(&kinds, limits, now), []);
        }
    }
}
