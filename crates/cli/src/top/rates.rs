use std::collections::HashMap;

use inn_client::api::{GuestSample, Vm};
use inn_units::VmId;
use jiff::Timestamp;

/// What two readings of a VM's counters make: bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub rx: f64,
    pub tx: f64,
}

/// The last reading of each VM, and the rate up to it. A look that brings no
/// new reading leaves the rate as it was.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    known: HashMap<VmId, Known>,
}

#[derive(Debug)]
struct Known {
    at: Timestamp,
    rx: u64,
    tx: u64,
    rate: Option<Rate>,
}

impl Rates {
    pub(crate) fn of(&mut self, vm: &Vm) -> Option<Rate> {
        match &vm.stats {
            Some(sample) => self.learn(vm.id, sample),
            None => {
                self.known.remove(&vm.id);
                None
            }
        }
    }

    /// Samples come oldest first; one that is older than the last changes nothing.
    pub(crate) fn learn(&mut self, vm: VmId, sample: &GuestSample) -> Option<Rate> {
        let (rx, tx) = counters(sample);
        let rate = match self.known.get(&vm) {
            Some(known) if sample.at <= known.at => return known.rate,
            Some(known) => rate(known, sample.at, (rx, tx)),
            None => None,
        };
        self.known.insert(vm, Known { at: sample.at, rx, tx, rate });
        rate
    }
}

/// Between two readings; none where the guest has begun anew.
pub(crate) fn between(before: &GuestSample, after: &GuestSample) -> Option<Rate> {
    let (rx, tx) = counters(before);
    rate(&Known { at: before.at, rx, tx, rate: None }, after.at, counters(after))
}

fn rate(before: &Known, at: Timestamp, (rx, tx): (u64, u64)) -> Option<Rate> {
    let seconds = at.duration_since(before.at).as_secs_f64();
    // Precise to 2^-53, which no screen shows.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let per_second =
        |before: u64, now: u64| now.checked_sub(before).map(|bytes| bytes as f64 / seconds);
    if seconds <= 0.0 {
        return None;
    }
    Some(Rate { rx: per_second(before.rx, rx)?, tx: per_second(before.tx, tx)? })
}

/// Of all interfaces but the loopback. The guest's numbers may be absurd.
fn counters(sample: &GuestSample) -> (u64, u64) {
    let outside = sample.interfaces.iter().filter(|interface| interface.name != "lo");
    outside.fold((0, 0), |(rx, tx), interface| {
        (rx.saturating_add(interface.rx_bytes), tx.saturating_add(interface.tx_bytes))
    })
}
