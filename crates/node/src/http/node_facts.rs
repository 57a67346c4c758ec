use axum::Json;
use axum::extract::State;
use inn_api::{Examination, NodeFacts, NodeResources};
use jiff::Timestamp;

use super::ApiState;
use super::node_info::resources;
use crate::node::Node;
use crate::sight;

/// What the host of this node is, and what of it VMs may have: total, reserved,
/// used and free.
#[utoipa::path(get, path = "/api/node/resources", tag = "node", responses(
    (status = 200, body = NodeFacts),
))]
pub(super) async fn node_resources(State(state): State<ApiState>) -> Json<NodeFacts> {
    let node = &state.node;
    let host = sight::host(node).await;
    Json(NodeFacts { at: Timestamp::now(), for_vms: Some(for_vms(node).await), host })
}

/// What features need, whether it is there, what follows and what mends it.
#[utoipa::path(get, path = "/api/node/doctor", tag = "node", responses(
    (status = 200, body = Examination),
))]
pub(super) async fn examine_node(State(state): State<ApiState>) -> Json<Examination> {
    Json(sight::examine_node(&state.node).await)
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
