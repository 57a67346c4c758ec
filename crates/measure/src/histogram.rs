//! Latencies, counted in buckets that are at most 1/32 wide.

use std::time::Duration;

/// Buckets of each power of two.
const EACH: u64 = 32;
/// Up to 2^40 ns, 18 minutes.
const POWERS: u64 = 40;

#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    most: Duration,
}

/// In the order of size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub most: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        let buckets = usize::try_from(EACH * POWERS).unwrap_or(0);
        Self { counts: vec![0; buckets], total: 0, most: Duration::ZERO }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        let bucket = bucket(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let last = self.counts.len() - 1;
        self.counts[bucket.min(last)] += 1;
        self.total += 1;
        self.most = self.most.max(took);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.most = self.most.max(other.most);
    }

    pub(crate) fn latency(&self) -> Latency {
        Latency {
            p50: self.at(500),
            p95: self.at(950),
            p99: self.at(990),
            p999: self.at(999),
            most: self.most,
        }
    }

    /// The upper end of the bucket that has the one at so many thousandths.
    fn at(&self, thousandths: u64) -> Duration {
        let wanted = (self.total * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(end(index)).min(self.most);
            }
        }
        self.most
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(EACH);
    let power = u64::from(nanos.ilog2());
    let shift = power - u64::from(EACH.ilog2());
    let within = (nanos >> shift) - EACH;
    usize::try_from(shift * EACH + within).unwrap_or(usize::MAX)
}

fn end(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let (shift, within) = (index / EACH, index % EACH);
    ((EACH + within + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::new();
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        let told = histogram.latency();
        for (told, exact) in [(told.p50, 500), (told.p95, 950), (told.p99, 990)] {
            let exact = Duration::from_micros(exact);
            assert!(told >= exact && told <= exact + exact / 32, "{told:?} {exact:?}");
        }
        assert_eq!(told.most, Duration::from_micros(1000));
        assert_eq!(Histogram::new().latency(), Latency::default());
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(nanos in 32u64..1 << 39) {
            let index = bucket(nanos);
            prop_assert!(nanos <= end(index));
            prop_assert!(index == 0 || nanos > end(index - 1));
            prop_assert!(end(index) - nanos <= nanos / 16);
        }
    }
}
