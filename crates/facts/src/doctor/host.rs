//! What makes a host a good place for VMs.

use inn_api::{Family, Finding, Fix, Gpu, HostFacts};
use inn_units::Bytes;

use super::boot_options::kernel_option;
use super::packages::install;
use super::remedy::Remedy;
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
        let finding = missing("cgroups", "no control groups are mounted", consequence);
        return Remedy::command("mount -t cgroup2 none /sys/fs/cgroup").of(finding);
    }
    let lacks = |name: &&str| groups.controllers.iter().all(|one| one != name);
    let io = if groups.layout == "v2" { "io" } else { "blkio" };
    let lacking: Vec<&str> = ["cpu", "memory", "pids", io].into_iter().filter(lacks).collect();
    if lacking.is_empty() {
        return ok("cgroups", format!("{} with all controllers that are used", groups.layout));
    }
    let found = format!("{} without {}", groups.layout, lacking.join(", "));
    lacks_controllers(facts, &lacking).of(degraded(
        "cgroups",
        found,
        "VMs are not limited in these",
    ))
}

fn lacks_controllers(facts: &HostFacts, lacking: &[&str]) -> Remedy {
    // What Raspberry Pi OS's firmware switches off by default.
    if lacking.contains(&"memory") {
        return kernel_option(facts, "cgroup_enable=memory");
    }
    let names = lacking.join(" ");
    if facts.virtualisation.container.is_some() {
        return Remedy::person(format!(
            "have this container's engine delegate {names} to it, as it does to one of cgroup v2 \
                that is privileged"
        ));
    }
    let kernel = format!("boot a kernel that has {names}: the distribution's own does");
    if facts.cgroups.layout == "v2" {
        return Remedy::person(kernel);
    }
    // Of version 1, or of both: each that is nowhere may be mounted by itself.
    let mount = |name: &&str| {
        let dir = format!("/sys/fs/cgroup/{name}");
        format!("mkdir -p {dir} && mount -t cgroup -o {name} none {dir}")
    };
    let mounts: Vec<String> = lacking.iter().map(mount).collect();
    Remedy::command(mounts.join(" && ")).then(format!("where that fails, {kernel}"))
}

fn memory(facts: &HostFacts) -> Finding {
    let available = Bytes(facts.memory.available_bytes);
    if available >= LITTLE_MEMORY {
        return ok("memory", format!("{available} are available"));
    }
    let consequence = "the kernel ends programs, or VMs, once it is used up";
    Remedy::command("ps -eo rss,pid,args --sort=-rss | head")
        .then("end what is not needed of these, or give the host more memory")
        .of(degraded("memory", format!("only {available} are available"), consequence))
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
    let remedy = Remedy::command(format!("echo {value} > {path}"));
    let fix = is_root.then(|| Fix::WriteSetting { path: path.to_owned(), value: value.to_owned() });
    Some(Finding { fix, ..remedy.of(finding) })
}

fn time(facts: &HostFacts) -> Option<Finding> {
    if facts.clock.synchronised? {
        return Some(ok("time", "somebody keeps the clock right"));
    }
    let consequence = "guests are given this clock at their start and resume; TLS and logs suffer";
    let finding =
        degraded("time", "the kernel knows of nobody who keeps the clock right", consequence);
    Some(match facts.virtualisation.container {
        // Nothing in it may set the clock.
        Some(_) => Remedy::person("have this container's host keep its clock right").of(finding),
        None => install(facts.distribution.family, "time").of(finding),
    })
}

/// On x86 only: other architectures have one, and it is good.
fn clock_source(facts: &HostFacts) -> Option<Finding> {
    let source = facts.clock.source.as_deref()?;
    if facts.cpu.architecture != "x86_64" {
        return None;
    }
    if FAST_CLOCKS.contains(&source) {
        return Some(ok("time.source", source));
    }
    let consequence = "each look at the clock is a system call, in guests too";
    Some(faster_clock(facts).of(degraded("time.source", source, consequence)))
}

/// Those that a program reads without the kernel.
const FAST_CLOCKS: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

fn faster_clock(facts: &HostFacts) -> Remedy {
    const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    if facts.virtualisation.container.is_some() {
        return Remedy::person("have this container's host use the clock source tsc");
    }
    let has = |name: &&&str| facts.clock.sources.iter().any(|one| one == **name);
    if let Some(fast) = FAST_CLOCKS.iter().find(has) {
        return Remedy::command(format!("echo {fast} > {CURRENT}")).then(format!(
            "add clocksource={fast} to the kernel's command line, so that it is so at each boot"
        ));
    }
    if facts.virtualisation.in_vm {
        return Remedy::person(
            "have this VM's host give it kvm-clock, or a TSC that does not vary \
                (QEMU: -cpu host,+invtsc)",
        );
    }
    // The kernel found the TSC unsteady, and says so once, as it boots.
    Remedy::command("dmesg | grep -i tsc").then(
        "update the firmware; where /proc/cpuinfo has constant_tsc and nonstop_tsc, \
            add tsc=reliable to the kernel's command line, and reboot",
    )
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
    Some(nvidia_driver(facts).of(degraded(
        "gpu.nvml",
        format!("{}: {why}", gpu.pci_address),
        consequence,
    )))
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
    Some(give_whole(facts, first).of(finding))
}

/// With the library that NVML is.
fn nvidia_driver(facts: &HostFacts) -> Remedy {
    let of_archive = "they are in the archive's components contrib and non-free; reboot";
    match (facts.distribution.id.as_str(), facts.distribution.family) {
        ("ubuntu", _) => Remedy::command("ubuntu-drivers install").then("reboot"),
        (_, Family::Debian) => {
            Remedy::command("apt-get install nvidia-driver nvidia-smi").then(of_archive)
        }
        (_, Family::Arch) => Remedy::command("pacman -S nvidia nvidia-utils").then("reboot"),
        _ => Remedy::person(
            "install NVIDIA's driver with its library libnvidia-ml.so.1 \
                (https://www.nvidia.com/drivers), and reboot",
        ),
    }
}

/// What keeps a GPU from being a VM's, in the order in which it is looked for.
fn give_whole(facts: &HostFacts, gpu: &Gpu) -> Remedy {
    let is_intel = facts.cpu.vendor == "GenuineIntel";
    if facts.virtualisation.in_vm && !facts.iommu.enabled {
        return Remedy::person(
            "have this VM's host give it an IOMMU (libvirt: <iommu model='intel'/>; \
                QEMU: -device intel-iommu)",
        );
    }
    if gpu.iommu_group.is_none() && is_intel {
        return kernel_option(facts, "intel_iommu=on")
            .then("switch VT-d on in the firmware's setup, and reboot");
    }
    if gpu.iommu_group.is_none() {
        return Remedy::person("switch the IOMMU (AMD-Vi) on in the firmware's setup, and reboot");
    }
    if gpu.passthrough.reason.contains("no vfio-pci") {
        return Remedy::person(
            "boot a kernel that has CONFIG_VFIO_PCI: the distribution's own does",
        );
    }
    Remedy::command("find /sys/kernel/iommu_groups -type l").then(
        "put the card into a slot whose group it has for itself, or switch ACS on in the \
            firmware's setup",
    )
}
