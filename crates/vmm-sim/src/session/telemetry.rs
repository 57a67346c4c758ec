//! What a simulated guest tells of its machine: numbers that move as those of
//! a machine at work do, and that its number and the time alone decide, so
//! that a test can expect them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use inn_guest_proto::wire::{Address, Interface, MountUse, Pressure, Telemetry};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

/// As a kernel would look at a machine, at one time.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// Of the machine: each is busy in its own way.
    pub(super) number: u64,
    pub(super) uptime: Duration,
    /// By the guest's clock, since the epoch.
    pub(super) clock: Duration,
    pub(super) hostname: String,
    /// Of its card; one of its own where it was told none.
    pub(super) addresses: Vec<Address>,
    /// That run now.
    pub(super) execs: u32,
    pub(super) frozen: bool,
}

pub(super) fn reading(look: Look) -> Telemetry {
    let up = millis(look.uptime);
    // Microseconds of a boot: their end tells machines apart, and is small
    // enough to be multiplied.
    let number = look.number % 1_000_003;
    // A busy minute in each few, over a murmur of some per cent.
    let busy = wave(up, 90_000 + number % 7 * 13_000, number * 7919);
    let murmur = wave(up, 4_000 + number % 5 * 900, number * 104_729) / 20;
    let cpu_permille = clip(20 + busy * busy / 1000 * 9 / 10 + murmur).min(1000);
    let memory_total = 512 * MIB;
    let used = 96 * MIB + (busy + murmur) * MIB / 5 + u64::from(look.execs) * 2 * MIB;
    let available = memory_total.saturating_sub(used);
    // 1, 5 and 15 minutes follow the work the more slowly.
    let load = [60_000, 300_000, 900_000].map(|over| {
        clip(wave(up.saturating_sub(over / 4), 90_000 + number % 7 * 13_000, number * 7919) / 10)
    });
    let waiting = clip(busy * 3);
    let pressure = |share: u32| Pressure {
        some_10: waiting / share,
        some_60: waiting / share / 2,
        full_10: waiting / share / 4,
        full_60: waiting / share / 8,
    };
    Telemetry {
        unix_ms: millis(look.clock),
        uptime_ms: up,
        cpus: 1 + clip(number % 4),
        cpu_permille,
        memory_total,
        memory_available: available,
        memory_free: available / 2,
        swap_total: 0,
        swap_used: 0,
        mounts: vec![root(number, up)],
        interfaces: vec![card(number, up, look.addresses)],
        load: load.to_vec(),
        processes: 40 + clip(busy / 100) + look.execs,
        os: "Simulated Linux".to_owned(),
        hostname: look.hostname,
        cpu_pressure: Some(pressure(1)),
        memory_pressure: Some(pressure(8)),
        io_pressure: Some(pressure(4)),
        frozen: look.frozen,
    }
}

/// Fills by some KiB a second, and is cleaned up now and then.
fn root(number: u64, up: u64) -> MountUse {
    let total = 8192 * MIB;
    let used = 700 * MIB + number % 50 * 16 * MIB + up % 3_600_000 * 40;
    MountUse {
        target: "/".to_owned(),
        source: "/dev/vda".to_owned(),
        kind: "ext4".to_owned(),
        total,
        used,
        available: total - used - total / 20,
        inodes_total: 524_288,
        inodes_free: 480_000 - used / MIB,
    }
}

fn card(number: u64, up: u64, told: Vec<Address>) -> Interface {
    let own = || vec![Address { ip: Bytes::copy_from_slice(&[10, 0, 2, 15]), prefix: 24 }];
    // Never less than before: counters only grow.
    let received = up * (3 + number % 11) + up / 90_000 * MIB;
    let sent = received / 3;
    let low = number.to_be_bytes();
    Interface {
        name: "eth0".to_owned(),
        mac: Bytes::copy_from_slice(&[0x02, 0x53, low[4], low[5], low[6], low[7]]),
        addresses: if told.is_empty() { own() } else { told },
        up: true,
        rx_bytes: received,
        tx_bytes: sent,
        rx_packets: received / 900,
        tx_packets: sent / 300,
        ..Interface::default()
    }
}

/// Up and down between 0 and 1000 over a period, all in milliseconds.
fn wave(at: u64, period: u64, phase: u64) -> u64 {
    let half = period / 2;
    let within = (at + phase) % period;
    within.min(period - within) * 1000 / half
}

fn clip(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Who gets readings unasked, by stream.
#[derive(Debug, Default)]
pub(super) struct Watches(BTreeMap<u32, Watch>);

#[derive(Debug)]
struct Watch {
    every: Duration,
    next: Instant,
}

/// No guest reads /proc more often for anybody.
const SHORTEST: Duration = Duration::from_millis(100);

impl Watches {
    pub(super) fn add(&mut self, stream: u32, interval_ms: u32, now: Instant) {
        let every = Duration::from_millis(interval_ms.into()).max(SHORTEST);
        self.0.insert(stream, Watch { every, next: now });
    }

    pub(super) fn remove(&mut self, stream: u32) -> bool {
        self.0.remove(&stream).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The streams whose reading is due, which it then counts as sent. One
    /// that is late loses the readings between.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        for (stream, watch) in &mut self.0 {
            if watch.next <= now {
                watch.next = (watch.next + watch.every).max(now + watch.every / 2);
                due.push(*stream);
            }
        }
        due
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|watch| watch.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, seconds: u64) -> Telemetry {
        reading(Look {
            number,
            uptime: Duration::from_secs(seconds),
            clock: Duration::from_secs(1_700_000_000 + seconds),
            hostname: "vm".to_owned(),
            addresses: Vec::new(),
            execs: 2,
            frozen: false,
        })
    }

    #[test]
    fn readings_are_plausible_whenever_they_are_taken() {
        for number in [0, 1, 99, 1_000, u64::from(u32::MAX)] {
            let mut received = 0;
            for seconds in (0..20_000).step_by(37) {
                let it = at(number, seconds);
                assert!(it.cpu_permille <= 1000);
                assert!(it.memory_available < it.memory_total);
                assert!(it.memory_free <= it.memory_available);
                let root = &it.mounts[0];
                assert!(root.used + root.available <= root.total);
                assert!(root.inodes_free <= root.inodes_total);
                let card = &it.interfaces[0];
                assert!(card.rx_bytes >= received, "counters only grow");
                received = card.rx_bytes;
            }
        }
    }

    #[test]
    fn machines_differ_and_time_passes() {
        assert_eq!(at(1, 60), at(1, 60));
        assert_ne!(at(1, 60).cpu_permille, at(2, 60).cpu_permille);
        let seen: std::collections::BTreeSet<u32> =
            (0..60).map(|seconds| at(3, seconds * 5).cpu_permille).collect();
        assert!(seen.len() > 20, "{seen:?}");
        assert!(seen.last() > Some(&500) && seen.first() < Some(&200), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_watch_loses_readings_and_does_not_hurry() {
        let start = Instant::now();
        let mut watches = Watches::default();
        watches.add(1, 1000, start);
        watches.add(2, 0, start);
        assert_eq!(watches.take_due(start), [1, 2]);
        assert_eq!(watches.next_due(), Some(start + SHORTEST));
        assert!(watches.remove(2) && !watches.remove(2));
        let late = start + Duration::from_secs(60);
        assert_eq!(watches.take_due(late), [1]);
        assert_eq!(watches.next_due(), Some(late + Duration::from_millis(500)));
    }
}
