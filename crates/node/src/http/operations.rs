use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use inn_api::{Code, Operation, Problem};
use inn_units::OperationId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Params, Wait};
use super::problem::Failed;
use super::{ApiState, convert};
use crate::operations::{Operation as Work, OperationView};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchParams {
    /// Answer once the version is past `version`, at the latest after this time.
    #[param(value_type = Option<String>, example = "10s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    wait: Option<Wait>,
    #[serde(default)]
    version: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EndParams {
    /// Answer once the operation has ended, at the latest after this time.
    #[param(value_type = Option<String>, example = "10s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    pub(super) wait: Option<Wait>,
}

/// How an operation goes on.
#[utoipa::path(get, path = "/api/operations/{id}", operation_id = "show_operation", tag = "operations",
    params(("id" = String, Path), WatchParams), responses(
        (status = 200, body = Operation),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Params(params): Params<WatchParams>,
) -> Result<Json<Operation>, Failed> {
    let work = find(&state, &id)?;
    if let Some(Wait(wait)) = params.wait {
        let mut views = work.watch();
        let changed = views.wait_for(|v| v.outcome.is_some() || v.version > params.version);
        // When the time is over, it is shown as it is.
        let _ = tokio::time::timeout(wait, changed).await;
    }
    Ok(Json(convert::operation(work.view())))
}

/// Cancels an operation; it ends soon after. One that has ended stays so.
#[utoipa::path(delete, path = "/api/operations/{id}", tag = "operations",
    params(("id" = String, Path), EndParams), responses(
        (status = 200, body = Operation),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Params(params): Params<EndParams>,
) -> Result<Json<Operation>, Failed> {
    let work = find(&state, &id)?;
    work.cancel();
    Ok(Json(convert::operation(ended(&work, params.wait).await)))
}

/// The operation once it has ended, or as it is when the time is over.
pub(super) async fn ended(work: &Work, wait: Option<Wait>) -> OperationView {
    if let Some(Wait(wait)) = wait {
        let mut views = work.watch();
        let _ = tokio::time::timeout(wait, views.wait_for(|view| view.outcome.is_some())).await;
    }
    work.view()
}

fn find(state: &ApiState, id: &str) -> Result<Arc<Work>, Failed> {
    let parsed: Option<OperationId> = id.parse().ok();
    parsed.and_then(|id| state.node.operations.find(id)).ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        let detail =
            format!("there is no operation {shown}; operations are forgotten when the agent ends");
        Failed::new(Code::NotFound, detail)
    })
}
