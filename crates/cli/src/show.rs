use std::fmt::Write;

use inn_client::api::Vm;
use jiff::Timestamp;

use crate::args::{ShowArgs, VmTargets};
use crate::context::Context;
use crate::failure::{Failure, harmless};
use crate::view::{age, phase_name};

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
    context.result(&vms, || {
        let now = Timestamp::now();
        let blocks: Vec<_> = vms.iter().map(|vm| describe(vm, now)).collect();
        blocks.join("\n")
    })?;
    Ok(0)
}

fn describe(vm: &Vm, now: Timestamp) -> String {
    let mut lines: Vec<(&str, String)> =
        vec![("name", vm.name.to_string()), ("id", vm.id.to_string())];
    if let Some(image) = &vm.image {
        lines.push(("image", format!("{} ({})", image.name, image.digest)));
    }
    if let Some(disk) = &vm.disk_image {
        lines.push(("disk image", format!("{} ({})", disk.url, plain(&disk.format))));
    }
    if let Some(language) = &vm.language {
        lines.push(("language", language.clone()));
    }
    lines.push(("status", phase_name(vm.phase).to_owned()));
    if let Some(failure) = &vm.failure {
        lines.push(("failure", format!("{}: {}", failure.step, failure.cause)));
        lines.push(("next", failure.next.clone()));
    }
    lines.push(("cpus", vm.vcpus.to_string()));
    lines.push(("memory", vm.memory_bytes.to_string()));
    lines.push(("disk", vm.disk_bytes.to_string()));
    lines.push(("network", plain(&vm.network)));
    lines.push(("runtime", plain(&vm.runtime)));
    if let Some(accelerator) = &vm.accelerator {
        lines.push(("accelerator", plain(accelerator)));
    }
    lines.push(("restart policy", plain(&vm.restart_policy)));
    lines.push(("persist", if vm.persist { "yes, at /persist" } else { "no" }.to_owned()));
    lines.push(("guest agent", plain(&vm.guest.link)));
    if let Some(workload) = &vm.workload {
        let state = match (workload.running, workload.exit_code, &workload.reason) {
            (true, ..) => "running".to_owned(),
            (false, Some(code), _) => format!("ended with {code}"),
            (false, None, Some(reason)) => reason.clone(),
            (false, None, None) => "not started".to_owned(),
        };
        lines.push(("workload", format!("{} ({state})", workload.command.join(" "))));
    }
    if let Some(pid) = vm.pid {
        lines.push(("pid", pid.to_string()));
    }
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

/// A value as the API spells it.
fn plain(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
