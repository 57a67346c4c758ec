//! A Linux host: /proc, /sys, /etc, and what few system calls add.

mod block;
mod cgroups;
mod clock;
mod confidential;
mod cpu;
mod distribution;
mod file_systems;
mod gpu;
mod kernel;
mod memory;
mod network;
pub(crate) mod now;
mod numa;
mod nvml;
mod tools;
mod virtualisation;

use inn_api::{HostFacts, Tpm};

use crate::Root;

pub(crate) fn collect(root: &Root) -> HostFacts {
    let cpu = cpu::cpu(root);
    let kernel = kernel::kernel(root);
    let parts = kernel::parts(root, &kernel.release);
    HostFacts {
        numa: numa::nodes(root),
        virtualisation: virtualisation::virtualisation(root, &cpu.flags),
        kvm: virtualisation::kvm(root),
        memory: memory::memory(root),
        block_devices: block::devices(root),
        file_systems: file_systems::mounted(root),
        network_cards: network::cards(root),
        gpus: gpu::gpus(root, &parts),
        iommu: gpu::iommu(root),
        tpm: tpm(root),
        confidential: confidential::confidential(root, &cpu.flags),
        distribution: distribution::distribution(root),
        cgroups: cgroups::cgroups(root),
        clock: clock::clock(root),
        tools: tools::tools(root),
        cpu,
        kernel,
        kernel_parts: parts,
        not_seen: root.take_not_seen(),
    }
}

/// Documentation/ABI/stable/sysfs-class-tpm: `tpm_version_major`.
fn tpm(root: &Root) -> Option<Tpm> {
    root.exists("/sys/class/tpm/tpm0").then(|| {
        let major: Option<u8> = root.number("/sys/class/tpm/tpm0/tpm_version_major");
        let version = major.map(|major| if major == 1 { "1.2" } else { "2.0" }.to_owned());
        Tpm { version }
    })
}

/// The value of `key: value` in the first block of lines that has it, as in
/// /proc/cpuinfo and /proc/meminfo.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}
