use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use inn_api::{Code, HostNetwork, HostNetworkList, NetworkCreate, NetworkPlan, Problem};
use inn_domain::network::NetworkDeniedReason;
use inn_net::ipam::AddressDeniedReason;
use inn_store::{NetworkRecord, StoreError};
use inn_units::nearest;

use super::ApiState;
use super::convert::network::{host_network, new_network};
use super::extract::{Body, Params};
use super::paging::{PageParams, page_of};
use super::problem::Failed;
use crate::error::Chain;
use crate::network::{LeaseDeniedReason, NetworkError};
use crate::node::Node;

/// The node's networks, oldest first.
#[utoipa::path(get, path = "/api/networks", tag = "networks", params(PageParams),
    responses((status = 200, body = HostNetworkList)))]
pub(super) async fn list_networks(
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<Json<HostNetworkList>, Failed> {
    let node = &state.node;
    let all = node.networks.all();
    let (page, next) = page_of(&params, all, |network| (network.created_at, network.id))?;
    let items = page.iter().map(|record| host_network(node, record)).collect();
    Ok(Json(HostNetworkList { items, next }))
}

/// Makes a network: a bridge that VMs can be on. Without a subnet it gets an
/// IPv4 and an IPv6 one that nothing else here has.
#[utoipa::path(post, path = "/api/networks", tag = "networks", request_body = NetworkCreate, responses(
    (status = 201, body = HostNetwork),
    (status = 400, description = "it makes no sense, or the node makes no bridges", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "the name or the subnet is somebody's", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create_network(
    State(state): State<ApiState>,
    Body(create): Body<NetworkCreate>,
) -> Result<Response, Failed> {
    let node = &state.node;
    let record = node.networks.create(node, new_network(create)?).await?;
    let change = node.networks.poke();
    node.networks.applied(change).await.map_err(|why| not_applied("the network", &why))?;
    Ok((StatusCode::CREATED, Json(host_network(node, &record))).into_response())
}

/// One network.
#[utoipa::path(get, path = "/api/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name or id")), responses(
        (status = 200, body = HostNetwork),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn show_network(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<HostNetwork>, Failed> {
    let record = find_network(&state.node, &name)?;
    Ok(Json(host_network(&state.node, &record)))
}

/// Deletes a network that no VM is on.
#[utoipa::path(delete, path = "/api/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name or id")), responses(
        (status = 200, description = "gone; as it was last", body = HostNetwork),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "VMs are on it", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete_network(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<HostNetwork>, Failed> {
    let node = &state.node;
    let record = find_network(node, &name)?;
    let last = host_network(node, &record);
    node.networks.delete(node, &record).await?;
    Ok(Json(last))
}

/// What the node does to its host's network, as a script for `nft -f`, and the
/// bridges and addresses that it needs as comments before it.
#[utoipa::path(get, path = "/api/node/network-plan", tag = "networks", responses(
    (status = 200, body = NetworkPlan),
    (status = 400, description = "the node makes no bridges", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn network_plan(
    State(state): State<ApiState>,
) -> Result<Json<NetworkPlan>, Failed> {
    let script = state.node.networks.script(&state.node).await?;
    Ok(Json(NetworkPlan { script }))
}

fn find_network(node: &Node, name: &str) -> Result<NetworkRecord, Failed> {
    node.networks.find(name).ok_or_else(|| {
        let all = node.networks.all();
        let hint = match nearest(name, all.iter().map(|network| network.spec.name.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => "`inn network list` shows those there are".to_owned(),
        };
        let shown: String = name.chars().take(80).collect();
        Failed::new(Code::NotFound, format!("there is no network {shown}; {hint}"))
    })
}

/// What is kept and does not hold yet.
pub(super) fn not_applied(what: &str, why: &str) -> Failed {
    Failed::new(
        Code::Internal,
        format!("{what} is kept, and does not hold yet: {why}; it is tried again by itself"),
    )
}

/// Of addresses that a VM does not get.
pub(super) fn lease_code(denied: &LeaseDeniedReason) -> Code {
    match denied {
        LeaseDeniedReason::Taken { .. } => Code::InUse,
        LeaseDeniedReason::Address(AddressDeniedReason::Full { .. }) => Code::InsufficientResources,
        LeaseDeniedReason::Address(_) | LeaseDeniedReason::NoSubnet { .. } => Code::InvalidRequest,
    }
}

impl From<NetworkError> for Failed {
    fn from(error: NetworkError) -> Self {
        use NetworkDeniedReason as Denied;
        let code = match &error {
            NetworkError::Denied(Denied::NameTaken { .. })
            | NetworkError::Store(StoreError::NameTaken) => Code::NameInUse,
            NetworkError::Denied(
                Denied::InUse { .. }
                | Denied::OverlapsNetwork { .. }
                | Denied::OverlapsRoute { .. },
            ) => Code::InUse,
            NetworkError::NoSubnet(_) => Code::InsufficientResources,
            NetworkError::Lease(denied) => lease_code(denied),
            NetworkError::Denied(_) | NetworkError::Attach(_) => Code::InvalidRequest,
            NetworkError::Store(_) | NetworkError::NoRandomness(_) | NetworkError::Host(_) => {
                return Self::internal(&error);
            }
        };
        Self::new(code, Chain(&error).to_string())
    }
}
