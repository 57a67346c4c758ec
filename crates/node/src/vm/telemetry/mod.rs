//! What a guest says of itself: the latest reading, and a ring of those
//! before.
//!
//! ```text
//!   GuestSession ──watch──▶ recorder (a task per session) ──▶ TelemetryRing ──▶ API
//!                             └─ stopped: the link is degraded
//! ```
//!
//! A guest that tells more often than it was asked to is held up by the watch.
//! A ring holds at most [`RING_BYTES`], and nothing older than it is told to
//! keep: whatever a guest sends, this is all that it costs.

mod compact;
mod recorder;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use self::compact::Compact;
pub(super) use self::recorder::{First, Recorder};
use crate::guest::Telemetry;

/// Per VM: half an hour at one reading in 5 s, of a guest with some mounts and
/// interfaces.
pub(super) const RING_BYTES: usize = 128 << 10;

/// One reading, and when it came by the node's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) telemetry: Arc<Telemetry>,
}

#[derive(Debug, Default)]
pub(crate) struct TelemetryRing {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    latest: Option<Sample>,
    /// Oldest first.
    readings: VecDeque<Compact>,
    bytes: usize,
}

impl TelemetryRing {
    /// While the machine runs.
    pub(crate) fn latest(&self) -> Option<Sample> {
        self.lock().latest.clone()
    }

    /// From `from` to `to`, oldest first. What an earlier machine told is
    /// among them.
    pub(crate) fn range(&self, from: Timestamp, to: Timestamp) -> Vec<Sample> {
        let inner = self.lock();
        let wanted = inner.readings.iter().filter(|r| (from..=to).contains(&r.at()));
        wanted.map(Compact::sample).collect()
    }

    fn push(&self, at: Timestamp, telemetry: Telemetry, keep: Duration) {
        let mut inner = self.lock();
        let reading = Compact::new(at, &telemetry, inner.readings.back());
        inner.latest = Some(Sample { at, telemetry: Arc::new(telemetry) });
        inner.append(reading);
        let oldest = at.checked_sub(keep).unwrap_or(Timestamp::MIN);
        // A clock that was set back leaves readings of the future: they go by
        // the number of bytes.
        while inner.bytes > RING_BYTES || inner.readings.front().is_some_and(|r| r.at() < oldest) {
            inner.drop_oldest();
        }
    }

    /// Nobody tells any more.
    pub(super) fn machine_is_gone(&self) {
        self.lock().latest = None;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in the middle leaves at worst a wrong sum, which drops too
        // much or too little once.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, reading: Compact) {
        self.bytes += reading.cost();
        if !self.readings.back().is_some_and(|last| last.shares_with(&reading)) {
            self.bytes += reading.shape_cost();
        }
        self.readings.push_back(reading);
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.readings.pop_front() else {
            self.bytes = 0;
            return;
        };
        self.bytes = self.bytes.saturating_sub(oldest.cost());
        // The next one keeps what both have in common.
        if !self.readings.front().is_some_and(|next| next.shares_with(&oldest)) {
            self.bytes = self.bytes.saturating_sub(oldest.shape_cost());
        }
    }
}

#[cfg(test)]
mod tests;
