//! Whether the node has room for one VM more: pure, with a named reason where
//! it has not.
//!
//! ```text
//!   capacity = (what the node has − the host's share) × over-commit
//!   a VM that runs, or will      reserves memory, vCPUs and disk
//!   one that is stopped          reserves its disk alone; a start asks again
//! ```
//!
//! What was admitted stays so: nothing here ends or holds back a VM that has
//! its reservation, whatever the settings or the host have become since.

use inn_units::{Bytes, Vcpus};

use crate::plan::{Rules, will_run};
use crate::{Desired, Observed};

/// By how much more than there is may be reserved, in hundredths: 100 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit(pub u32);

impl Overcommit {
    pub const NONE: Self = Self(100);

    fn of(self, n: u64) -> u64 {
        let product = u128::from(n) * u128::from(self.0) / 100;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

/// All that VMs may reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub memory: Bytes,
    pub vcpus: u64,
    pub disk: Bytes,
    pub vms: u64,
}

impl Capacity {
    /// Of a host that has so much, of which `kept` memory is the host's own.
    #[must_use]
    pub fn of_host(memory: Bytes, kept: Bytes, cpus: u64, disk: Bytes) -> Self {
        let memory = Bytes(memory.get().saturating_sub(kept.get()));
        Self { memory, vcpus: cpus, disk, vms: u64::MAX }
    }

    #[must_use]
    pub fn overcommitted(self, memory: Overcommit, cpus: Overcommit, disk: Overcommit) -> Self {
        Self {
            memory: Bytes(memory.of(self.memory.get())),
            vcpus: cpus.of(self.vcpus),
            disk: Bytes(disk.of(self.disk.get())),
            vms: self.vms,
        }
    }
}

/// What one VM takes of a node, running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub memory: Bytes,
    pub vcpus: Vcpus,
    pub disk: Bytes,
}

/// How much of its demand a VM reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// A simulated machine's: a place among the VMs and no more.
    Place,
    /// It is stopped.
    Disk,
    /// It runs, or will without being asked again.
    Whole,
}

/// What a VM in this state reserves.
pub fn hold_of(desired: &Desired, observed: &Observed, rules: Rules) -> Hold {
    if will_run(desired, observed, rules) { Hold::Whole } else { Hold::Disk }
}

/// What all VMs reserve together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    pub memory: Bytes,
    pub vcpus: u64,
    pub disk: Bytes,
    pub vms: u64,
}

impl Reserved {
    /// With one VM more.
    pub fn add(&mut self, demand: Demand, hold: Hold) {
        let plus = |a: Bytes, b: Bytes| Bytes(a.get().saturating_add(b.get()));
        self.vms = self.vms.saturating_add(1);
        if hold >= Hold::Disk {
            self.disk = plus(self.disk, demand.disk);
        }
        if hold >= Hold::Whole {
            self.memory = plus(self.memory, demand.memory);
            self.vcpus = self.vcpus.saturating_add(u64::from(demand.vcpus.get()));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapacityDeniedReason {
    #[error(
        "the node has not enough memory: {asked} are asked for and {free} of {total} are free; stop a VM, give this one less, or raise admission.memory_overcommit"
    )]
    Memory { asked: Bytes, free: Bytes, total: Bytes },
    #[error(
        "the node has not enough CPUs: {asked} vCPUs are asked for and {free} of {total} are free; stop a VM, give this one fewer, or raise admission.cpu_overcommit"
    )]
    Cpus { asked: u64, free: u64, total: u64 },
    #[error(
        "the node has not enough disk: {asked} are asked for and {free} of {total} are free; delete a VM, give this one less, or raise admission.disk_overcommit"
    )]
    Disk { asked: Bytes, free: Bytes, total: Bytes },
    #[error(
        "the node has as many VMs as it may: 1 is asked for and 0 of {total} are free; delete a VM, or raise admission.max_vms"
    )]
    Vms { total: u64 },
}

/// Whether a VM that will hold so much goes beside what the others reserve,
/// `others` without itself.
pub fn admit_capacity(
    capacity: &Capacity,
    others: &Reserved,
    demand: Demand,
    hold: Hold,
) -> Result<(), CapacityDeniedReason> {
    use CapacityDeniedReason as Denied;
    if others.vms >= capacity.vms {
        return Err(Denied::Vms { total: capacity.vms });
    }
    let bytes_left = |total: Bytes, used: Bytes| Bytes(total.get().saturating_sub(used.get()));
    if hold >= Hold::Whole {
        let (asked, total) = (demand.memory, capacity.memory);
        let free = bytes_left(total, others.memory);
        if asked > free {
            return Err(Denied::Memory { asked, free, total });
        }
        let (asked, total) = (u64::from(demand.vcpus.get()), capacity.vcpus);
        let free = total.saturating_sub(others.vcpus);
        if asked > free {
            return Err(Denied::Cpus { asked, free, total });
        }
    }
    if hold >= Hold::Disk {
        let (asked, total) = (demand.disk, capacity.disk);
        let free = bytes_left(total, others.disk);
        if asked > free {
            return Err(Denied::Disk { asked, free, total });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(memory: u64, vcpus: u8, disk: u64) -> Demand {
        let vcpus = Vcpus::new(vcpus.into()).unwrap();
        Demand { memory: Bytes::mib(memory), vcpus, disk: Bytes::mib(disk) }
    }

    fn node() -> Capacity {
        let half = Overcommit(50);
        let host = Capacity::of_host(Bytes::gib(4), Bytes::gib(1), 2, Bytes::gib(10));
        Capacity { vms: 3, ..host.overcommitted(Overcommit::NONE, Overcommit(400), half) }
    }

    #[test]
    fn a_refusal_names_what_is_short_and_what_changes_it() {
        let node = node();
        assert_eq!((node.memory, node.vcpus, node.disk), (Bytes::gib(3), 8, Bytes::gib(5)));
        let mut others = Reserved::default();
        others.add(demand(2048, 6, 1024), Hold::Whole);
        others.add(demand(9999, 200, 1024), Hold::Disk);
        assert_eq!((others.memory, others.vcpus, others.disk), (Bytes::gib(2), 6, Bytes::gib(2)));
        for (asks, words) in [
            (demand(1536, 1, 1), ["1.5GiB", "1GiB of 3GiB", "admission.memory_overcommit"]),
            (demand(1024, 3, 1), ["3 vCPUs", "2 of 8", "admission.cpu_overcommit"]),
            (demand(1024, 2, 3584), ["3.5GiB", "3GiB of 5GiB", "admission.disk_overcommit"]),
        ] {
            let text = admit_capacity(&node, &others, asks, Hold::Whole).unwrap_err().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        assert_eq!(admit_capacity(&node, &others, demand(1024, 2, 3072), Hold::Whole), Ok(()));
        // A stopped VM asks for nothing but its disk, a simulated one for none.
        assert_eq!(admit_capacity(&node, &others, demand(9999, 99, 3072), Hold::Disk), Ok(()));
        assert_eq!(admit_capacity(&node, &others, demand(9999, 99, 9999), Hold::Place), Ok(()));
        others.add(demand(1, 1, 1), Hold::Place);
        let text = admit_capacity(&node, &others, demand(1, 1, 1), Hold::Place).unwrap_err();
        assert!(text.to_string().contains("0 of 3 are free"), "{text}");
    }

    proptest! {
        #[test]
        fn what_is_admitted_one_by_one_never_overshoots(
            asks in prop::collection::vec((1u64..4096, 1u8..8, 1u64..4096, 0u8..3), 0..40)
        ) {
            let node = Capacity { vms: 20, ..node() };
            let mut reserved = Reserved::default();
            for (memory, vcpus, disk, hold) in asks {
                let hold = [Hold::Place, Hold::Disk, Hold::Whole][usize::from(hold)];
                let demand = demand(memory, vcpus, disk);
                if admit_capacity(&node, &reserved, demand, hold).is_ok() {
                    reserved.add(demand, hold);
                }
                prop_assert!(reserved.memory <= node.memory && reserved.vcpus <= node.vcpus);
                prop_assert!(reserved.disk <= node.disk && reserved.vms <= node.vms);
            }
        }
    }
}
