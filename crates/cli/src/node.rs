use std::fmt::Write;
use std::time::Duration;

use inn_client::Client;
use inn_client::api::{
    HostFacts, NodeDrain, NodeInfo, NodeSnapshot, Share, Template, TemplateState, VmUse,
};
use inn_units::{Bytes, format_duration};
use tokio::time::Instant;

use crate::args::{DrainArgs, NodeCommand};
use crate::benchmark;
use crate::context::Context;
use crate::facts;
use crate::failure::{FAILED, Failure};
use crate::guests;
use crate::node_usage;
use crate::progress::Spinner;
use crate::table::Table;

/// Between two questions for how many VMs still run.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// What the agent may take beyond a drain's time to end the last machines.
const SLACK: Duration = Duration::from_secs(60);

pub(crate) async fn node(context: &Context, command: &NodeCommand) -> Result<u8, Failure> {
    let client = match command {
        NodeCommand::ShutdownGuests(args) => return guests::shutdown(context, args).await,
        NodeCommand::StartGuests => return guests::start(context).await,
        NodeCommand::Reap => return reap(context, &context.client().await?).await,
        NodeCommand::Snapshot => return snapshot(context, &context.client().await?).await,
        NodeCommand::Usage(args) => return node_usage::usage(context, args).await,
        NodeCommand::Resources => {
            return facts::resources(context, &context.client().await?).await;
        }
        NodeCommand::Benchmark(args) => return benchmark::benchmark(context, args).await,
        NodeCommand::Show | NodeCommand::Drain(_) | NodeCommand::Undrain => {
            context.client().await?
        }
    };
    let node = match command {
        NodeCommand::Drain(args) => drain(context, &client, args).await?,
        NodeCommand::Undrain => client.undrain_node().await?,
        _ => client.node().await?,
    };
    context.result(&node, || match command {
        NodeCommand::Drain(_) => format!("{} drained\n", node.id),
        NodeCommand::Undrain => format!("{} takes VMs\n", node.id),
        _ => describe(&node),
    })?;
    Ok(0)
}

async fn snapshot(context: &Context, client: &Client) -> Result<u8, Failure> {
    let snapshot = client.node_snapshot().await?;
    context.result(&snapshot, || now(&snapshot))?;
    Ok(0)
}

async fn reap(context: &Context, client: &Client) -> Result<u8, Failure> {
    let reaped = client.reap().await?.items;
    context.result(&reaped, || {
        let mut table = Table::new(["VM", "KIND", "STATE"]);
        for one in &reaped {
            let kind = serde_json::to_value(one.kind).ok();
            let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
            let state = one.error.clone().unwrap_or_else(|| "removed".to_owned());
            table.push([one.vm.clone(), kind.to_owned(), state]);
        }
        if reaped.is_empty() { "nothing was left behind\n".to_owned() } else { table.render() }
    })?;
    Ok(if reaped.iter().any(|one| one.error.is_some()) { FAILED } else { 0 })
}

async fn drain(context: &Context, client: &Client, args: &DrainArgs) -> Result<NodeInfo, Failure> {
    let seconds = u32::try_from(args.timeout.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    let asked = NodeDrain { stop_vms: args.stop_vms, timeout_seconds: Some(seconds) };
    let mut node = client.drain_node(&asked).await?;
    if !args.stop_vms {
        return Ok(node);
    }
    let mut spinner = Spinner::start(context, "stopping VMs".to_owned());
    let deadline = Instant::now() + args.timeout + SLACK;
    while node.running > 0 {
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "{} VMs still run after {}; `inn vm stop --all --force` ends them",
                node.running,
                format_duration(args.timeout + SLACK)
            )));
        }
        tokio::time::sleep(ASK_AGAIN).await;
        node = client.node().await?;
    }
    spinner.clear();
    Ok(node)
}

fn now(node: &NodeSnapshot) -> String {
    let has = node.resources;
    let of = |used, total| format!("{} of {}", Bytes(used), Bytes(total));
    let pool = &node.pool;
    let clones = match &pool.off {
        Some(why) => format!("none: {why}"),
        None => format!(
            "{} wait, with {}",
            pool.waiting,
            of(pool.memory_bytes, pool.memory_limit_bytes)
        ),
    };
    let rows = [
        ("VMs", format!("{}, of which {} run", node.vms, node.running)),
        ("memory reserved", of(has.memory_bytes.reserved, has.memory_bytes.total)),
        ("vCPUs reserved", format!("{} of {}", has.vcpus.reserved, has.vcpus.total)),
        ("clones", clones),
        ("load", node.host.load.map(|load| format!("{load:.2}")).join(" ")),
        ("CPU", node.host.cpu_percent.map_or_else(unknown, |percent| format!("{percent:.0} %"))),
        ("memory", {
            let memory = &node.host.memory;
            let taken = memory.total_bytes.saturating_sub(memory.available_bytes);
            of(taken, memory.total_bytes)
        }),
    ];
    let mut text = String::new();
    for (key, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:<15} {value}");
    }
    let host = HostFacts { file_systems: node.host.file_systems.clone(), ..HostFacts::default() };
    for part in [facts::file_systems(&host), usage(&node.usage), templates(&node.templates)] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    }
    text
}

fn unknown() -> String {
    "not measured twice yet".to_owned()
}

fn usage(all: &[VmUse]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["VM", "CPU", "CPU TIME", "MEMORY", "DISK"]).right([1, 2, 3, 4]);
    for vm in all {
        table.push([
            vm.name.to_string(),
            vm.cpu_percent.map(|percent| format!("{percent:.0} %")).unwrap_or_default(),
            format!("{:.1} s", vm.cpu_seconds),
            Bytes(vm.resident_bytes).to_string(),
            Bytes(vm.disk_bytes).to_string(),
        ]);
    }
    table.render()
}

fn templates(all: &[Template]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        "TEMPLATE OF",
        "VCPUS",
        "MEMORY",
        "STATE",
        "ON DISK",
        "HELD",
        "CLONES",
        "EACH",
        "HITS",
        "MISSES",
    ]);
    for one in all {
        let state = match (one.state, &one.why) {
            (TemplateState::Wanted, _) => "wanted".to_owned(),
            (TemplateState::Making, _) => "making".to_owned(),
            (TemplateState::Ready, _) => "ready".to_owned(),
            (TemplateState::Failed, why) => {
                format!("failed: {}", why.as_deref().unwrap_or("unknown"))
            }
        };
        table.push([
            one.image.clone(),
            one.vcpus.to_string(),
            Bytes(one.memory_bytes).to_string(),
            state,
            Bytes(one.disk_bytes).to_string(),
            Bytes(one.held_bytes).to_string(),
            one.waiting.to_string(),
            one.clone_bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default(),
            one.hits.to_string(),
            one.misses.to_string(),
        ]);
    }
    table.render()
}

fn describe(node: &NodeInfo) -> String {
    let bytes = |share: Share| format!("{} of {}", Bytes(share.reserved), Bytes(share.total));
    let count = |share: Share| format!("{} of {}", share.reserved, share.total);
    let state = if node.guests_held {
        "guests are shut down with the host, until it boots or `inn node start-guests`"
    } else if node.drained {
        "drained: takes and starts no VMs until `inn node undrain`"
    } else {
        "takes VMs"
    };
    let run = node.running;
    let mut rows = vec![
        ("id", node.id.clone()),
        ("version", node.version.clone()),
        ("state", state.to_owned()),
    ];
    match node.resources {
        Some(has) => rows.extend([
            ("VMs", format!("{}, of which {run} run", count(has.vms))),
            ("memory reserved", bytes(has.memory_bytes)),
            ("vCPUs reserved", count(has.vcpus)),
            ("disk reserved", bytes(has.disk_bytes)),
        ]),
        // Somebody who does not see all of them.
        None => rows.push(("VMs", format!("{} to be seen, of which {run} run", node.vms))),
    }
    rows.extend([
        ("data directory", node.data_dir.clone()),
        ("API over TCP", node.api_listen.clone().unwrap_or_else(|| "none".to_owned())),
        ("pid", node.pid.to_string()),
    ]);
    if !node.foreign_domains.is_empty() {
        rows.push(("others' domains", node.foreign_domains.join(", ")));
    }
    let mut text = String::new();
    for (key, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:<15} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_node_says_so_and_what_it_has_lent() {
        let share = |reserved, total| Share { reserved, total, ..Share::default() };
        let mut node = NodeInfo {
            started_at: None,
            id: "node-1".into(),
            version: "1".into(),
            pid: 7,
            data_dir: "/data".into(),
            api_listen: None,
            vms: 3,
            running: 2,
            drained: true,
            guests_held: false,
            resources: Some(inn_client::api::NodeResources {
                memory_bytes: share(1 << 30, 4 << 30),
                vcpus: share(3, 16),
                disk_bytes: share(0, 1 << 40),
                vms: share(3, 100),
            }),
            foreign_domains: vec!["web".into(), "db".into()],
        };
        let text = describe(&node);
        for line in
            ["drained: takes", "3 of 100, of which 2 run", "1GiB of 4GiB", "3 of 16", "web, db"]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
        node.drained = false;
        assert!(describe(&node).contains("takes VMs\n"));
        node.resources = None;
        let text = describe(&node);
        assert!(text.contains("3 to be seen, of which 2 run") && !text.contains(" of 0"), "{text}");
    }
}
