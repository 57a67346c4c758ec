//! Whether a host sends as fast as can be asked of one. Pure.

use std::time::Duration;

/// In each stretch of this length spent waiting for the host…
const STRETCH: Duration = Duration::from_secs(60);
/// …it must have sent this much: a byte now and then is a stall as well.
const LEAST: u64 = 16 << 10;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    received: u64,
}

impl Pace {
    /// Notes what came, and how long it was waited for; false when it stalls.
    pub(crate) fn keeps_up(&mut self, waited: Duration, received: usize) -> bool {
        self.waited += waited;
        self.received += received as u64;
        if self.waited < STRETCH {
            return true;
        }
        let enough = self.received >= LEAST;
        *self = Self::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_a_stall_and_a_slow_reader_is_not() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        assert!((0..59).all(|_| pace.keeps_up(second, 1)));
        assert!(!pace.keeps_up(second, 1));
        // Whoever reads slowly waits for nobody.
        assert!((0..1000).all(|_| pace.keeps_up(Duration::ZERO, 1)));
        let mut pace = Pace::default();
        assert!((0..1000).all(|_| pace.keeps_up(second, 300)));
    }
}
