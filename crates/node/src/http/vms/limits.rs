use axum::extract::{Path, State};
use axum::{Extension, Json};
use inn_api::{Code, Problem, VmLimitsChange, VmLimitsState};
use inn_domain::{ResourceLimits, Scope, loosened};
use inn_units::{Bytes, Vcpus};

use crate::access::Principal;
use crate::http::extract::Body;
use crate::http::problem::{Failed, find_vm};
use crate::http::{ApiState, convert};
use crate::vm::LimitsError;

/// Changes what a VM's machine may use of its host, at once where it runs. The
/// scope `operate` makes no limit looser than the node's default, and a token of
/// some VMs none looser than it is.
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
    Extension(principal): Extension<Principal>,
    Body(change): Body<VmLimitsChange>,
) -> Result<Json<VmLimitsState>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let change = convert::limits::change_in(&change);
    let spec = vm.spec();
    let now = vm.view().limits;
    may_limit(&principal, now, now.changed(&change), (spec.memory, spec.vcpus))?;
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

/// Limits bound those who enter VMs, too: `operate` makes no limit looser than
/// the node's default, and a caller that has some VMs only none looser than it
/// is. `now` is what a VM has, or none.
pub(in crate::http) fn may_limit(
    principal: &Principal,
    now: ResourceLimits,
    then: ResourceLimits,
    (memory, vcpus): (Bytes, Vcpus),
) -> Result<(), Failed> {
    if principal.may(Scope::Admin) {
        return Ok(());
    }
    let (most, whose) = match principal.is_limited() {
        true => (now, "it is"),
        false => (ResourceLimits::default(), "the node's default"),
    };
    match loosened(most, then, memory, vcpus) {
        None => Ok(()),
        Some(limit) => Err(Failed::new(
            Code::Forbidden,
            format!(
                "{} has not the scope admin, and may make {limit} no looser than {whose}; ask \
                 somebody who has it",
                principal.who
            ),
        )),
    }
}
