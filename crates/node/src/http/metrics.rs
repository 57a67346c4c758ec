use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::ApiState;
use super::problem::Failed;
use crate::metrics::{Form, collect};
use crate::node::Node;

/// What the agent and its VMs are at, for Prometheus: in the text format, or in
/// OpenMetrics where that is accepted.
#[utoipa::path(get, path = "/metrics", tag = "node", responses(
    (status = 200, description = "metrics", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    )),
))]
pub(super) async fn metrics(
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = Form::accepted(accept.unwrap_or_default());
    let node = Arc::clone(&state.node);
    let collected = tokio::task::spawn_blocking(move || collect(&node, form)).await;
    let text = collected.map_err(|error| Failed::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, form.content_type())], text).into_response())
}

/// Counts what is answered, by the route as it is declared.
pub(super) async fn count(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    // Anything may be asked for that is nowhere.
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let method = if KNOWN.contains(&method.as_str()) { method.as_str() } else { "other" };
    let status = response.status().as_u16();
    node.metrics.answered(method, route, status, begun.elapsed());
    response
}

const KNOWN: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
