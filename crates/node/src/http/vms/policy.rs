use axum::extract::{Path, State};
use axum::{Extension, Json};
use inn_api::{Code, Policy, Problem, VmPolicyState};
use inn_domain::network::AttachDeniedReason;

use crate::access::Principal;
use crate::http::extract::Body;
use crate::http::problem::{Failed, find_vm};
use crate::http::{ApiState, convert};
use crate::vm::PolicyError;

/// Changes what a VM may reach, at once where it runs. Not for a token of some
/// VMs: it would bind whoever has it.
#[utoipa::path(put, path = "/api/vms/{vm}/policy", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = Policy, responses(
        (status = 200, description = "kept, and in force", body = VmPolicyState),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "the VM is being deleted", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_policy(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Extension(principal): Extension<Principal>,
    Body(policy): Body<Policy>,
) -> Result<Json<VmPolicyState>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    if principal.is_limited() {
        let who = &principal.who;
        let detail = format!("{who} has some VMs only, and their policies are not its to change");
        return Err(Failed::new(Code::Forbidden, detail));
    }
    let policy = convert::network::policy_in(policy)?;
    vm.change_policy(&state.node, policy).await.map_err(|error| {
        let code = match &error {
            PolicyError::Denied(AttachDeniedReason::BeingDeleted) => Code::Conflict,
            PolicyError::Denied(_) => Code::InvalidRequest,
            PolicyError::Store(_) | PolicyError::NotApplied(_) => return Failed::internal(&error),
        };
        Failed::new(code, format!("VM {}: {error}", vm.spec().name))
    })?;
    Ok(Json(convert::network::policy_state(&state.node, &vm)))
}
