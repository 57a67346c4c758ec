use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use inn_api::{Health, NodeInfo};

use super::ApiState;
use super::auth::sees;

/// Whether the agent is up, and which version it is.
#[utoipa::path(get, path = "/health", tag = "node", responses((status = 200, body = Health)))]
pub(super) async fn health(State(state): State<ApiState>) -> Json<Health> {
    let adopted = state.node.adopted.load(Ordering::Relaxed);
    Json(Health {
        status: if adopted { "ok" } else { "adopting" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What this node is.
#[utoipa::path(get, path = "/api/node", tag = "node", responses((status = 200, body = NodeInfo)))]
pub(super) async fn node(State(state): State<ApiState>) -> Json<NodeInfo> {
    let node = &state.node;
    let vms = node.vms.all().iter().filter(|vm| sees(vm.id())).count();
    Json(NodeInfo {
        id: node.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        data_dir: node.config.paths.data_dir.display().to_string(),
        api_listen: node.listens_at.get().map(ToString::to_string),
        vms: u64::try_from(vms).unwrap_or(u64::MAX),
    })
}
