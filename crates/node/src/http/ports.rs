use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use inn_api::{Code, PortMap, PortMapList, PortMapsCreate, PortsRestored, Problem};
use inn_domain::network::MapTarget;
use inn_units::PortMapId;

use super::ApiState;
use super::auth::sees;
use super::convert::network::{new_port_map, port_map};
use super::extract::{Body, Params};
use super::networks::not_applied;
use super::paging::{PageParams, Paging};
use super::problem::{Failed, find_vm};
use crate::error::Chain;
use crate::network::PortsError;

/// The node's port maps, oldest first.
#[utoipa::path(get, path = "/api/ports", tag = "ports", params(PageParams), responses(
    (status = 200, body = PortMapList),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_ports(
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<Json<PortMapList>, Failed> {
    let node = &state.node;
    let paging = Paging::new(params.limit)?;
    let mut maps = node.networks.maps();
    maps.retain(|map| match map.target {
        MapTarget::Vm(id) => sees(id),
        MapTarget::Address(_) => true,
    });
    if let Some(after) = &params.after {
        // What is gone meanwhile has no place: then the list begins anew.
        let after =
            after.parse::<PortMapId>().map_err(|error| Failed::invalid(error.to_string()))?;
        if let Some(place) = maps.iter().position(|map| map.id == after) {
            maps.drain(..=place);
        }
    }
    let (page, next) = paging.page(maps, |map| map.id.to_string());
    let items = page.iter().map(|map| port_map(node, map)).collect();
    Ok(Json(PortMapList { items, next }))
}

/// Maps ports of the node to VMs or addresses: one, or a list of which all are
/// made or none. A map to a VM follows it over restarts and goes with it.
#[utoipa::path(post, path = "/api/ports", tag = "ports", request_body = PortMapsCreate, responses(
    (status = 201, description = "made, and in force", body = PortMapList),
    (status = 400, description = "it makes no sense, or the node maps no ports", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "no such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "a port is somebody's: the detail says whose", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create_ports(
    State(state): State<ApiState>,
    Body(create): Body<PortMapsCreate>,
) -> Result<Response, Failed> {
    let node = &state.node;
    let new = create
        .into_vec()
        .into_iter()
        .map(|map| new_port_map(map, false, |vm| find_vm(&node.vms, vm).map(|vm| vm.id())))
        .collect::<Result<Vec<_>, _>>()?;
    let (maps, change) = node.networks.add_ports(node, new).await?;
    let applied = node.networks.applied(change).await;
    applied.map_err(|why| not_applied("what was asked for", &why))?;
    // Without bridges each says for itself whether it holds.
    let items = maps.iter().map(|map| port_map(node, map)).collect();
    Ok((StatusCode::CREATED, Json(PortMapList { items, next: None })).into_response())
}

/// Unmaps a port.
#[utoipa::path(delete, path = "/api/ports/{port}", tag = "ports",
    params(("port" = String, Path, description = "The map's id")), responses(
        (status = 200, description = "gone; as it was last", body = PortMap),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete_port(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<PortMap>, Failed> {
    let node = &state.node;
    let maps = node.networks.maps();
    let Some(map) = maps.iter().find(|map| map.id.to_string() == id) else {
        let shown: String = id.chars().take(80).collect();
        return Err(Failed::new(
            Code::NotFound,
            format!("there is no port map {shown}; `inn port list` shows those there are"),
        ));
    };
    let last = port_map(node, map);
    node.networks.delete_ports(node, &[map.id]).await?;
    Ok(Json(last))
}

/// Compares what the kernel has with what is declared, and mends it: for after
/// a firewall's reload. The agent notices most such things by itself.
#[utoipa::path(post, path = "/api/ports/restore", tag = "ports", responses(
    (status = 200, body = PortsRestored),
    (status = 500, description = "the kernel does not take it", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn restore_ports(
    State(state): State<ApiState>,
) -> Result<Json<PortsRestored>, Failed> {
    let networks = &state.node.networks;
    networks.look_closely();
    let change = networks.poke();
    networks.applied(change).await.map_err(|why| not_applied("what is declared", &why))?;
    let in_force = |map: &inn_domain::network::PortMap| networks.unforwarded(map.id).is_none();
    let ports = networks.maps().iter().filter(|map| in_force(map)).count();
    let (mended, blocked) = (networks.mended_by(change), networks.blocked());
    Ok(Json(PortsRestored { ports, mended, blocked }))
}

impl From<PortsError> for Failed {
    fn from(error: PortsError) -> Self {
        let code = match &error {
            PortsError::Taken(_) => Code::InUse,
            PortsError::Denied(_) | PortsError::Attach(_) => Code::InvalidRequest,
            PortsError::Store(_) | PortsError::NoRandomness(_) => return Self::internal(&error),
        };
        Self::new(code, Chain(&error).to_string())
    }
}
