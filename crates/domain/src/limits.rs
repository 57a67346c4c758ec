//! What a VM's machine may use of its host, beside what it is made of. Unlike
//! that it may change while the machine runs.

use inn_units::{Bytes, Vcpus};

/// What somebody has asked for; `None` is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Of one CPU: 150 is one and a half. No quota unless given.
    pub cpu_percent: Option<u32>,
    /// Beside others that want the CPU; 100 unless given.
    pub cpu_weight: Option<u32>,
    /// Of the VMM's process with all that it holds, the guest's memory first.
    pub memory: Option<Bytes>,
    /// Threads of the VMM.
    pub pids: Option<u32>,
    pub io: IoRates,
}

/// Of the host's disk, for each second. No limit unless given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoRates {
    pub read: Option<Bytes>,
    pub write: Option<Bytes>,
    pub read_ops: Option<u64>,
    pub write_ops: Option<u64>,
}

/// What changes: `Some(None)` brings the default back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsChange {
    pub cpu_percent: Option<Option<u32>>,
    pub cpu_weight: Option<Option<u32>>,
    pub memory: Option<Option<Bytes>>,
    pub pids: Option<Option<u32>>,
    pub read: Option<Option<Bytes>>,
    pub write: Option<Option<Bytes>>,
    pub read_ops: Option<Option<u64>>,
    pub write_ops: Option<Option<u64>>,
}

/// What a VMM needs beside its guest's memory. Measured with QEMU 7.2 without
/// KVM, whose translated code is 64 MiB at most: 85 to 90 MiB resident beside
/// 128 MiB of guest. Twice that and more is for its buffers and its page
/// tables, and for files in the page cache, which count too and give way.
const OVERHEAD: Bytes = Bytes::mib(256);

/// Page tables, dirty bitmaps, a device's queues grow with the guest: far
/// less than this part of it.
const OVERHEAD_PART: u64 = 32;

/// The least beside the guest's memory with which a VMM gets to its guest.
const LEAST_OVERHEAD: Bytes = Bytes::mib(128);

/// QEMU without its vCPUs: the main loop, RCU, and at most 64 threads that
/// read and write disks (thread-pool.c).
const PIDS: u32 = 192;

/// With fewer the VMM does not start.
const LEAST_PIDS: u32 = 16;

/// Of cpu.weight (cgroup-v2.rst).
const MOST_WEIGHT: u32 = 10_000;

/// Below a block's size nothing would move.
const LEAST_RATE: Bytes = Bytes::kib(64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitsDeniedReason {
    #[error("a CPU quota of {given} % is too little to run on; give it 5 % at least")]
    QuotaTooSmall { given: u32 },
    #[error("a CPU weight is 1 to {MOST_WEIGHT}; {given} is not")]
    Weight { given: u32 },
    #[error(
        "a memory limit of {given} is too small for a guest of {memory} and its VMM; give it {least} at least"
    )]
    MemoryTooSmall { given: Bytes, memory: Bytes, least: Bytes },
    #[error("a VMM does not start with {given} threads; give it {least} at least")]
    PidsTooFew { given: u32, least: u32 },
    #[error("{given} a second is too little for a disk; give it {LEAST_RATE} at least")]
    RateTooSmall { given: Bytes },
    #[error("a limit of 0 operations would stop the disk; give it 1 at least")]
    NoOperations,
    #[error("it is being deleted")]
    BeingDeleted,
}

impl ResourceLimits {
    pub fn changed(self, change: &LimitsChange) -> Self {
        Self {
            cpu_percent: change.cpu_percent.unwrap_or(self.cpu_percent),
            cpu_weight: change.cpu_weight.unwrap_or(self.cpu_weight),
            memory: change.memory.unwrap_or(self.memory),
            pids: change.pids.unwrap_or(self.pids),
            io: IoRates {
                read: change.read.unwrap_or(self.io.read),
                write: change.write.unwrap_or(self.io.write),
                read_ops: change.read_ops.unwrap_or(self.io.read_ops),
                write_ops: change.write_ops.unwrap_or(self.io.write_ops),
            },
        }
    }

    /// With the defaults of a VM of this size in place of what nobody asked
    /// for.
    pub fn in_effect(self, memory: Bytes, vcpus: Vcpus) -> Self {
        let more = OVERHEAD.get() + memory.get() / OVERHEAD_PART;
        Self {
            memory: self.memory.or(Some(Bytes(memory.get().saturating_add(more)))),
            pids: self.pids.or(Some(PIDS + u32::from(vcpus.get()))),
            ..self
        }
    }
}

/// Of cpu.weight, where nothing is said (cgroup-v2.rst).
const WEIGHT: u32 = 100;

/// The first limit of `then` that lets a VM of this size do more than `now`
/// does, by its name in the API.
pub fn loosened(
    now: ResourceLimits,
    then: ResourceLimits,
    memory: Bytes,
    vcpus: Vcpus,
) -> Option<&'static str> {
    let (now, then) = (now.in_effect(memory, vcpus), then.in_effect(memory, vcpus));
    // Without one there is no end.
    let least = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let number = |limit: Option<u32>| least(limit.map(u64::from));
    let bytes = |limit: Option<Bytes>| least(limit.map(Bytes::get));
    let weight = |limits: &ResourceLimits| u64::from(limits.cpu_weight.unwrap_or(WEIGHT));
    [
        ("cpuQuotaPercent", number(now.cpu_percent), number(then.cpu_percent)),
        ("cpuWeight", weight(&now), weight(&then)),
        ("memoryBytes", bytes(now.memory), bytes(then.memory)),
        ("pids", number(now.pids), number(then.pids)),
        ("ioReadBps", bytes(now.io.read), bytes(then.io.read)),
        ("ioWriteBps", bytes(now.io.write), bytes(then.io.write)),
        ("ioReadIops", least(now.io.read_ops), least(then.io.read_ops)),
        ("ioWriteIops", least(now.io.write_ops), least(then.io.write_ops)),
    ]
    .into_iter()
    .find(|(_, now, then)| then > now)
    .map(|(name, ..)| name)
}

/// Whether a VM of this size may be limited so.
pub fn admit_limits(
    limits: &ResourceLimits,
    memory: Bytes,
    vcpus: Vcpus,
) -> Result<(), LimitsDeniedReason> {
    use LimitsDeniedReason as Denied;
    if let Some(given) = limits.cpu_percent.filter(|percent| *percent < 5) {
        return Err(Denied::QuotaTooSmall { given });
    }
    if let Some(given) = limits.cpu_weight.filter(|weight| !(1..=MOST_WEIGHT).contains(weight)) {
        return Err(Denied::Weight { given });
    }
    let least = Bytes(memory.get().saturating_add(LEAST_OVERHEAD.get()));
    if let Some(given) = limits.memory.filter(|given| *given < least) {
        return Err(Denied::MemoryTooSmall { given, memory, least });
    }
    let least = LEAST_PIDS + u32::from(vcpus.get());
    if let Some(given) = limits.pids.filter(|given| *given < least) {
        return Err(Denied::PidsTooFew { given, least });
    }
    let rates = [limits.io.read, limits.io.write];
    if let Some(given) = rates.into_iter().flatten().find(|rate| *rate < LEAST_RATE) {
        return Err(Denied::RateTooSmall { given });
    }
    if [limits.io.read_ops, limits.io.write_ops].contains(&Some(0)) {
        return Err(Denied::NoOperations);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Bytes = Bytes::mib(128);

    fn admit(limits: ResourceLimits) -> Result<(), LimitsDeniedReason> {
        admit_limits(&limits, MEMORY, Vcpus::ONE)
    }

    #[test]
    fn defaults_are_what_a_vm_of_that_size_needs() {
        let limits = ResourceLimits::default().in_effect(MEMORY, Vcpus::ONE);
        assert_eq!(limits.memory, Some(Bytes::mib(128 + 256 + 4)));
        assert_eq!(limits.pids, Some(193));
        assert_eq!((limits.cpu_percent, limits.io), (None, IoRates::default()));
        admit(limits).unwrap();
    }

    #[test]
    fn what_would_stop_the_vm_is_refused_with_the_least_that_does_not() {
        let none = ResourceLimits::default();
        admit(none).unwrap();
        let small = ResourceLimits { memory: Some(MEMORY), ..none };
        let why = admit(small).unwrap_err().to_string();
        assert!(why.contains("256"), "{why}");
        for bad in [
            ResourceLimits { cpu_percent: Some(0), ..none },
            ResourceLimits { cpu_weight: Some(0), ..none },
            ResourceLimits { cpu_weight: Some(10_001), ..none },
            ResourceLimits { pids: Some(16), ..none },
            ResourceLimits { io: IoRates { read: Some(Bytes(1)), ..none.io }, ..none },
            ResourceLimits { io: IoRates { write_ops: Some(0), ..none.io }, ..none },
        ] {
            admit(bad).unwrap_err();
        }
    }

    #[test]
    fn a_change_touches_only_what_it_names() {
        let limits = ResourceLimits { cpu_percent: Some(50), pids: Some(99), ..Default::default() };
        let change = LimitsChange {
            cpu_percent: Some(None),
            memory: Some(Some(Bytes::gib(1))),
            ..LimitsChange::default()
        };
        let changed = limits.changed(&change);
        let expected = ResourceLimits {
            pids: Some(99),
            memory: Some(Bytes::gib(1)),
            ..ResourceLimits::default()
        };
        assert_eq!(changed, expected);
    }

    #[test]
    fn what_lets_a_vm_do_more_is_named() {
        let (memory, vcpus) = (Bytes::mib(256), Vcpus::ONE);
        let none = ResourceLimits::default();
        let looser = |now, then| loosened(now, then, memory, vcpus);
        assert_eq!(looser(none, none), None);
        let limits = |cpu_percent, pids| ResourceLimits { cpu_percent, pids, ..none };
        assert_eq!(looser(none, limits(Some(50), Some(100))), None);
        assert_eq!(looser(limits(Some(50), None), none), Some("cpuQuotaPercent"));
        assert_eq!(looser(limits(Some(50), None), limits(Some(51), None)), Some("cpuQuotaPercent"));
        assert_eq!(looser(none, limits(None, Some(100_000))), Some("pids"));
        let memory_of = |mib| ResourceLimits { memory: Some(Bytes::mib(mib)), ..none };
        assert_eq!(looser(none, memory_of(400)), None);
        assert_eq!(looser(none, memory_of(4_000)), Some("memoryBytes"));
        let weight = |weight| ResourceLimits { cpu_weight: Some(weight), ..none };
        assert_eq!(
            (looser(none, weight(100)), looser(none, weight(101))),
            (None, Some("cpuWeight"))
        );
        let io = |read_ops| ResourceLimits { io: IoRates { read_ops, ..none.io }, ..none };
        assert_eq!(looser(io(Some(10)), io(None)), Some("ioReadIops"));
    }
}
