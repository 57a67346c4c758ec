use std::fmt::Write;

use inn_client::Client;
use inn_client::api::{Boot, CloudInitState, GuestSample, Vm};
use jiff::Timestamp;

use crate::args::{ShowArgs, VmTargets};
use crate::context::Context;
use crate::failure::{Failure, harmless};
use crate::timeline::{self, Look};
use crate::view::{age, bytes, end, idle_words, link, percent, status, time_left, uptime};

/// `inn vm show`: everything about each VM. JSON is an array, as with lists.
pub(crate) async fn show(context: &Context, args: &ShowArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let vms = match args.vms.targets() {
        VmTargets::All => client.vms().await?.items,
        VmTargets::Named(names) => {
            let mut vms = Vec::with_capacity(names.len());
            for name in &names {
                vms.push(client.vm(name).await?);
            }
            vms
        }
    };
    if context.json() {
        context.result(&vms, String::new)?;
        return Ok(0);
    }
    let (now, look) = (Timestamp::now(), Look::of_stdout());
    let mut blocks = Vec::with_capacity(vms.len());
    for vm in &vms {
        let mut block = describe(vm, now);
        if let Some(boot) = last_boot(&client, vm).await? {
            block.push_str(&timeline::draw(&boot, "last start", now, look));
        }
        blocks.push(block);
    }
    context.result(&vms, || blocks.join("\n"))?;
    Ok(0)
}

/// How it came up last. A VM that has gone meanwhile has nothing to tell.
async fn last_boot(client: &Client, vm: &Vm) -> Result<Option<Boot>, Failure> {
    match client.why_vm(&vm.id.to_string()).await {
        Ok(why) => Ok(why.boot),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn cloud_init(state: &CloudInitState) -> String {
    let CloudInitState { status, stage, errors, .. } = state;
    let more = errors.first().or(stage.as_ref()).map(|more| format!(": {more}"));
    format!("{}{}", plain(status), more.unwrap_or_default())
}

fn describe(vm: &Vm, now: Timestamp) -> String {
    let mut lines: Vec<(&str, String)> =
        vec![("name", vm.name.to_string()), ("id", vm.id.to_string())];
    if let Some(image) = &vm.image {
        lines.push(("image", format!("{} ({})", image.name, image.digest)));
    }
    if let Some(disk) = &vm.disk_image {
        let sha256 = disk.sha256.as_ref().map(|hex| format!(", sha256 {hex}"));
        let format = plain(&disk.format);
        let sha256 = sha256.unwrap_or_default();
        lines.push(("disk image", format!("{} ({format}{sha256})", disk.url)));
    }
    if let Some(language) = &vm.language {
        lines.push(("language", language.clone()));
    }
    lines.push(("status", status(vm)));
    if let Some(paused) = &vm.paused {
        let since = age(paused.since, now);
        lines.push(("paused", format!("by {}, {since} ago", paused.by)));
    }
    if let Some(rest) = &vm.rest {
        let since = age(rest.since, now);
        lines
            .push(("rests", format!("as nobody used it, for {since}; {} wakes it", rest.woken_by)));
    }
    if let Some(waits) = &vm.waits {
        lines.push(("waits", waits.clone()));
    }
    if let Some(failure) = &vm.failure {
        lines.push(("failure", format!("{}: {}", failure.step, failure.cause)));
        lines.push(("next", failure.next.clone()));
    }
    lines.push(("cpus", vm.vcpus.to_string()));
    lines.push(("memory", vm.memory_bytes.to_string()));
    lines.push(("disk", vm.disk_bytes.to_string()));
    lines.push(("network", plain(&vm.network)));
    let addresses: Vec<String> = vm.addresses.iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        lines.push(("leased", addresses.join(", ")));
    }
    lines.extend(
        vm.ports.iter().map(|map| ("port", format!("{} to {}", map.name, map.target_port))),
    );
    if vm.policy != inn_client::api::VmPolicyState::default() {
        lines.extend(crate::network::policy_lines(&vm.policy));
    }
    lines.push(("runtime", plain(&vm.runtime)));
    if let Some(accelerator) = &vm.accelerator {
        lines.push(("accelerator", plain(accelerator)));
    }
    lines.push(("channel", plain(&vm.channel)));
    lines.push(("restart policy", plain(&vm.restart_policy)));
    lines.push(("persist", if vm.persist { "yes, at /persist" } else { "no" }.to_owned()));
    if let Some(ttl) = &vm.ttl {
        lines.push(("time to live", time_left(ttl)));
    }
    if let Some(on_idle) = &vm.on_idle {
        lines.push(("when idle", idle_words(on_idle)));
    }
    lines.push(("guest agent", guest_agent(vm, now)));
    if let Some(state) = &vm.cloud_init {
        lines.push(("cloud-init", cloud_init(state)));
    }
    if let Some(os) = &vm.guest.os {
        lines.push(("guest system", os.clone()));
    }
    if let Some(stats) = &vm.stats {
        lines.extend(used(stats));
    }
    if let Some(workload) = &vm.workload {
        let state = match (workload.running, workload.exit_code, &workload.reason) {
            (true, ..) => "running".to_owned(),
            (false, Some(code), _) => format!("ended with {code}"),
            (false, None, Some(reason)) => reason.clone(),
            (false, None, None) => "not started".to_owned(),
        };
        let state = match workload.restarts {
            0 => state,
            1 => format!("{state}, restarted once"),
            n => format!("{state}, restarted {n} times"),
        };
        lines.push(("workload", format!("{} ({state})", workload.command.join(" "))));
    }
    if let Some(receipt) = &vm.receipt {
        let took = inn_units::format_duration(std::time::Duration::from_micros(receipt.took_us));
        let done = receipt.steps.iter().filter(|step| step.result == "done").count();
        let all = receipt.steps.len();
        let origin = &receipt.origin;
        lines.push(("begun from", format!("{origin}, {done} of {all} steps done, {took}")));
        lines.extend(receipt.steps.iter().map(|step| {
            let why = step.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            ("resume step", format!("{}: {}{why}", step.name, step.result))
        }));
    }
    if let Some(last) = &vm.last_end {
        lines.push(("last end", format!("{}, {} ago", end(last), age(last.at, now))));
    }
    if let Some(pid) = vm.pid {
        lines.push(("pid", pid.to_string()));
    }
    lines.extend(crate::limits::lines(&vm.limits));
    if let Some(ms) = vm.boot_ms {
        lines.push(("boot time", format!("{ms} ms")));
    }
    for (key, value) in &vm.labels {
        lines.push(("label", format!("{key}={value}")));
    }
    lines.push(("created", format!("{} ago ({})", age(vm.created_at, now), vm.created_at)));

    let mut text = String::new();
    for (key, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:<15} {}", harmless(&value));
    }
    text
}

/// `ready for 3m (agent 0.1.0, protocol 1.1)`, or why it is not.
fn guest_agent(vm: &Vm, now: Timestamp) -> String {
    let guest = &vm.guest;
    let mut text = link(guest.link).to_owned();
    if let Some(since) = guest.since {
        let _ = write!(text, " for {}", age(since, now));
    }
    if let Some(reason) = &guest.reason {
        let _ = write!(text, ": {reason}");
    }
    let known = [
        guest.agent_version.as_ref().map(|version| format!("agent {version}")),
        guest.protocol.as_ref().map(|version| format!("protocol {version}")),
        guest.is_init.map(|init| if init { "as PID 1" } else { "as a service" }.to_owned()),
    ];
    let known: Vec<_> = known.into_iter().flatten().collect();
    if !known.is_empty() {
        let _ = write!(text, " ({})", known.join(", "));
    }
    text
}

/// What the guest uses now.
fn used(stats: &GuestSample) -> Vec<(&'static str, String)> {
    let mut lines: Vec<_> = stats
        .interfaces
        .iter()
        .filter(|interface| interface.name != "lo" && !interface.addresses.is_empty())
        .map(|interface| {
            ("address", format!("{} on {}", interface.addresses.join(", "), interface.name))
        })
        .collect();
    let [one, five, fifteen] = stats.load;
    lines.push((
        "cpu use",
        format!(
            "{:.1} % of {}, load {one:.2} {five:.2} {fifteen:.2}",
            stats.cpu_percent, stats.cpus
        ),
    ));
    let (used, total) = (stats.memory_used_bytes, stats.memory_total_bytes);
    lines.push((
        "memory use",
        format!("{} of {} ({})", bytes(used), bytes(total), percent(used, total)),
    ));
    lines.extend(stats.mounts.iter().filter(|mount| mount.target == "/").map(|mount| {
        let (used, total) = (mount.used_bytes, mount.total_bytes);
        ("disk use", format!("{} of {} ({})", bytes(used), bytes(total), percent(used, total)))
    }));
    lines.push(("uptime", uptime(stats.uptime_seconds)));
    if stats.frozen {
        lines.push(("file systems", "frozen; `inn vm guest thaw` ends it".to_owned()));
    }
    lines
}

/// A value as the API spells it.
fn plain(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
