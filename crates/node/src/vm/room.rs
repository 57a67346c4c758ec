//! Room for VMs: who reserves how much of the node.
//!
//! ```text
//!   create, start, growth ──▶ room asked for, under the registry's lock
//!                               ├─▶ refused, by name
//!                               └─▶ Room (pending) ──▶ the VM's own state holds it ──▶ dropped
//! ```
//!
//! What a VM reserves is read from what is desired and observed of it, so
//! nothing is counted twice or forgotten over a restart of the agent; a
//! request that is on its way holds its [`Room`] until that state says it. An
//! agent that comes back asks for nothing: what runs, runs on.

use inn_domain::{
    Capacity, CapacityDeniedReason, Demand, Hold, IdleAction, Power, Reserved, RuntimeChoice,
    VmSpec, admit_capacity, hold_of,
};
use inn_units::{Bytes, VmId};

use super::VmHandle;
use super::registry::{Inner, Vms};
use crate::node::Node;

/// Room that is about to be a VM's. Until it is dropped it counts in place of
/// what the VM's state says.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    vms: &'a Vms,
    id: VmId,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.vms.write().pending.remove(&self.id);
    }
}

impl VmHandle {
    fn demand(&self) -> Demand {
        let demand = demand(self.spec(), self.disk_size());
        // Where its memory is to go when it is idle.
        let on_idle = self.shared.view.borrow().desired.on_idle;
        match on_idle.map(|on_idle| on_idle.action) {
            Some(IdleAction::Snapshot) => {
                let disk = Bytes(demand.disk.get().saturating_add(demand.memory.get()));
                Demand { disk, ..demand }
            }
            _ => demand,
        }
    }

    fn hold(&self, sim_reserves: bool) -> Hold {
        if is_free(self.spec(), sim_reserves) {
            return Hold::Place;
        }
        let view = self.shared.view.borrow();
        hold_of(&view.desired, &view.observed, self.spec().rules())
    }
}

impl Vms {
    /// What VMs may reserve, and what they do.
    pub(crate) fn room(&self, node: &Node) -> (Capacity, Reserved) {
        (capacity(node), self.read().reserved(node, None))
    }

    /// Room for a VM that has none of the memory and CPU that it needs to run.
    pub(crate) fn room_to_start(
        &self,
        node: &Node,
        vm: &VmHandle,
    ) -> Result<Option<Room<'_>>, CapacityDeniedReason> {
        let sim_reserves = node.config.sim_reserves;
        let mut inner = self.write();
        // It has it, or is about to.
        if vm.hold(sim_reserves) != Hold::Disk || inner.pending.contains_key(&vm.id()) {
            return Ok(None);
        }
        let others = inner.reserved(node, Some(vm.id()));
        let demand = vm.demand();
        // Its disk it has.
        let unlimited = Capacity { disk: Bytes(u64::MAX), vms: u64::MAX, ..capacity(node) };
        admit_capacity(&unlimited, &others, demand, Hold::Whole)?;
        Ok(Some(self.pend(&mut inner, vm.id(), demand, Hold::Whole)))
    }

    /// Room for a disk that becomes as large as `size`.
    pub(crate) fn room_to_grow(
        &self,
        node: &Node,
        vm: &VmHandle,
        size: Bytes,
    ) -> Result<Option<Room<'_>>, CapacityDeniedReason> {
        let hold = vm.hold(node.config.sim_reserves);
        let mut inner = self.write();
        if hold == Hold::Place || size <= vm.disk_size() || inner.pending.contains_key(&vm.id()) {
            return Ok(None);
        }
        let others = inner.reserved(node, Some(vm.id()));
        let demand = demand(vm.spec(), size);
        let unlimited = Capacity { vms: u64::MAX, ..capacity(node) };
        admit_capacity(&unlimited, &others, demand, Hold::Disk)?;
        Ok(Some(self.pend(&mut inner, vm.id(), demand, hold)))
    }

    /// Room for a VM that takes the place of another one: for as long as that
    /// one is there both count, so that nobody else gets what the new one needs.
    pub(super) fn room_to_replace(
        &self,
        node: &Node,
        id: VmId,
        (spec, start): (&VmSpec, bool),
        instead_of: VmId,
    ) -> Result<Room<'_>, CapacityDeniedReason> {
        let mut inner = self.write();
        let (demand, hold) = inner.admit(node, spec, start, Some(instead_of))?;
        Ok(self.pend(&mut inner, id, demand, hold))
    }

    /// Room for a new VM, under the lock by which its name is taken.
    pub(super) fn room_to_create<'a>(
        &'a self,
        inner: &mut Inner,
        node: &Node,
        id: VmId,
        (spec, start): (&VmSpec, bool),
    ) -> Result<Room<'a>, CapacityDeniedReason> {
        let (demand, hold) = inner.admit(node, spec, start, None)?;
        Ok(self.pend(inner, id, demand, hold))
    }

    fn pend(&self, inner: &mut Inner, id: VmId, demand: Demand, hold: Hold) -> Room<'_> {
        inner.pending.insert(id, (demand, hold));
        Room { vms: self, id }
    }
}

impl Inner {
    fn admit(
        &self,
        node: &Node,
        spec: &VmSpec,
        start: bool,
        without: Option<VmId>,
    ) -> Result<(Demand, Hold), CapacityDeniedReason> {
        let demand = demand(spec, spec.disk);
        let hold = hold_to_create(spec, start, node.config.sim_reserves);
        let others = if hold == Hold::Place {
            // It asks for nothing that had to be added up.
            let pending = self.pending.keys().filter(|id| !self.by_id.contains_key(id)).count();
            let vms = self.by_id.len() + pending - usize::from(without.is_some());
            let vms = u64::try_from(vms).unwrap_or(u64::MAX);
            Reserved { vms, ..Reserved::default() }
        } else {
            self.reserved(node, without)
        };
        admit_capacity(&capacity(node), &others, demand, hold)?;
        Ok((demand, hold))
    }

    fn reserved(&self, node: &Node, without: Option<VmId>) -> Reserved {
        let sim_reserves = node.config.sim_reserves;
        let mut sum = Reserved { disk: node.snapshots.bytes(), ..Reserved::default() };
        for (id, vm) in &self.by_id {
            if Some(*id) == without {
                continue;
            }
            if !self.pending.contains_key(id) {
                sum.add(vm.demand(), vm.hold(sim_reserves));
            }
            let next = vm.with_successor(|next| {
                let start = next.desired.power == Power::Running;
                let hold = hold_to_create(&next.spec, start, sim_reserves);
                (next.id, demand(&next.spec, next.spec.disk), hold)
            });
            if let Some((next, demand, hold)) = next
                && !self.pending.contains_key(&next)
            {
                sum.add(demand, hold);
            }
        }
        for (id, (demand, hold)) in &self.pending {
            if Some(*id) != without {
                sum.add(*demand, *hold);
            }
        }
        sum
    }
}

fn hold_to_create(spec: &VmSpec, start: bool, sim_reserves: bool) -> Hold {
    match start {
        _ if is_free(spec, sim_reserves) => Hold::Place,
        true => Hold::Whole,
        false => Hold::Disk,
    }
}

/// A simulated machine takes nothing of the host.
pub(super) fn is_free(spec: &VmSpec, sim_reserves: bool) -> bool {
    spec.runtime == RuntimeChoice::Sim && !sim_reserves
}

fn demand(spec: &VmSpec, disk: Bytes) -> Demand {
    // The disk at /persist is as large as the VM's own was at first.
    let persist = if spec.persist { spec.disk.get() } else { 0 };
    let disk = Bytes(disk.get().saturating_add(persist));
    Demand { memory: spec.memory, vcpus: spec.vcpus, disk }
}

/// What the host has now, by the settings. A disk whose size cannot be told
/// refuses nobody: a full one says so itself.
fn capacity(node: &Node) -> Capacity {
    let config = &node.config.live().admission;
    let total = node.limits.max_memory;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = u64::try_from(cpus).unwrap_or(u64::MAX);
    let disk = rustix::fs::statvfs(&node.config.paths.data_dir)
        .map_or(u64::MAX, |fs| fs.f_blocks.saturating_mul(fs.f_frsize));
    let host = Capacity::of_host(total, config.kept_memory(total), cpus, Bytes(disk));
    let (memory, cpu, disk) =
        (config.memory_overcommit, config.cpu_overcommit, config.disk_overcommit);
    Capacity { vms: config.max_vms, ..host.overcommitted(memory, cpu, disk) }
}
