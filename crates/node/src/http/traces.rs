//! The span of a request, in the trace of whoever asks.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use inn_trace::{Context, Kind};

use crate::node::Node;
use crate::traces;

/// As W3C's Trace Context names it.
const TRACEPARENT: &str = "traceparent";

/// Says also in the answer which trace it is of, so that whoever has a problem
/// can name it.
pub(super) async fn follow(
    State(node): State<Arc<Node>>,
    request: Request,
    next: Next,
) -> Response {
    if !node.tracer.is_on() {
        return next.run(request).await;
    }
    let method = request.method().as_str().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let parent = parent(request.headers());
    // Of paths that are nowhere there are any number: they are no name.
    let name = route.as_ref().map_or_else(|| method.clone(), |route| format!("{method} {route}"));
    let mut span = node.tracer.begin(name, Kind::Server, parent);
    span.set("http.request.method", method);
    if let Some(route) = route {
        span.set("http.route", route);
    }
    let context = span.context();
    let mut response = traces::within(context, next.run(request)).await;
    let status = response.status();
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.to_string());
    }
    let told = context.and_then(|context| HeaderValue::try_from(context.to_string()).ok());
    if let Some(told) = told {
        response.headers_mut().insert(TRACEPARENT, told);
    }
    response
}

/// One that is given twice, or is none, is as good as none.
fn parent(headers: &HeaderMap) -> Option<Context> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let parent = all.next()?.to_str().ok()?.parse().ok()?;
    all.next().is_none().then_some(parent)
}
