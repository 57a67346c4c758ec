use axum::Json;
use axum::extract::State;
use inn_api::{HostFacts, KvmFacts, NodeFacts, NodeResources};
use inn_facts::Root;
use jiff::Timestamp;

use super::ApiState;
use super::node_info::resources;
use super::problem::Failed;
use crate::node::Node;

/// What the host of this node is, and what of it VMs may have: total, reserved,
/// used and free.
#[utoipa::path(get, path = "/api/node/resources", tag = "node", responses(
    (status = 200, body = NodeFacts),
))]
pub(super) async fn node_resources(
    State(state): State<ApiState>,
) -> Result<Json<NodeFacts>, Failed> {
    let node = &state.node;
    let host = host(node).await?;
    Ok(Json(NodeFacts { at: Timestamp::now(), for_vms: Some(for_vms(node).await), host }))
}

/// The host's facts, with what the node has found out by a boot.
pub(super) async fn host(node: &Node) -> Result<HostFacts, Failed> {
    let read = tokio::task::spawn_blocking(|| inn_facts::collect(&Root::host()));
    let mut host = read.await.map_err(|error| Failed::internal(&error))?;
    if let Some(verdict) = node.kvm.best().await {
        host.kvm = KvmFacts { probed: Some(verdict.usable), reason: verdict.reason, ..host.kvm };
    }
    Ok(host)
}

async fn for_vms(node: &Node) -> NodeResources {
    let mut all = resources(node);
    let live = node.gauge.now(node).await;
    let sum =
        |each: fn(&inn_api::VmUse) -> u64| live.vms.iter().map(each).fold(0, u64::saturating_add);
    all.memory_bytes.used = Some(sum(|vm| vm.resident_bytes));
    all.disk_bytes.used = Some(sum(|vm| vm.disk_bytes));
    let running = node.vms.all().iter().filter(|vm| vm.machine().is_some()).count();
    all.vms.used = u64::try_from(running).ok();
    all
}
