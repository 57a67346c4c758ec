//! What the host says of machines: their CPU time, their memory, their disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inn_host::cgroup::Cgroups;
use inn_host::process::{cpu_time, proportional_memory};
use inn_meter::{Counters, Life, What};
use inn_net::sent::Carried;
use inn_units::VmId;

/// stat(2): `st_blocks` counts these.
const BLOCK: u64 = 512;

/// Where to look for a VM.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) vm: VmId,
    pub(super) machine: Option<(Life, Option<Carried>)>,
    pub(super) directory: PathBuf,
}

/// Microseconds of CPU that a machine's processes have had; those that have
/// ended too where its group knows. Blocks, shortly.
pub(crate) fn cpu_of(cgroups: &Cgroups, vm: VmId, pid: u32) -> u64 {
    let id = vm.to_string();
    let counted = cgroups.cpu_time(&id).or_else(|| {
        let pids = cgroups.processes(&id).unwrap_or_else(|| vec![pid]);
        Some(pids.into_iter().filter_map(cpu_time).sum())
    });
    counted.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// Blocks.
pub(super) fn look(cgroups: &Cgroups, place: &Place) -> Vec<What> {
    let Place { vm, machine, directory } = place;
    let mut seen = Vec::new();
    let mut resident = 0;
    if let Some((life, carried)) = machine {
        let Carried { sent, received } = carried.unwrap_or_default();
        let cpu = cpu_of(cgroups, *vm, life.pid);
        seen.push(What::Counts { life: *life, counters: Counters { cpu, sent, received } });
        let pids = cgroups.processes(&vm.to_string()).unwrap_or_else(|| vec![life.pid]);
        resident = pids.into_iter().filter_map(proportional_memory).sum();
    }
    seen.push(What::Weighs { resident, occupied: occupied(directory) });
    seen
}

/// What the files below a directory take of their disk.
fn occupied(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => occupied(&entry.path()),
        Ok(metadata) => metadata.blocks().saturating_mul(BLOCK),
        // It has gone meanwhile.
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
