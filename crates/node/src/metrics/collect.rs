//! The agent, its API, and what the node has as a whole.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use inn_domain::VmPhase;
use inn_host::process::cpu_time;

use super::exposition::{Exposition, Form, Kind};
use super::{ANSWERS, Inner, STARTS, of_vms};
use crate::events::EventKind;
use crate::node::Node;
use crate::templates::TemplateStanding;
use crate::vm::{Link, VmHandle, VmView};

/// All that there is to tell. Blocks, shortly: it reads a few files for each VM
/// that has a machine.
pub(crate) fn collect(node: &Arc<Node>, form: Form) -> String {
    let vms: Vec<(VmHandle, VmView)> =
        node.vms.all().into_iter().map(|vm| (vm.clone(), vm.view())).collect();
    let mut text = Exposition::new(form);
    agent(&mut text, node);
    requests(&mut text, &node.metrics.lock().clone());
    reconciler(&mut text, node, &vms);
    capacity(&mut text, node);
    images(&mut text, node);
    networks(&mut text, node);
    of_vms::collect(&mut text, node, &vms);
    text.finish()
}

fn agent(text: &mut Exposition, node: &Node) {
    text.family("inn_build", Kind::Info, "The agent's version.")
        .sample(&[("version", env!("CARGO_PKG_VERSION")), ("node", &node.id)], 1u64);
    text.family(
        "inn_agent_adopted",
        Kind::Gauge,
        "Whether all VMs of an earlier life are adopted or given up.",
    )
    .sample(&[], node.adopted.load(Ordering::Relaxed));
    text.family("inn_agent_drained", Kind::Gauge, "Whether the node takes and starts no VMs.")
        .sample(&[], node.drain.is_on());
    text.family("inn_agent_held", Kind::Gauge, "Whether guests are held down for the host.")
        .sample(&[], node.holds());
    process(text, node);
    let mut told = text.family("inn_events", Kind::Counter, "Events, by what has happened.");
    for (kind, count) in EventKind::ALL.iter().zip(node.events.counts()) {
        told.sample(&[("kind", kind.as_str())], count);
    }
    text.family("inn_events_dropped", Kind::Counter, "Events that no room was left for.")
        .sample(&[], node.events.dropped());
    if node.tracer.is_on() {
        let help = "Spans of traces that no room was left for.";
        text.family("inn_trace_spans_lost", Kind::Counter, help).sample(&[], node.tracer.lost());
    }
    let head = node.metering.head();
    text.family("inn_usage_blocks", Kind::Counter, "Blocks of the ledger of usage.")
        .sample(&[], head);
    text.family(
        "inn_usage_blocks_unwritten",
        Kind::Gauge,
        "Blocks that the ledger's disk has not taken yet.",
    )
    .sample(&[], node.metering.unsent());
}

/// As the conventions for client libraries name them.
fn process(text: &mut Exposition, node: &Node) {
    let own = std::process::id();
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    if let Some(time) = cpu_time(own) {
        text.family("process_cpu_seconds", Kind::Counter, "CPU time of the agent.")
            .sample(&[], time.as_secs_f64());
    }
    let status = read("status");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    for (name, field, help) in [
        ("process_resident_memory_bytes", "VmRSS:", "Memory of the agent."),
        ("process_virtual_memory_bytes", "VmSize:", "Address space of the agent."),
    ] {
        if let Some(kib) = kib(field) {
            text.family(name, Kind::Gauge, help).sample(&[], kib.saturating_mul(1024));
        }
    }
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    text.family("process_open_fds", Kind::Gauge, "Files that the agent has open.")
        .sample(&[], files);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        text.family("process_max_fds", Kind::Gauge, "Files that it may have open.")
            .sample(&[], limit);
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    let started = node.started_at.as_millisecond() as f64 / 1000.0;
    text.family(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the agent has started, since 1970.",
    )
    .sample(&[], started);
}

fn requests(text: &mut Exposition, counted: &Inner) {
    let mut requests =
        text.family("inn_api_requests", Kind::Counter, "Requests that were answered, by route.");
    for ((method, route, status), count) in &counted.requests {
        let status = status.to_string();
        requests.sample(&[("method", method), ("route", route), ("status", &status)], *count);
    }
    let mut answers = text.family(
        "inn_api_request_duration_seconds",
        Kind::Histogram,
        "Until an answer began; some requests wait on purpose.",
    );
    for ((method, route), took) in &counted.answers {
        answers.histogram(
            &[("method", method), ("route", route)],
            &ANSWERS,
            &took.counts,
            took.sum,
        );
    }
    let mut starts = text.family(
        "inn_vm_start_duration_seconds",
        Kind::Histogram,
        "From a start until the VM was up, by what it began from: a boot, or saved memory.",
    );
    for (from, took) in &counted.starts {
        starts.histogram(&[("from", from)], &STARTS, &took.counts, took.sum);
    }
    let mut failures = text.family("inn_vm_failures", Kind::Counter, "Steps of VMs that failed.");
    for (step, count) in &counted.failures {
        failures.sample(&[("step", step)], *count);
    }
}

fn reconciler(text: &mut Exposition, node: &Node, vms: &[(VmHandle, VmView)]) {
    const PHASES: [(VmPhase, &str); 9] = [
        (VmPhase::Pending, "pending"),
        (VmPhase::Preparing, "preparing"),
        (VmPhase::Starting, "starting"),
        (VmPhase::Running, "running"),
        (VmPhase::Paused, "paused"),
        (VmPhase::Stopping, "stopping"),
        (VmPhase::Stopped, "stopped"),
        (VmPhase::Failed, "failed"),
        (VmPhase::Deleting, "deleting"),
    ];
    const LINKS: [(Link, &str); 5] = [
        (Link::Absent, "absent"),
        (Link::Connecting, "connecting"),
        (Link::Ready, "ready"),
        (Link::Degraded, "degraded"),
        (Link::Lost, "lost"),
    ];
    let mut phases = text.family("inn_vms", Kind::Gauge, "VMs, by phase.");
    for (phase, name) in PHASES {
        let count = vms.iter().filter(|(_, view)| view.phase == phase).count();
        phases.sample(&[("phase", name)], count);
    }
    let unsettled = vms.iter().filter(|(_, view)| !view.has_settled()).count();
    text.family(
        "inn_vms_unsettled",
        Kind::Gauge,
        "VMs that are not yet as they were last asked to be.",
    )
    .sample(&[], unsettled);
    let mut links = text.family("inn_guest_links", Kind::Gauge, "Guest channels, by state.");
    for (link, name) in LINKS {
        let count = vms.iter().filter(|(_, view)| view.link == link).count();
        links.sample(&[("link", name)], count);
    }
    let turns = [("start", node.starts.counts()), ("copy", node.copies.counts())];
    let mut held =
        text.family("inn_turns_held", Kind::Gauge, "Machine starts and disk copies at work.");
    for (what, (held_now, _)) in turns {
        held.sample(&[("turn", what)], held_now);
    }
    let mut waiting =
        text.family("inn_turns_waiting", Kind::Gauge, "Machine starts and disk copies in line.");
    for (what, (_, waiting_now)) in turns {
        waiting.sample(&[("turn", what)], waiting_now);
    }
}

fn capacity(text: &mut Exposition, node: &Arc<Node>) {
    let (total, reserved) = node.vms.room(node);
    let mut memory = text.family("inn_node_memory_bytes", Kind::Gauge, "Memory for VMs.");
    memory.sample(&[("share", "total")], total.memory.get());
    memory.sample(&[("share", "reserved")], reserved.memory.get());
    let mut vcpus = text.family("inn_node_vcpus", Kind::Gauge, "vCPUs for VMs.");
    vcpus.sample(&[("share", "total")], total.vcpus);
    vcpus.sample(&[("share", "reserved")], reserved.vcpus);
    let mut disk = text.family("inn_node_disk_bytes", Kind::Gauge, "Disk for VMs.");
    disk.sample(&[("share", "total")], total.disk.get());
    disk.sample(&[("share", "reserved")], reserved.disk.get());
    let mut free =
        text.family("inn_node_disk_free_bytes", Kind::Gauge, "What is free where things are kept.");
    let paths = &node.config.paths;
    for (what, path) in [("data", &paths.data_dir), ("images", &paths.image_cache_dir)] {
        if let Ok(stat) = rustix::fs::statvfs(path) {
            free.sample(&[("what", what)], stat.f_bavail.saturating_mul(stat.f_frsize));
        }
    }
    let templates = node.templates.told();
    let ready = templates.iter().filter(|told| told.state == TemplateStanding::Ready).count();
    let mut told = text.family(
        "inn_templates",
        Kind::Gauge,
        "Kinds of VMs that are known, and those with a template.",
    );
    told.sample(&[("state", "known")], templates.len());
    told.sample(&[("state", "ready")], ready);
    let pool = node.templates.pool(node);
    text.family("inn_pool_clones", Kind::Gauge, "Clones that wait for a VM.")
        .sample(&[], pool.waiting);
    text.family("inn_pool_memory_bytes", Kind::Gauge, "Memory of clones that wait.")
        .sample(&[], pool.used.get());
}

fn images(text: &mut Exposition, node: &Node) {
    let Ok(images) = node.images.store().list() else { return };
    text.family("inn_images", Kind::Gauge, "Images of the node.").sample(&[], images.len());
    let bytes = images.iter().map(|image| image.disk_bytes.get()).fold(0u64, u64::saturating_add);
    text.family("inn_images_disk_bytes", Kind::Gauge, "Their root disks.").sample(&[], bytes);
}

fn networks(text: &mut Exposition, node: &Node) {
    text.family("inn_networks", Kind::Gauge, "Networks of the node.")
        .sample(&[], node.networks.all().len());
    let maps = node.networks.maps();
    text.family("inn_port_maps", Kind::Gauge, "Port maps.").sample(&[], maps.len());
    let all = node.networks.all();
    let problems: usize = all.iter().map(|network| node.networks.problems(network.id).len()).sum();
    text.family(
        "inn_network_troubles",
        Kind::Gauge,
        "What is wrong with the host's network for VMs.",
    )
    .sample(&[], problems + node.networks.blocked().len());
}
