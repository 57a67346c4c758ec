use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use inn_api::{
    Code, Health, NodeDrain, NodeInfo, NodeResources, NodeSnapshot, Problem, ReapedList, Share,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::auth::sees;
use super::convert;
use super::extract::{Body, Params, Wait};
use super::problem::Failed;
use crate::drain;
use crate::node::Node;
use crate::reconcile;

/// For VMs to stop in a drain, unless it is said.
const DRAIN: Duration = Duration::from_secs(300);

/// Whether the agent is up, and which version it is.
#[utoipa::path(get, path = "/health", tag = "node", responses((status = 200, body = Health)))]
pub(super) async fn health(State(state): State<ApiState>) -> Json<Health> {
    let adopted = state.node.adopted.load(Ordering::Relaxed);
    Json(Health {
        status: match (adopted, state.node.drain.is_on()) {
            (false, _) => "adopting",
            (true, true) => "drained",
            (true, false) => "ok",
        }
        .to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What this node is.
#[utoipa::path(get, path = "/api/node", tag = "node", responses((status = 200, body = NodeInfo)))]
pub(super) async fn node(State(state): State<ApiState>) -> Json<NodeInfo> {
    Json(info(&state.node).await)
}

/// What this node is at: its VMs, what they reserve and take of the host, the
/// templates that they begin from and the clones that wait. What is measured is
/// at most a second old.
#[utoipa::path(get, path = "/api/node/snapshot", tag = "node", responses(
    (status = 200, body = NodeSnapshot),
))]
pub(super) async fn snapshot(State(state): State<ApiState>) -> Json<NodeSnapshot> {
    let node = &state.node;
    let live = node.gauge.now(node).await;
    let all = node.vms.all();
    Json(NodeSnapshot {
        at: jiff::Timestamp::now(),
        vms: count(all.len()),
        running: count(all.iter().filter(|vm| vm.machine().is_some()).count()),
        resources: resources(node),
        templates: node.templates.told().into_iter().map(convert::node_life::template).collect(),
        pool: convert::node_life::pool(&node.templates.pool(node)),
        host: live.host.clone(),
        usage: live.vms.clone(),
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DrainParams {
    /// Answer once the VMs that are to stop are down, at the latest after this
    /// time.
    #[param(value_type = Option<String>, example = "30s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    wait: Option<Wait>,
}

/// Takes and starts no VMs from now on, over restarts too, until an undrain.
/// What runs, runs on, unless its stop is asked for with it.
#[utoipa::path(post, path = "/api/node/drain", tag = "node", params(DrainParams),
    request_body = NodeDrain, responses(
    (status = 200, description = "drained; its VMs may still be stopping", body = NodeInfo),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn drain_node(
    State(state): State<ApiState>,
    Params(params): Params<DrainParams>,
    Body(asked): Body<NodeDrain>,
) -> Result<Json<NodeInfo>, Failed> {
    let node = &state.node;
    let within = asked.timeout_seconds.map_or(DRAIN, |s| Duration::from_secs(s.into()));
    if within > drain::LONGEST {
        let (longest, asked) = (drain::LONGEST.as_secs(), within.as_secs());
        let detail = format!("a drain takes {longest} s at most, and not {asked}");
        return Err(Failed::new(Code::InvalidRequest, detail));
    }
    let stop_within = asked.stop_vms.then_some(within);
    drain::drain(node, stop_within).await.map_err(|error| Failed::internal(&error))?;
    if let Some(Wait(wait)) = params.wait {
        // Cancel safe, and the agent's end is waited out by nobody.
        node.closing.run_until_cancelled(node.drain.wait_stopped(wait)).await;
    }
    Ok(Json(info(node).await))
}

/// Takes and starts VMs again, and starts those that had to wait.
#[utoipa::path(post, path = "/api/node/undrain", tag = "node", responses(
    (status = 200, body = NodeInfo),
))]
pub(super) async fn undrain_node(State(state): State<ApiState>) -> Result<Json<NodeInfo>, Failed> {
    let node = &state.node;
    drain::undrain(node).await.map_err(|error| Failed::internal(&error))?;
    Ok(Json(info(node).await))
}

/// Looks for what VMs have left behind, and removes it. The node does the same
/// at its start and every so often.
#[utoipa::path(post, path = "/api/node/reap", tag = "node", responses(
    (status = 200, body = ReapedList),
))]
pub(super) async fn reap_orphans(State(state): State<ApiState>) -> Json<ReapedList> {
    let reaped = reconcile::reap(&state.node).await;
    Json(ReapedList { items: reaped.into_iter().map(convert::reaped).collect() })
}

async fn info(node: &Node) -> NodeInfo {
    let all = node.vms.all();
    let seen: Vec<_> = all.iter().filter(|vm| sees(vm.id())).collect();
    let running = seen.iter().filter(|vm| vm.machine().is_some()).count();
    NodeInfo {
        id: node.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: Some(node.started_at),
        data_dir: node.config.paths.data_dir.display().to_string(),
        api_listen: node.listens_at.get().map(ToString::to_string),
        vms: count(seen.len()),
        running: count(running),
        drained: node.drain.is_on(),
        guests_held: node.holds(),
        // The figures of all VMs are nothing for who sees some.
        resources: (seen.len() == all.len()).then(|| resources(node)),
        foreign_domains: match seen.len() == all.len() {
            true => node.runtimes.foreign_domains().await,
            false => Vec::new(),
        },
    }
}

pub(super) fn resources(node: &Node) -> NodeResources {
    let (total, reserved) = node.vms.room(node);
    let share = |total: u64, reserved| {
        let free = total.saturating_sub(reserved);
        Share { total, reserved, free, used: None }
    };
    NodeResources {
        memory_bytes: share(total.memory.get(), reserved.memory.get()),
        vcpus: share(total.vcpus, reserved.vcpus),
        disk_bytes: share(total.disk.get(), reserved.disk.get()),
        vms: share(total.vms, reserved.vms),
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
