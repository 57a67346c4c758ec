use axum::Json;
use axum::extract::{Path, State};
use inn_api::{Code, Problem, VmLimitsChange, VmLimitsState};

use crate::http::extract::Body;
use crate::http::problem::{Failed, find_vm};
use crate::http::{ApiState, convert};
use crate::vm::LimitsError;

/// Changes what a VM's machine may use of its host, at once where it runs.
#[utoipa::path(patch, path = "/api/vms/{vm}/limits", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = VmLimitsChange, responses(
        (status = 200, description = "kept; what of it does not hold is in `notApplied`", body = VmLimitsState),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "the VM is being deleted", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_limits(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(change): Body<VmLimitsChange>,
) -> Result<Json<VmLimitsState>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let change = convert::limits::change_in(&change);
    let view = vm.change_limits(&state.node, &change).await.map_err(|error| {
        let code = match &error {
            LimitsError::Denied(inn_domain::LimitsDeniedReason::BeingDeleted) => Code::Conflict,
            LimitsError::Denied(_) => Code::InvalidRequest,
            LimitsError::Store(_) => return Failed::internal(&error),
        };
        Failed::new(code, format!("VM {}: {error}", vm.spec().name))
    })?;
    Ok(Json(convert::limits::limits(&view, state.node.cgroups.layout())))
}
