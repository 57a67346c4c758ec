use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use inn_api::{Problem, Vm};
use inn_domain::{Pause, Request};

use super::ApiState;
use super::extract::Params;
use super::idempotency::Keyed;
use super::problem::Failed;
use super::vms::{WaitParams, change};
use crate::access::Principal;

/// Has a VM stand still: its CPUs stop, its memory stays. Succeeds on one that
/// is paused.
#[utoipa::path(post, path = "/api/vms/{vm}/pause", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), WaitParams), responses(
        (status = 200, description = "settled within `wait`", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it does not run", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn pause(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<WaitParams>,
    asked: (Extension<Principal>, Keyed),
) -> Result<Response, Failed> {
    let (Extension(principal), key) = asked;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // As it is stored.
    let since = Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let pause = Pause { by: principal.who.to_string(), since };
    change((&state.node, key), &name, Request::Pause(pause), params.wait).await
}

/// Lets a paused VM go on, with its clock set. Succeeds on one that runs.
#[utoipa::path(post, path = "/api/vms/{vm}/resume", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), WaitParams), responses(
        (status = 200, description = "settled within `wait`", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it does not run", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn resume(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<WaitParams>,
    key: Keyed,
) -> Result<Response, Failed> {
    change((&state.node, key), &name, Request::Resume, params.wait).await
}
