use std::fs::OpenOptions;

use inn_api::{KvmFacts, Virtualisation};

use crate::Root;

pub(super) fn virtualisation(root: &Root, flags: &[String]) -> Virtualisation {
    let has = |flag: &str| flags.iter().any(|one| one == flag);
    let nested = ["kvm_intel", "kvm_amd"]
        .iter()
        .find_map(|module| root.flag(format!("/sys/module/{module}/parameters/nested")));
    let hypervisor = hypervisor(root);
    Virtualisation {
        extension: ["vmx", "svm"].into_iter().find(|flag| has(flag)).map(str::to_owned),
        nested,
        in_vm: has("hypervisor") || hypervisor.is_some(),
        hypervisor,
        container: container(root),
    }
}

/// As the firmware, Xen, or the clocks that the kernel has been given tell it.
fn hypervisor(root: &Root) -> Option<String> {
    if let Some(kind) = root.word("/sys/hypervisor/type") {
        return Some(kind);
    }
    let dmi = |name: &str| root.text(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
    let (vendor, product) = (dmi("sys_vendor"), dmi("product_name"));
    let by_firmware = match (vendor.as_str(), product.as_str()) {
        ("QEMU" | "Red Hat" | "Google" | "OpenStack Foundation", _) => Some("kvm"),
        ("Amazon EC2", product) if !product.contains(".metal") => Some("kvm"),
        ("VMware, Inc.", _) => Some("vmware"),
        ("Microsoft Corporation", "Virtual Machine") => Some("hyper-v"),
        ("innotek GmbH", _) => Some("virtualbox"),
        ("Parallels Software International Inc.", _) => Some("parallels"),
        ("Xen", _) => Some("xen"),
        (_, "KVM") => Some("kvm"),
        _ => None,
    };
    let clocks = root.text(super::clock::AVAILABLE).unwrap_or_default();
    let by_clock = || {
        [("kvm-clock", "kvm"), ("hyperv_clocksource", "hyper-v"), ("xen", "xen")]
            .into_iter()
            .find(|(clock, _)| clocks.split_whitespace().any(|one| one.starts_with(clock)))
            .map(|(_, name)| name)
    };
    by_firmware.or_else(by_clock).map(str::to_owned)
}

/// The marks that container engines leave (systemd's "The Container Interface").
fn container(root: &Root) -> Option<String> {
    if let Some(name) = root.word("/run/systemd/container") {
        return Some(name);
    }
    // A VM whose disk was made from a container's image has the mark, too.
    let mounts = root.text("/proc/self/mountinfo").unwrap_or_default();
    if mounts.lines().any(has_own_disk) {
        return None;
    }
    [("/run/.containerenv", "podman"), ("/.dockerenv", "docker"), ("/dev/.lxc", "lxc")]
        .into_iter()
        .find(|(mark, _)| root.exists(mark))
        .map(|(_, name)| name.to_owned())
}

/// Whether a line of mountinfo is of the whole of a device, mounted at `/`.
fn has_own_disk(line: &str) -> bool {
    let Some((left, right)) = line.split_once(" - ") else { return false };
    let mut fields = left.split(' ').skip(3);
    let source = right.split(' ').nth(1).unwrap_or_default();
    fields.next() == Some("/") && fields.next() == Some("/") && source.starts_with("/dev/")
}

/// Without a probe: that is an agent's.
pub(super) fn kvm(root: &Root) -> KvmFacts {
    let device = root.path("/dev/kvm");
    if !device.exists() {
        let reason = "there is no /dev/kvm: no such hardware, or the module kvm is not loaded";
        return KvmFacts { present: false, probed: None, reason: reason.to_owned() };
    }
    let reason = match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => "/dev/kvm can be opened, and no guest has been booted under it yet".to_owned(),
        Err(error) => format!("/dev/kvm cannot be opened: {error}"),
    };
    KvmFacts { present: true, probed: None, reason }
}
