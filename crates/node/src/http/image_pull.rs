use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use inn_api::{ImagePull, Operation, Problem};
use inn_fail_point::{Point, fail_point};
use inn_registry::Reference;
use inn_units::ParseError;

use super::extract::{Body, Params};
use super::images::{begin, of_arrival};
use super::operations::{EndParams, ended};
use super::problem::Failed;
use super::{ApiState, convert};
use crate::operations::Outcome;
use crate::pull::{PullError, Wanted, name_of, pull as pull_image};

/// Pulls an image for this host's platform from a registry.
#[utoipa::path(post, path = "/api/images/pull", operation_id = "pull_image", tag = "images", params(EndParams),
    request_body = ImagePull, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that pulls it", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn pull(
    State(state): State<ApiState>,
    Params(params): Params<EndParams>,
    Body(asked): Body<ImagePull>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let refuse = |error: ParseError| Failed::invalid(error.to_string());
    let reference: Reference = asked.reference.parse().map_err(refuse)?;
    let name = match asked.name {
        Some(name) => name,
        None => name_of(&reference).map_err(refuse)?,
    };
    let (id, operation) = begin(&state, "image-pull")?;
    let wanted = Wanted { reference, name: name.clone(), plain_http: asked.plain_http };
    let (node, work) = (Arc::clone(&state.node), Arc::clone(&operation));
    let events = Arc::clone(&state.node.events);
    operation.spawn_on(&state.node, async move {
        let (pulled, room) = pull_image(&node, wanted, Arc::clone(&work)).await;
        fail_point(Point::ImportRecorded);
        inn_host::memory::release_freed();
        let outcome = match pulled {
            Ok(record) => Outcome::Succeeded { result: record.manifest.to_string() },
            Err(PullError::Cancelled) => Outcome::Cancelled,
            Err(PullError::Registry(error)) => Outcome::Failed(*Failed::from(error).0),
            Err(PullError::Image(error)) => {
                let mut problem = *Failed::from(error).0;
                if let Some(room) = room {
                    let made = format!(" (removed to make room, in vain: {room})");
                    problem.detail.push_str(&made);
                }
                Outcome::Failed(problem)
            }
        };
        events.tell(of_arrival("pulled", &name, id, &outcome));
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}
