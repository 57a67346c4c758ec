//! `inn node resources`: a host's facts as tables.

use std::fmt::Write;

use inn_client::Client;
use inn_client::api::{
    CpuFacts, HostFacts, KernelPartState, NodeFacts, NodeResources, Share, Virtualisation,
};
use inn_units::Bytes;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::Table;

pub(crate) async fn resources(context: &Context, client: &Client) -> Result<u8, Failure> {
    let facts = client.node_resources().await?;
    context.result(&facts, || describe(&facts))?;
    Ok(0)
}

fn describe(facts: &NodeFacts) -> String {
    let host = &facts.host;
    let mut parts = vec![summary(host)];
    if let Some(has) = &facts.for_vms {
        parts.push(for_vms(has));
    }
    parts.extend([numa(host), disks(host), file_systems(host), cards(host), gpus(host)]);
    parts.push(not_seen(host));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn summary(host: &HostFacts) -> String {
    let memory = &host.memory;
    let huge: Vec<String> = memory
        .huge_pages
        .iter()
        .filter(|pages| pages.total > 0)
        .map(|p| format!("{} of {} free at {}", p.free, p.total, Bytes(p.page_bytes)))
        .collect();
    let mut rows = vec![
        ("CPU", format!("{}, {}", host.cpu.model, host.cpu.architecture)),
        ("topology", topology(&host.cpu)),
        ("virtualisation", virtualisation(&host.virtualisation)),
        ("KVM", kvm(host)),
        (
            "memory",
            format!("{}, {} available", Bytes(memory.total_bytes), Bytes(memory.available_bytes)),
        ),
        ("huge pages", if huge.is_empty() { "none".to_owned() } else { huge.join(", ") }),
        (
            "IOMMU",
            match host.iommu.enabled {
                true => format!("{}, {} groups", host.iommu.kinds.join(", "), host.iommu.groups),
                false => "off, or none".to_owned(),
            },
        ),
        (
            "TPM",
            match &host.tpm {
                Some(tpm) => tpm.version.clone().unwrap_or_else(|| "of some version".to_owned()),
                None => "none".to_owned(),
            },
        ),
        ("confidential", confidential(host)),
        ("kernel", format!("{} {}", host.kernel.name, host.kernel.release)),
        ("distribution", host.distribution.name.clone()),
        ("cgroups", format!("{}: {}", host.cgroups.layout, host.cgroups.controllers.join(" "))),
        ("clock", host.clock.source.clone().unwrap_or_else(|| "unknown".to_owned())),
    ];
    for (state, title) in [
        (KernelPartState::Here, "kernel has"),
        (KernelPartState::Loadable, "can load"),
        (KernelPartState::Missing, "lacks"),
    ] {
        let names: Vec<&str> = host
            .kernel_parts
            .iter()
            .filter(|part| part.state == state)
            .map(|part| part.name.as_str())
            .collect();
        if !names.is_empty() {
            rows.push((title, names.join(" ")));
        }
    }
    let mut text = String::new();
    for (key, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:<15} {value}");
    }
    text
}

fn topology(cpu: &CpuFacts) -> String {
    let mut text = format!(
        "{}, {}, {}",
        some(cpu.sockets, "socket"),
        some(cpu.cores, "core"),
        some(cpu.threads, "thread")
    );
    if cpu.offline > 0 {
        let _ = write!(text, ", {} switched off", cpu.offline);
    }
    text
}

fn some(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn virtualisation(virt: &Virtualisation) -> String {
    let extension = match virt.extension.as_deref() {
        Some("vmx") => "VT-x",
        Some("svm") => "AMD-V",
        Some(other) => other,
        None => "no extension in sight",
    };
    let mut parts = vec![extension.to_owned()];
    match virt.nested {
        Some(true) => parts.push("nested".to_owned()),
        Some(false) => parts.push("not nested".to_owned()),
        None => {}
    }
    if virt.in_vm {
        let whose = virt.hypervisor.as_deref().unwrap_or("unknown");
        parts.push(format!("in a VM ({whose})"));
    }
    if let Some(container) = &virt.container {
        parts.push(format!("in a container ({container})"));
    }
    parts.join(", ")
}

fn kvm(host: &HostFacts) -> String {
    let state = match (host.kvm.present, host.kvm.probed) {
        (_, Some(true)) => "works",
        (_, Some(false)) => "does not work",
        (true, None) => "not proved",
        (false, None) => "none",
    };
    format!("{state}: {}", host.kvm.reason)
}

fn confidential(host: &HostFacts) -> String {
    let all = &host.confidential;
    let mut parts = Vec::new();
    for (has, enabled, name) in
        [(all.sev_snp, all.sev_snp_enabled, "SEV-SNP"), (all.tdx, all.tdx_enabled, "TDX")]
    {
        match (has, enabled) {
            (_, true) => parts.push(format!("{name} on")),
            (true, false) => parts.push(format!("{name} in the CPU, not switched on")),
            (false, false) => {}
        }
    }
    if let Some(of) = &all.guest_of {
        parts.push(format!("a guest of {of}"));
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn for_vms(has: &NodeResources) -> String {
    let mut table =
        Table::new(["FOR VMS", "TOTAL", "RESERVED", "USED", "FREE"]).right([1, 2, 3, 4]);
    let bytes = |n: u64| Bytes(n).to_string();
    let mut row = |name: &str, share: Share, show: &dyn Fn(u64) -> String| {
        let used = share.used.map(show).unwrap_or_default();
        table.push([
            name.to_owned(),
            show(share.total),
            show(share.reserved),
            used,
            show(share.free),
        ]);
    };
    row("memory", has.memory_bytes, &bytes);
    row("vCPUs", has.vcpus, &|n| n.to_string());
    row("disk", has.disk_bytes, &bytes);
    row("VMs", has.vms, &|n| n.to_string());
    table.render()
}

fn numa(host: &HostFacts) -> String {
    if host.numa.len() < 2 {
        return String::new();
    }
    let mut table = Table::new(["NUMA", "CPUS", "MEMORY", "FREE", "DISTANCES"]).right([2, 3]);
    for node in &host.numa {
        let distances: Vec<String> = node.distances.iter().map(ToString::to_string).collect();
        table.push([
            node.id.to_string(),
            node.cpus.clone(),
            Bytes(node.memory_bytes).to_string(),
            Bytes(node.free_bytes).to_string(),
            distances.join(" "),
        ]);
    }
    table.render()
}

fn disks(host: &HostFacts) -> String {
    if host.block_devices.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["DISK", "SIZE", "KIND", "ON", "MODEL", "PARTS"]).right([1]);
    for disk in &host.block_devices {
        let kind = if disk.rotational { "rotating" } else { "solid" };
        let parts = if disk.made_of.is_empty() { &disk.partitions } else { &disk.made_of };
        table.push([
            disk.name.clone(),
            Bytes(disk.size_bytes).to_string(),
            kind.to_owned(),
            disk.transport.clone().unwrap_or_default(),
            disk.model.clone().or_else(|| disk.label.clone()).unwrap_or_default(),
            parts.join(" "),
        ]);
    }
    table.render()
}

pub(crate) fn file_systems(host: &HostFacts) -> String {
    if host.file_systems.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["FILE SYSTEM", "KIND", "SIZE", "AVAILABLE", "FROM"]).right([2, 3]);
    for fs in &host.file_systems {
        table.push([
            fs.mounted_at.clone(),
            fs.kind.clone(),
            Bytes(fs.total_bytes).to_string(),
            Bytes(fs.available_bytes).to_string(),
            fs.source.clone(),
        ]);
    }
    table.render()
}

fn cards(host: &HostFacts) -> String {
    if host.network_cards.is_empty() {
        return String::new();
    }
    let mut table =
        Table::new(["CARD", "KIND", "STATE", "MTU", "SPEED", "DRIVER", "IN"]).right([3, 4]);
    for card in &host.network_cards {
        let kind = serde_json::to_value(card.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        table.push([
            card.name.clone(),
            kind.to_owned(),
            card.state.clone(),
            card.mtu.to_string(),
            card.speed_mbps.map(|mbps| format!("{mbps} Mbit/s")).unwrap_or_default(),
            card.driver.clone().unwrap_or_default(),
            card.master.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

fn gpus(host: &HostFacts) -> String {
    if host.gpus.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["GPU", "NAME", "MEMORY", "DRIVER", "MIG", "TO A VM"]).right([2]);
    for gpu in &host.gpus {
        let mig = match gpu.mig {
            Some(true) => "on",
            Some(false) => "off",
            None => "",
        };
        let driver = [gpu.driver.as_deref(), gpu.driver_version.as_deref()];
        let whole = if gpu.passthrough.possible { "yes" } else { "no" };
        table.push([
            gpu.pci_address.clone(),
            gpu.name.clone(),
            gpu.memory_bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default(),
            driver.into_iter().flatten().collect::<Vec<_>>().join(" "),
            mig.to_owned(),
            format!("{whole}: {}", gpu.passthrough.reason),
        ]);
    }
    table.render()
}

fn not_seen(host: &HostFacts) -> String {
    let mut text = String::new();
    for one in &host.not_seen {
        let _ = writeln!(text, "not seen: {}: {}", one.what, one.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use inn_client::api::{Gpu, KvmFacts, NotSeen, Passthrough};

    use super::*;

    #[test]
    fn a_host_is_told_with_what_was_not_seen() {
        let share = Share { total: 4, reserved: 1, free: 3, used: Some(2) };
        let passthrough =
            Passthrough { possible: false, reason: "it is in no IOMMU group".to_owned() };
        let gpu = Gpu {
            pci_address: "0000:41:00.0".into(),
            pci_id: "10de:2331".into(),
            vendor: "NVIDIA Corporation".into(),
            name: "H100".into(),
            driver: Some("nvidia".into()),
            driver_version: Some("550.1".into()),
            memory_bytes: Some(80 << 30),
            uuid: None,
            mig: Some(true),
            numa_node: None,
            iommu_group: None,
            passthrough,
        };
        let host = HostFacts {
            cpu: CpuFacts { sockets: 2, cores: 1, threads: 60, offline: 4, ..CpuFacts::default() },
            kvm: KvmFacts { present: true, probed: Some(false), reason: "did not boot".into() },
            gpus: vec![gpu],
            not_seen: vec![NotSeen { what: "/x".into(), why: "denied".into() }],
            ..HostFacts::default()
        };
        let has = NodeResources { vcpus: share, ..NodeResources::default() };
        let text =
            describe(&NodeFacts { at: jiff::Timestamp::UNIX_EPOCH, for_vms: Some(has), host });
        for line in [
            "2 sockets, 1 core, 60 threads, 4 switched off",
            "KVM             does not work: did not boot",
            "vCPUs        4         1     2     3",
            "0000:41:00.0  H100   80GiB  nvidia 550.1  on   no: it is in no IOMMU group",
            "not seen: /x: denied",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(!text.contains("FILE SYSTEM"), "{text}");
    }
}
