use inn_api::NumaNode;

use super::memory::kib;
use crate::Root;
use crate::root::list;

const NODES: &str = "/sys/devices/system/node";

/// Documentation/ABI/stable/sysfs-devices-node.
pub(super) fn nodes(root: &Root) -> Vec<NumaNode> {
    let online = root.text(format!("{NODES}/online")).unwrap_or_default();
    let mut all = Vec::new();
    for id in list(&online) {
        let of = |name: &str| root.text(format!("{NODES}/node{id}/{name}")).unwrap_or_default();
        // `Node 0 MemTotal:  65535 kB`.
        let memory = of("meminfo").replace(&format!("Node {id} "), "");
        all.push(NumaNode {
            id,
            cpus: of("cpulist"),
            memory_bytes: kib(&memory, "MemTotal"),
            free_bytes: kib(&memory, "MemFree"),
            distances: of("distance").split_whitespace().flat_map(str::parse).collect(),
        });
    }
    all
}
