use axum::Json;
use axum::extract::{Path, State};
use inn_api::{Code, IdleSet, Problem, Vm};

use crate::http::extract::Body;
use crate::http::problem::{Failed, find_vm, of_request};
use crate::http::{ApiState, convert};
use crate::vm::SetIdleError;

/// Says what becomes of a VM when nobody uses it, from now on.
#[utoipa::path(put, path = "/api/vms/{vm}/idle", tag = "vms", request_body = IdleSet,
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = Vm),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it is being deleted", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_idle(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(set): Body<IdleSet>,
) -> Result<Json<Vm>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let on_idle = convert::on_idle(set.on_idle);
    let view = vm.set_on_idle(&state.node, on_idle).await.map_err(|error| match error {
        SetIdleError::Denied(why) => Failed::new(Code::InvalidRequest, format!("VM {name}: {why}")),
        SetIdleError::Request(error) => of_request(&vm, &error),
    })?;
    Ok(Json(convert::vm(&state.node, &vm, &view)))
}
