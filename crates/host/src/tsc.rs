//! How fast the host's time stamp counter ticks.
//!
//! An emulated guest reads the host's counter, and on a busy host it may fail
//! to calibrate it. Told the rate it need not, but a wrong rate makes its
//! clock run wrong, so the rate is measured against CLOCK_MONOTONIC_RAW,
//! which the kernel derives from the same counter.

use std::time::Duration;

/// Two readings this far apart give the rate to some 20 ppm: each is taken
/// within a fraction of a microsecond.
const APART: Duration = Duration::from_millis(20);

/// A first reading; the second is taken when the rate is asked for.
#[derive(Debug, Clone, Copy)]
pub struct TscSample {
    reading: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    nanos: i128,
}

impl TscSample {
    pub fn take() -> Self {
        Self { reading: constant_rate().then(Reading::take).flatten() }
    }

    /// Whether there will be a rate to tell.
    pub fn is_constant(&self) -> bool {
        self.reading.is_some()
    }

    /// How long to wait until the rate can be told, from now on.
    pub fn ready_in(&self) -> Duration {
        // Where there is nothing to measure there is nothing to wait for.
        let elapsed = self.reading.zip(Reading::take()).map_or(APART, |(first, now)| {
            Duration::from_nanos(u64::try_from(now.nanos - first.nanos).unwrap_or(0))
        });
        APART.saturating_sub(elapsed)
    }

    /// The rate in kHz; `None` where the counter's rate is not constant.
    pub fn khz(&self) -> Option<u32> {
        let (first, second) = (self.reading?, Reading::take()?);
        let ticks = i128::from(second.ticks.checked_sub(first.ticks)?);
        let nanos = second.nanos - first.nanos;
        if nanos < i128::try_from(APART.as_nanos()).ok()? {
            return None;
        }
        u32::try_from((ticks * 1_000_000 + nanos / 2) / nanos).ok().filter(|khz| *khz > 0)
    }
}

/// proc(5), flags of x86: the counter neither changes its rate nor stops.
fn constant_rate() -> bool {
    let Ok(cpuinfo) = std::fs::read_to_string("/proc/cpuinfo") else { return false };
    cpuinfo.lines().find(|line| line.starts_with("flags")).is_some_and(|flags| {
        let has = |flag| flags.split_ascii_whitespace().any(|f| f == flag);
        has("constant_tsc") && has("nonstop_tsc")
    })
}

impl Reading {
    #[cfg(target_arch = "x86_64")]
    fn take() -> Option<Self> {
        use rustix::time::{ClockId, clock_gettime};

        // The tightest of a few, lest a preemption between the two counts.
        (0..5)
            .map(|_| {
                let before = counter();
                let time = clock_gettime(ClockId::MonotonicRaw);
                let after = counter();
                let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
                (after.saturating_sub(before), Self { ticks: before.midpoint(after), nanos })
            })
            .min_by_key(|(width, _)| *width)
            .map(|(_, reading)| reading)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn take() -> Option<Self> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn counter() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 and only writes two registers;
    // Linux leaves it enabled in user mode unless a process forbids it itself
    // (PR_SET_TSC).
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(sample: TscSample) {
        while sample.ready_in() > Duration::ZERO {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn two_measurements_agree() {
        let first = TscSample::take();
        spin(first);
        let Some(a) = first.khz() else {
            assert!(!constant_rate(), "a constant counter must have a rate");
            return;
        };
        let second = TscSample::take();
        assert_eq!(second.khz(), None, "too early to tell");
        spin(second);
        let b = second.khz().unwrap();
        assert!(a.abs_diff(b) < a / 1_000, "{a} kHz and {b} kHz");
    }
}
