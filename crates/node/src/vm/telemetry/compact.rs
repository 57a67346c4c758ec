use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Sample;
use crate::guest::{Interface, MountUse, Pressure, Telemetry, Traffic};

/// A reading in little space: some 200 bytes of a guest with three mounts and
/// two interfaces, so that half an hour of them fits the ring.
#[derive(Debug)]
pub(super) struct Compact {
    at: Timestamp,
    shape: Arc<Shape>,
    /// LEB128 numbers in the order in which [`numbers`] visits them.
    numbers: Box<[u8]>,
}

/// What rarely changes from one reading to the next; shared by those of a row
/// that have it in common.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    cpus: u32,
    os: String,
    hostname: String,
    /// Target, source, kind.
    mounts: Vec<[String; 3]>,
    /// An interface without its traffic.
    interfaces: Vec<Interface>,
    pressure: bool,
    frozen: bool,
}

impl Compact {
    /// Shares what it can with the reading before.
    pub(super) fn new(at: Timestamp, reading: &Telemetry, before: Option<&Self>) -> Self {
        let shape = match before {
            Some(before) if before.shape.is_of(reading) => Arc::clone(&before.shape),
            _ => Arc::new(Shape::of(reading)),
        };
        Self { at, shape, numbers: numbers(reading) }
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    pub(super) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shape, &other.shape)
    }

    /// Bytes that it takes without its shape.
    pub(super) fn cost(&self) -> usize {
        size_of::<Self>() + self.numbers.len()
    }

    pub(super) fn shape_cost(&self) -> usize {
        let shape = &self.shape;
        let mounts: usize = shape
            .mounts
            .iter()
            .map(|mount| size_of_val(mount) + mount.iter().map(String::len).sum::<usize>())
            .sum();
        let interfaces: usize = shape
            .interfaces
            .iter()
            .map(|interface| {
                size_of_val(interface)
                    + interface.name.len()
                    + size_of_val(interface.addresses.as_slice())
            })
            .sum();
        size_of::<Shape>() + shape.os.len() + shape.hostname.len() + mounts + interfaces
    }

    pub(super) fn sample(&self) -> Sample {
        Sample { at: self.at, telemetry: Arc::new(self.expand()) }
    }

    fn expand(&self) -> Telemetry {
        let mut next = Reader(&self.numbers);
        let shape = &*self.shape;
        Telemetry {
            clock: Duration::from_millis(next.u64()),
            uptime: Duration::from_millis(next.u64()),
            cpus: shape.cpus,
            cpu_permille: next.u32(),
            memory_total: next.u64(),
            memory_available: next.u64(),
            memory_free: next.u64(),
            swap_total: next.u64(),
            swap_used: next.u64(),
            load: std::array::from_fn(|_| next.u32()),
            processes: next.u32(),
            mounts: shape
                .mounts
                .iter()
                .map(|[target, source, kind]| MountUse {
                    target: target.clone(),
                    source: source.clone(),
                    kind: kind.clone(),
                    total: next.u64(),
                    used: next.u64(),
                    available: next.u64(),
                    inodes_total: next.u64(),
                    inodes_free: next.u64(),
                })
                .collect(),
            interfaces: shape
                .interfaces
                .iter()
                .map(|interface| Interface {
                    rx: next.traffic(),
                    tx: next.traffic(),
                    ..interface.clone()
                })
                .collect(),
            pressure: shape.pressure.then(|| std::array::from_fn(|_| next.pressure())),
            os: shape.os.clone(),
            hostname: shape.hostname.clone(),
            frozen: shape.frozen,
        }
    }
}

impl Shape {
    /// Whether it is what `of` would make, which costs a dozen allocations.
    fn is_of(&self, reading: &Telemetry) -> bool {
        let Self { cpus, os, hostname, mounts, interfaces, pressure, frozen } = self;
        let same_mount = |(known, told): (&[String; 3], &MountUse)| {
            *known == [told.target.as_str(), told.source.as_str(), told.kind.as_str()]
        };
        let same_interface = |(known, told): (&Interface, &Interface)| {
            let Interface { name, mac, addresses, up, rx: _, tx: _ } = told;
            (&known.name, &known.mac, &known.addresses, &known.up) == (name, mac, addresses, up)
        };
        *cpus == reading.cpus
            && *os == reading.os
            && *hostname == reading.hostname
            && mounts.len() == reading.mounts.len()
            && mounts.iter().zip(&reading.mounts).all(same_mount)
            && interfaces.len() == reading.interfaces.len()
            && interfaces.iter().zip(&reading.interfaces).all(same_interface)
            && *pressure == reading.pressure.is_some()
            && *frozen == reading.frozen
    }

    fn of(reading: &Telemetry) -> Self {
        let mounts = reading
            .mounts
            .iter()
            .map(|mount| [mount.target.clone(), mount.source.clone(), mount.kind.clone()]);
        let idle = |interface: &Interface| Interface {
            rx: Traffic::default(),
            tx: Traffic::default(),
            ..interface.clone()
        };
        Self {
            cpus: reading.cpus,
            os: reading.os.clone(),
            hostname: reading.hostname.clone(),
            mounts: mounts.collect(),
            interfaces: reading.interfaces.iter().map(idle).collect(),
            pressure: reading.pressure.is_some(),
            frozen: reading.frozen,
        }
    }
}

fn numbers(reading: &Telemetry) -> Box<[u8]> {
    let mut out = Writer(Vec::with_capacity(128));
    for d in [reading.clock, reading.uptime] {
        out.u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    }
    out.u64(reading.cpu_permille.into());
    for n in [
        reading.memory_total,
        reading.memory_available,
        reading.memory_free,
        reading.swap_total,
        reading.swap_used,
    ] {
        out.u64(n);
    }
    for load in reading.load {
        out.u64(load.into());
    }
    out.u64(reading.processes.into());
    for mount in &reading.mounts {
        let MountUse { total, used, available, inodes_total, inodes_free, .. } = *mount;
        for n in [total, used, available, inodes_total, inodes_free] {
            out.u64(n);
        }
    }
    for Traffic { bytes, packets, errors, dropped } in
        reading.interfaces.iter().flat_map(|interface| [interface.rx, interface.tx])
    {
        for n in [bytes, packets, errors, dropped] {
            out.u64(n);
        }
    }
    for Pressure { some_10, some_60, full_10, full_60 } in reading.pressure.iter().flatten() {
        for n in [some_10, some_60, full_10, full_60] {
            out.u64((*n).into());
        }
    }
    out.0.into_boxed_slice()
}

struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, mut n: u64) {
        loop {
            let low = n.to_le_bytes()[0] & 0x7f;
            n >>= 7;
            if n == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }
}

/// Reads what [`Writer`] wrote; past its end there are zeros.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u64(&mut self) -> u64 {
        let mut n = 0;
        let mut shift = 0;
        while let Some((&byte, rest)) = self.0.split_first() {
            self.0 = rest;
            n |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        n
    }

    fn u32(&mut self) -> u32 {
        u32::try_from(self.u64()).unwrap_or(u32::MAX)
    }

    fn traffic(&mut self) -> Traffic {
        Traffic { bytes: self.u64(), packets: self.u64(), errors: self.u64(), dropped: self.u64() }
    }

    fn pressure(&mut self) -> Pressure {
        Pressure {
            some_10: self.u32(),
            some_60: self.u32(),
            full_10: self.u32(),
            full_60: self.u32(),
        }
    }
}
