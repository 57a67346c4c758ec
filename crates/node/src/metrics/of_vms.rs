//! Each VM, as the host sees it and as its guest says.

use std::collections::HashMap;

use inn_domain::network::tap_name;
use inn_net::sent::{Carried, carried};

use super::exposition::{Exposition, Kind};
use crate::metering::{Weight, cpu_of};
use crate::node::Node;
use crate::vm::{Link, VmHandle, VmView};

/// What the host says of one.
struct Host {
    /// Microseconds.
    cpu: Option<u64>,
    carried: Option<Carried>,
    weight: Weight,
}

pub(super) fn collect(text: &mut Exposition, node: &Node, vms: &[(VmHandle, VmView)]) {
    let names: Vec<String> = vms.iter().map(|(vm, _)| vm.spec().name.to_string()).collect();
    let links: HashMap<String, Carried> =
        carried().map(|links| links.into_iter().collect()).unwrap_or_default();
    let hosts: Vec<Host> = vms.iter().map(|(vm, _)| host(node, vm, &links)).collect();

    let mut info = text.family("inn_vm", Kind::Info, "What a VM is.");
    for ((vm, view), name) in vms.iter().zip(&names) {
        let (id, image) = (vm.id().to_string(), vm.spec().image().map(|image| image.name.clone()));
        let runtime = view.machine.as_ref().map_or("", |machine| machine.runtime.as_str());
        let image = image.map(|image| image.to_string()).unwrap_or_default();
        info.sample(&[("vm", name), ("id", &id), ("image", &image), ("runtime", runtime)], 1u64);
    }
    let up = |(_, view): &(VmHandle, VmView)| view.machine.is_some();
    each(text, "inn_vm_up", "Whether it has a machine.", (vms, &names), |at| Some(up(at)));
    each(
        text,
        "inn_vm_guest_ready",
        "Whether its guest agent answers.",
        (vms, &names),
        |(_, view)| Some(view.link == Link::Ready),
    );
    each(text, "inn_vm_vcpus", "Its vCPUs.", (vms, &names), |(vm, _)| {
        Some(u64::from(vm.spec().vcpus.get()))
    });
    each(text, "inn_vm_memory_bytes", "Its memory.", (vms, &names), |(vm, _)| {
        Some(vm.spec().memory.get())
    });
    each(text, "inn_vm_disk_bytes", "Its disk's size.", (vms, &names), |(vm, _)| {
        Some(vm.disk_size().get())
    });
    by_host(text, &hosts, &names);
    by_guest(text, vms, &names);
}

fn host(node: &Node, vm: &VmHandle, links: &HashMap<String, Carried>) -> Host {
    let cpu = vm.life().map(|life| cpu_of(&node.cgroups, vm.id(), life.pid));
    let carried = links.get(tap_name(vm.id()).as_str()).copied();
    Host { cpu, carried, weight: node.metering.weight(vm.id()) }
}

fn each<V: super::exposition::Value>(
    text: &mut Exposition,
    name: &'static str,
    help: &str,
    (vms, names): (&[(VmHandle, VmView)], &[String]),
    of: impl Fn(&(VmHandle, VmView)) -> Option<V>,
) {
    let mut family = text.family(name, Kind::Gauge, help);
    for (vm, name) in vms.iter().zip(names) {
        if let Some(value) = of(vm) {
            family.sample(&[("vm", name)], value);
        }
    }
}

fn by_host(text: &mut Exposition, hosts: &[Host], names: &[String]) {
    let all = || hosts.iter().zip(names);
    let mut cpu = text.family(
        "inn_vm_cpu_seconds",
        Kind::Counter,
        "CPU time of its machine, the VMM's own included.",
    );
    for (host, name) in all() {
        if let Some(micros) = host.cpu {
            #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
            cpu.sample(&[("vm", name)], micros as f64 / 1e6);
        }
    }
    let mut resident = text.family(
        "inn_vm_resident_memory_bytes",
        Kind::Gauge,
        "Memory of the host that is its own, with its share of what it shares; a minute old at most.",
    );
    for (host, name) in all() {
        resident.sample(&[("vm", name)], host.weight.resident);
    }
    let mut occupied = text.family(
        "inn_vm_occupied_disk_bytes",
        Kind::Gauge,
        "Disk of the host that it takes; a minute old at most.",
    );
    for (host, name) in all() {
        occupied.sample(&[("vm", name)], host.weight.occupied);
    }
    let mut sent =
        text.family("inn_vm_network_sent_bytes", Kind::Counter, "What its card has sent.");
    for (host, name) in all() {
        if let Some(carried) = host.carried {
            sent.sample(&[("vm", name)], carried.sent);
        }
    }
    let mut received =
        text.family("inn_vm_network_received_bytes", Kind::Counter, "What was sent to its card.");
    for (host, name) in all() {
        if let Some(carried) = host.carried {
            received.sample(&[("vm", name)], carried.received);
        }
    }
}

fn by_guest(text: &mut Exposition, vms: &[(VmHandle, VmView)], names: &[String]) {
    let latest: Vec<_> = vms.iter().map(|(vm, _)| vm.telemetry().latest()).collect();
    let mut family = |name: &'static str, help: &str, of: &dyn Fn(&crate::vm::Sample) -> f64| {
        let mut family = text.family(name, Kind::Gauge, help);
        for (sample, name) in latest.iter().zip(names) {
            if let Some(sample) = sample {
                family.sample(&[("vm", name)], of(sample));
            }
        }
    };
    let now = jiff::Timestamp::now();
    let age = |at| now.duration_since(at).as_secs_f64().max(0.0);
    family("inn_vm_guest_telemetry_age_seconds", "How old what its guest says is.", &|sample| {
        age(sample.at)
    });
    family("inn_vm_guest_uptime_seconds", "Since its guest has booted, by the guest.", &|sample| {
        sample.telemetry.uptime.as_secs_f64()
    });
    family("inn_vm_guest_cpu_ratio", "Of its CPUs' time what its guest was at work.", &|sample| {
        f64::from(sample.telemetry.cpu_permille) / 1000.0
    });
    family("inn_vm_guest_load1", "Its load over a minute, by its guest.", &|sample| {
        f64::from(sample.telemetry.load[0]) / 100.0
    });
    family("inn_vm_guest_processes", "Processes in it, by its guest.", &|sample| {
        f64::from(sample.telemetry.processes)
    });
    family("inn_vm_guest_memory_bytes", "Memory that its guest sees.", &|sample| {
        bytes(sample.telemetry.memory_total)
    });
    family(
        "inn_vm_guest_available_memory_bytes",
        "Memory that is available in it, by its guest.",
        &|sample| bytes(sample.telemetry.memory_available),
    );
    let root = |sample: &crate::vm::Sample| {
        let mounts = &sample.telemetry.mounts;
        mounts.iter().find(|mount| mount.target == "/").map(|mount| (mount.total, mount.used))
    };
    family("inn_vm_guest_root_bytes", "Its root file system, by its guest.", &|sample| {
        root(sample).map_or(0.0, |(total, _)| bytes(total))
    });
    family("inn_vm_guest_root_used_bytes", "What of that is used.", &|sample| {
        root(sample).map_or(0.0, |(_, used)| bytes(used))
    });
}

#[expect(clippy::cast_precision_loss, reason = "a gauge of bytes; beyond 8 PiB by a part in 2^53")]
fn bytes(n: u64) -> f64 {
    n as f64
}
