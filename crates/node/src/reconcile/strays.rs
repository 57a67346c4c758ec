//! Machines that no run directory leads to.
//!
//! ```text
//!   a process ─▶ whose VM is it? ─┬─ nobody's ──────────────────────────────▶ ended
//!                                 ├─ a VM's, which has another machine or none ▶ ended
//!                                 └─ a VM's own, or being launched ─────────▶ stays
//! ```
//!
//! A machine whose run directory is gone cannot be adopted: its sockets cannot
//! be reached. One that is recorded is given up by its VM's task, which starts
//! it again; one that is not is ended before that task begins, or its disks
//! would be in use.

use std::collections::HashMap;

use inn_fail_point::{Point, fail_point};
use inn_store::{MachineRecord, ObservedRecord, VmRecord};
use inn_units::VmId;
use inn_vmm::Stray;

use super::orphans::{OrphanKind, Reaped};
use crate::node::Node;
use crate::runtime::{end_stray, strays};

/// Ends those that are nobody's, or not their VM's.
pub(super) async fn end_strays(node: &Node) -> Vec<Reaped> {
    let mut reaped = Vec::new();
    for stray in find(node).await {
        let ends = match node.vms.of_id(stray.vm) {
            // A bridge has no record of its own, and ends with its machine.
            Some(vm) => !stray.is_bridge && vm.disowns(&stray.identity),
            None => !node.vms.owns(stray.vm),
        };
        if ends {
            reaped.push(end(node, &stray).await);
        }
    }
    reaped
}

/// Ends those of known VMs that their records do not name and that no run
/// directory leads to. Before any VM's task begins.
pub(super) async fn end_unrecorded(node: &Node, stored: &[(VmRecord, ObservedRecord)]) {
    let of = |(record, observed): &(VmRecord, ObservedRecord)| {
        let machine = observed.machine.as_ref();
        (record.id, machine.map(|m: &MachineRecord| (m.pid, m.start_ticks)))
    };
    let recorded: HashMap<VmId, Option<(u32, u64)>> = stored.iter().map(of).collect();
    for stray in find(node).await {
        let Some(own) = recorded.get(&stray.vm) else { continue };
        let is_own = *own == Some((stray.identity.pid, stray.identity.start_ticks));
        let run_dir = node.config.paths.of_vm(stray.vm).run_dir;
        // The bridge of one that has a machine is that machine's to end.
        let serves = stray.is_bridge && own.is_some();
        if !is_own && !serves && !run_dir.exists() {
            let Reaped { vm, error, .. } = end(node, &stray).await;
            tracing::warn!(%vm, ?error, "ended a machine that is not recorded");
        }
    }
}

async fn find(node: &Node) -> Vec<Stray> {
    let paths = &node.config.paths;
    let dirs = [paths.vms(), paths.runs()];
    let looking = tokio::task::spawn_blocking(move || strays(&dirs));
    match looking.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the host's processes are not looked through");
            Vec::new()
        }
        Err(error) => {
            tracing::error!(%error, "the host's processes are not looked through");
            Vec::new()
        }
    }
}

async fn end(node: &Node, stray: &Stray) -> Reaped {
    let run_dir = node.config.paths.of_vm(stray.vm).run_dir;
    let error = end_stray(stray, &run_dir).await.err().map(|error| error.to_string());
    fail_point(Point::StrayEnded);
    Reaped { kind: OrphanKind::Machine, vm: stray.vm, error }
}
