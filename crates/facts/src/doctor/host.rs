//! What makes a host a good place for VMs.

use inn_api::{Finding, Fix, HostFacts};
use inn_units::Bytes;

use super::packages::install;
use super::{Sight, degraded, missing, ok};

/// Below this the host swaps before its first VM is up.
const LITTLE_MEMORY: Bytes = Bytes::mib(512);

pub(super) fn check(facts: &HostFacts, sight: &Sight, findings: &mut Vec<Finding>) {
    findings.push(cgroups(facts));
    findings.push(memory(facts));
    findings.extend(transparent_huge_pages(facts, sight.is_root));
    findings.extend(time(facts));
    findings.extend(clock_source(facts));
    findings.extend(nvidia(facts));
    findings.extend(passthrough(facts));
}

fn cgroups(facts: &HostFacts) -> Finding {
    let groups = &facts.cgroups;
    if groups.layout == "none" {
        let consequence = "VMs have no limits but their own size, and their usage is not counted";
        let command = Some("mount -t cgroup2 none /sys/fs/cgroup".to_owned());
        let found = "no control groups are mounted";
        return Finding { command, ..missing("cgroups", found, consequence) };
    }
    let lacks = |name: &&str| groups.controllers.iter().all(|one| one != name);
    let io = if groups.layout == "v2" { "io" } else { "blkio" };
    let lacking: Vec<&str> = ["cpu", "memory", "pids", io].into_iter().filter(lacks).collect();
    if lacking.is_empty() {
        return ok("cgroups", format!("{} with all controllers that are used", groups.layout));
    }
    let found = format!("{} without {}", groups.layout, lacking.join(", "));
    let finding = degraded("cgroups", found, "VMs are not limited in these");
    if !lacking.contains(&"memory") {
        return finding;
    }
    // What Raspberry Pi OS's firmware says by default.
    let command = Some("add cgroup_enable=memory to the kernel's command line".to_owned());
    Finding { command, ..finding }
}

fn memory(facts: &HostFacts) -> Finding {
    let available = Bytes(facts.memory.available_bytes);
    if available >= LITTLE_MEMORY {
        return ok("memory", format!("{available} are available"));
    }
    let consequence = "the kernel ends programs, or VMs, once it is used up";
    degraded("memory", format!("only {available} are available"), consequence)
}

fn transparent_huge_pages(facts: &HostFacts, is_root: bool) -> Option<Finding> {
    let mode = facts.memory.transparent_huge_pages.as_deref()?;
    let check = "memory.transparent-huge-pages";
    if mode != "never" {
        return Some(ok(check, format!("they are on ({mode})")));
    }
    // Who asks for none has none: only VMMs, and others that ask, are given some.
    let (path, value) = ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
    let finding = degraded(check, "they are off", "guests' memory is slower by some per cent");
    let command = Some(format!("echo {value} > {path}"));
    let fix = is_root.then(|| Fix::WriteSetting { path: path.to_owned(), value: value.to_owned() });
    Some(Finding { command, fix, ..finding })
}

fn time(facts: &HostFacts) -> Option<Finding> {
    if facts.clock.synchronised? {
        return Some(ok("time", "somebody keeps the clock right"));
    }
    let consequence = "guests are given this clock at their start and resume; TLS and logs suffer";
    let finding =
        degraded("time", "the kernel knows of nobody who keeps the clock right", consequence);
    Some(Finding { command: install(facts.distribution.family, "time"), ..finding })
}

/// On x86 only: other architectures have one, and it is good.
fn clock_source(facts: &HostFacts) -> Option<Finding> {
    let source = facts.clock.source.as_deref()?;
    if facts.cpu.architecture != "x86_64" {
        return None;
    }
    let fast = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];
    if fast.contains(&source) {
        return Some(ok("time.source", source));
    }
    let consequence = "each look at the clock is a system call, in guests too";
    Some(degraded("time.source", source, consequence))
}

fn nvidia(facts: &HostFacts) -> Option<Finding> {
    let ours = |gpu: &&inn_api::Gpu| {
        gpu.pci_id.starts_with("10de:") && gpu.driver.as_deref() != Some("vfio-pci")
    };
    let gpu = facts.gpus.iter().find(ours)?;
    if let Some(version) = &gpu.driver_version {
        return Some(ok("gpu.nvml", format!("NVIDIA's driver is {version}")));
    }
    let seen = facts.not_seen.iter().find(|one| one.what.starts_with("NVIDIA"));
    let why = seen.map_or("NVML tells nothing of it", |one| one.why.as_str());
    let consequence = "its memory, UUID and MIG are not known";
    Some(degraded("gpu.nvml", format!("{}: {why}", gpu.pci_address), consequence))
}

fn passthrough(facts: &HostFacts) -> Option<Finding> {
    let check = "gpu.passthrough";
    let able = facts.gpus.iter().filter(|gpu| gpu.passthrough.possible).count();
    let first = facts.gpus.first()?;
    if able > 0 {
        return Some(ok(check, format!("{able} of {} can be a VM's", facts.gpus.len())));
    }
    let found = format!("{}: {}", first.pci_address, first.passthrough.reason);
    let finding = degraded(check, found, "no GPU can be a VM's as a whole");
    let is_intel = facts.cpu.vendor == "GenuineIntel";
    let command = (is_intel && !facts.iommu.enabled)
        .then(|| "add intel_iommu=on to the kernel's command line".to_owned());
    Some(Finding { command, ..finding })
}
