use inn_api::{Gpu, IommuFacts, KernelPart, KernelPartState, Passthrough};

use super::cpu::count;
use super::nvml;
use crate::Root;
use crate::pci_ids;

const DEVICES: &str = "/sys/bus/pci/devices";

/// Debian's and Fedora's place for the list.
const LISTS: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

const NVIDIA: &str = "10de";

/// Displays, and accelerators without one (pci.ids, class 12).
const CLASSES: [&str; 2] = ["0x03", "0x12"];

/// Bridges go along with nobody (Documentation/driver-api/vfio.rst).
const BRIDGES: &str = "0x06";

pub(super) fn gpus(root: &Root, parts: &[KernelPart]) -> Vec<Gpu> {
    let found: Vec<String> = root
        .names(DEVICES)
        .into_iter()
        .filter(|at| {
            class(root, at).is_some_and(|told| CLASSES.iter().any(|c| told.starts_with(c)))
        })
        .collect();
    if found.is_empty() {
        return Vec::new();
    }
    let list = LISTS.iter().find_map(|path| root.bytes(path)).unwrap_or_default();
    let list = String::from_utf8_lossy(&list);
    let has_vfio =
        parts.iter().any(|part| part.name == "vfio_pci" && part.state != KernelPartState::Missing);
    let mut all: Vec<Gpu> = found.into_iter().map(|at| gpu(root, at, &list, has_vfio)).collect();
    if all.iter().any(|gpu| gpu.pci_id.starts_with(NVIDIA)) {
        match nvml::told(root) {
            Ok(told) => all.iter_mut().for_each(|gpu| enrich(gpu, &told)),
            Err(why) => root.not_seen("NVIDIA GPUs' memory, UUID and MIG", &why),
        }
    }
    all
}

fn gpu(root: &Root, at: String, list: &str, has_vfio: bool) -> Gpu {
    let dir = format!("{DEVICES}/{at}");
    let id = |file: &str| {
        let text = root.text(format!("{dir}/{file}")).unwrap_or_default();
        text.trim_start_matches("0x").to_owned()
    };
    let (vendor_id, device_id) = (id("vendor"), id("device"));
    let (vendor, name) = pci_ids::names(list, &vendor_id, &device_id);
    let iommu_group = root.link(format!("{dir}/iommu_group")).and_then(|n| n.parse().ok());
    let pci_id = format!("{vendor_id}:{device_id}");
    Gpu {
        vendor,
        name: name.unwrap_or_else(|| pci_id.clone()),
        pci_id,
        driver: root.link(format!("{dir}/driver")),
        driver_version: None,
        memory_bytes: None,
        uuid: None,
        mig: None,
        numa_node: root
            .number::<i64>(format!("{dir}/numa_node"))
            .and_then(|node| u32::try_from(node).ok()),
        iommu_group,
        passthrough: passthrough(root, &at, iommu_group, has_vfio),
        pci_address: at,
    }
}

fn enrich(gpu: &mut Gpu, told: &[nvml::Told]) {
    let Some(told) = told.iter().find(|told| told.pci_address == gpu.pci_address) else { return };
    if let Some(name) = &told.name {
        gpu.name.clone_from(name);
    }
    gpu.driver_version.clone_from(&told.driver_version);
    gpu.uuid.clone_from(&told.uuid);
    (gpu.memory_bytes, gpu.mig) = (told.memory_bytes, told.mig);
}

/// A group goes to a VM as a whole (Documentation/driver-api/vfio.rst).
fn passthrough(root: &Root, at: &str, group: Option<u32>, has_vfio: bool) -> Passthrough {
    let no = |reason: String| Passthrough { possible: false, reason };
    let Some(group) = group else {
        return no("it is in no IOMMU group: switch the IOMMU on in the firmware, \
            and with intel_iommu=on on the kernel's command line if it is Intel's"
            .to_owned());
    };
    if !has_vfio {
        return no("the kernel has no vfio-pci".to_owned());
    }
    // Functions of the same device go along by nature.
    let slot = at.rsplit_once('.').map_or(at, |(slot, _)| slot);
    let others: Vec<String> = root
        .names(format!("/sys/kernel/iommu_groups/{group}/devices"))
        .into_iter()
        .filter(|other| !other.starts_with(slot))
        .filter(|other| class(root, other).is_none_or(|told| !told.starts_with(BRIDGES)))
        .collect();
    if !others.is_empty() {
        return no(format!("its IOMMU group {group} has {} too", others.join(" and ")));
    }
    Passthrough { possible: true, reason: format!("it is alone in IOMMU group {group}") }
}

fn class(root: &Root, at: &str) -> Option<String> {
    root.text(format!("{DEVICES}/{at}/class"))
}

pub(super) fn iommu(root: &Root) -> IommuFacts {
    let mut kinds: Vec<String> = root
        .names("/sys/class/iommu")
        .iter()
        .map(|name| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned())
        .collect();
    kinds.dedup();
    let groups = count(root.names("/sys/kernel/iommu_groups").len());
    IommuFacts { enabled: groups > 0, kinds, groups }
}
