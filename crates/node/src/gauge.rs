//! What host and VMs take at this moment, measured at most once a second
//! however many ask: whoever comes meanwhile waits for the same measurement.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inn_api::{HostNow, VmUse};
use inn_facts::{CpuTicks, ProcessUse, Root};
use inn_units::VmId;
use inn_vmm::Machine;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::node::Node;
use crate::runtime::SIMULATED;

/// For so long a measurement holds.
const HOLDS: Duration = Duration::from_secs(1);

/// CPU shares are of at least this long: over less they are noise.
const SHORTEST_SPAN: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Gauge {
    last: Mutex<Option<Arc<Measured>>>,
}

#[derive(Debug)]
pub(crate) struct Measured {
    at: Instant,
    ticks: CpuTicks,
    pub(crate) host: HostNow,
    pub(crate) vms: Vec<VmUse>,
    /// CPU time by machine: an id outlives its machines.
    cpu: HashMap<(VmId, u64), Duration>,
}

/// Of a VM whose machine is a process.
struct Target {
    id: VmId,
    name: inn_units::VmName,
    pid: u32,
    start_ticks: u64,
    dir: PathBuf,
}

impl Gauge {
    pub(crate) async fn now(&self, node: &Node) -> Arc<Measured> {
        let mut last = self.last.lock().await;
        if let Some(known) = last.as_ref().filter(|known| known.at.elapsed() < HOLDS) {
            return Arc::clone(known);
        }
        let targets = targets(node);
        let before = last.clone();
        let measured = tokio::task::spawn_blocking(move || measure(targets, before.as_deref()));
        match measured.await {
            Ok(measured) => {
                let measured = Arc::new(measured);
                *last = Some(Arc::clone(&measured));
                measured
            }
            Err(error) => {
                tracing::warn!(%error, "the host was not measured");
                Arc::new(Measured {
                    at: Instant::now(),
                    ticks: CpuTicks::default(),
                    host: HostNow::default(),
                    vms: Vec::new(),
                    cpu: HashMap::new(),
                })
            }
        }
    }
}

fn targets(node: &Node) -> Vec<Target> {
    let all = node.vms.all();
    let running = all.iter().filter_map(|vm| {
        let machine = vm.machine()?;
        let identity = machine.identity();
        // A simulated machine is a file, and its pid the agent's.
        (identity.runtime != SIMULATED).then(|| Target {
            id: vm.id(),
            name: vm.spec().name.clone(),
            pid: identity.pid,
            start_ticks: identity.start_ticks,
            dir: node.config.paths.of_vm(vm.id()).dir,
        })
    });
    running.collect()
}

/// Blocks, for some 30 µs a VM.
fn measure(targets: Vec<Target>, before: Option<&Measured>) -> Measured {
    let root = Root::host();
    let (mut host, ticks) = inn_facts::host_now(&root);
    let at = Instant::now();
    let before = before.filter(|before| at - before.at >= SHORTEST_SPAN);
    host.cpu_percent = before.and_then(|before| ticks.percent_since(before.ticks));
    let mut cpu = HashMap::new();
    let mut vms = Vec::new();
    for target in targets {
        // It has just ended.
        let Some(told) = inn_facts::process_use(&root, target.pid, target.start_ticks) else {
            continue;
        };
        let key = (target.id, target.start_ticks);
        let ProcessUse { cpu: now, resident_bytes } = told;
        cpu.insert(key, now);
        let share = before.and_then(|before| {
            let taken = now.checked_sub(*before.cpu.get(&key)?)?;
            Some(taken.as_secs_f64() * 100.0 / (at - before.at).as_secs_f64())
        });
        vms.push(VmUse {
            id: target.id,
            name: target.name,
            cpu_seconds: now.as_secs_f64(),
            cpu_percent: share,
            resident_bytes,
            disk_bytes: blocks_below(&target.dir),
        });
    }
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    Measured { at, ticks, host, vms, cpu }
}

/// What the files of a directory, and not of those in it, take of the disk.
fn blocks_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// What st_blocks counts in, on all file systems (stat(3type)).
    const BLOCK: u64 = 512;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let files = entries.flatten().filter_map(|entry| entry.metadata().ok());
    files.map(|file| file.blocks().saturating_mul(BLOCK)).fold(0, u64::saturating_add)
}
