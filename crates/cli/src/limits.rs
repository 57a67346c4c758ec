//! `inn vm limits`: what a VM's machine may use of the node.

use inn_client::api::VmLimitsState;

use crate::args::VmLimitsArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::view::bytes;

pub(crate) async fn limits(context: &Context, args: &VmLimitsArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let name = args.vm.name();
    let state = match args.request() {
        Some(change) => client.set_limits(name, &change).await?,
        None => client.vm(name).await?.limits,
    };
    context.result(&state, || {
        lines(&state).into_iter().map(|(key, value)| format!("{key:14}  {value}\n")).collect()
    })?;
    Ok(0)
}

/// For a person: what was asked for, what of it holds, and what does not.
pub(crate) fn lines(state: &VmLimitsState) -> Vec<(&'static str, String)> {
    let asked = &state.asked;
    let mut all = Vec::new();
    all.extend(asked.cpu_quota_percent.map(|percent| format!("CPU {percent} %")));
    all.extend(asked.cpu_weight.map(|weight| format!("CPU weight {weight}")));
    all.extend(asked.memory_bytes.map(|size| format!("memory {}", bytes(size.get()))));
    all.extend(asked.pids.map(|pids| format!("{pids} threads")));
    for (what, rate) in [("reads", asked.io_read_bps), ("writes", asked.io_write_bps)] {
        all.extend(rate.map(|rate| format!("{what} {}/s", bytes(rate.get()))));
    }
    for (what, ops) in [("reads", asked.io_read_iops), ("writes", asked.io_write_iops)] {
        all.extend(ops.map(|ops| format!("{ops} {what}/s")));
    }
    let asked = if all.is_empty() { "default".to_owned() } else { all.join(", ") };
    let mut lines = vec![("limits", asked)];
    if !state.applied.is_empty() {
        let layout = match serde_json::to_value(state.layout) {
            Ok(serde_json::Value::String(text)) => text,
            _ => String::new(),
        };
        lines.push(("limited", format!("{} (cgroups {layout})", state.applied.join(", "))));
    }
    for not in &state.not_applied {
        lines.push(("not limited", format!("{}: {}", not.what, not.why)));
    }
    if let Some(uid) = state.uid {
        lines.push(("runs as", format!("uid {uid}")));
    }
    lines
}
