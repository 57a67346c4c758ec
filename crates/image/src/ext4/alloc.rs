use std::collections::{BTreeMap, BTreeSet};

/// A run of blocks on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// Hands out blocks from the end of what is used, or from the smallest hole
/// that a removed file left and that fits. Deterministic: the same calls give
/// the same blocks.
#[derive(Debug)]
pub(super) struct Allocator {
    next: u64,
    /// Where `next` was at most: up to here there may be old data.
    high: u64,
    limit: u64,
    /// Holes below `next`, start → length, never two that touch.
    holes: BTreeMap<u64, u64>,
    /// The same holes as (length, start), for the best fit.
    by_len: BTreeSet<(u64, u64)>,
}

impl Allocator {
    /// Blocks from `first` to below `limit`.
    pub(super) fn new(first: u64, limit: u64) -> Self {
        Self { next: first, high: first, limit, holes: BTreeMap::new(), by_len: BTreeSet::new() }
    }

    /// As another one was when its end and its holes were these.
    pub(super) fn resume(end: u64, limit: u64, holes: &[Run]) -> Self {
        let mut alloc = Self::new(end, limit);
        holes.iter().for_each(|hole| alloc.remember(hole.start, hole.len));
        alloc
    }

    /// One contiguous run; `None` when the limit is reached.
    pub(super) fn take(&mut self, len: u64) -> Option<Run> {
        if let Some(&(hole, start)) = self.by_len.range((len, 0)..).next() {
            self.forget(start, hole);
            if hole > len {
                self.remember(start + len, hole - len);
            }
            return Some(Run { start, len });
        }
        let end = self.next.checked_add(len).filter(|&end| end <= self.limit)?;
        let start = std::mem::replace(&mut self.next, end);
        self.high = self.high.max(end);
        Some(Run { start, len })
    }

    pub(super) fn give(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        let Run { mut start, mut len } = run;
        if let Some((&before, &size)) = self.holes.range(..start).next_back()
            && before + size == start
        {
            self.forget(before, size);
            start = before;
            len += size;
        }
        if let Some(&size) = self.holes.get(&(start + len)) {
            self.forget(start + len, size);
            len += size;
        }
        if start + len == self.next {
            self.next = start;
        } else {
            self.remember(start, len);
        }
    }

    /// Everything from here on is unused.
    pub(super) fn end(&self) -> u64 {
        self.next
    }

    /// What lies behind the end and was handed out and given back.
    pub(super) fn behind(&self) -> Run {
        Run { start: self.next, len: self.high - self.next }
    }

    pub(super) fn holes(&self) -> impl Iterator<Item = Run> {
        self.holes.iter().map(|(&start, &len)| Run { start, len })
    }

    fn remember(&mut self, start: u64, len: u64) {
        self.holes.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn forget(&mut self, start: u64, len: u64) {
        self.holes.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is taken and given back, no block is handed out twice and
        /// holes and runs together cover exactly what lies below the end.
        #[test]
        fn blocks_have_one_owner(ops in prop::collection::vec((any::<bool>(), 1u64..50, any::<prop::sample::Index>()), 1..200)) {
            let mut alloc = Allocator::new(10, 4000);
            let mut held: Vec<Run> = Vec::new();
            for (take, len, which) in ops {
                if take || held.is_empty() {
                    held.extend(alloc.take(len));
                } else {
                    alloc.give(held.swap_remove(which.index(held.len())));
                }
                let mut all: Vec<Run> = held.iter().copied().chain(alloc.holes()).collect();
                all.sort();
                let mut at = 10;
                for run in all {
                    prop_assert_eq!(run.start, at);
                    at += run.len;
                }
                prop_assert_eq!(at, alloc.end());
            }
        }
    }

    #[test]
    fn the_smallest_hole_that_fits_is_used_and_the_limit_holds() {
        let mut alloc = Allocator::new(0, 30);
        let runs: Vec<Run> = [10, 1, 4, 1].map(|len| alloc.take(len).unwrap()).to_vec();
        alloc.give(runs[0]);
        alloc.give(runs[2]);
        assert_eq!(alloc.take(3), Some(Run { start: 11, len: 3 }));
        assert_eq!(alloc.take(15), None);
        assert_eq!(alloc.take(14), Some(Run { start: 16, len: 14 }));
    }
}
