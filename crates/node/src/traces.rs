//! Which trace the work at hand is of, from a request to the guest's answer.
//!
//! ```text
//!   request ─┬─▶ its answer                          within the request's task
//!            ├─▶ exec ─▶ the guest's answer          taken along to the socket's task
//!            ├─▶ operation                           taken along to its task
//!            └─▶ what is desired ─▶ the VM's steps ─▶ launch
//!                 kept with it, until all is as desired
//! ```

use std::io;

use inn_trace::Context;

use crate::error::AgentError;
use crate::node::Node;

tokio::task_local! {
    static CURRENT: Option<Context>;
}

/// Of this task's work, if that is of any.
pub(crate) fn current() -> Option<Context> {
    CURRENT.try_with(|context| *context).ok().flatten()
}

/// Does the work as a part of that.
pub(crate) async fn within<T>(context: Option<Context>, work: impl Future<Output = T>) -> T {
    CURRENT.scope(context, work).await
}

const STEP: &str = "export traces";

/// Sends the node's spans to a collector, where one is named.
#[cfg(feature = "otlp")]
pub(crate) fn export(node: &Node) -> Result<(), AgentError> {
    let failed = |source| AgentError::Start { step: STEP, source };
    let endpoint = node.config.traces_endpoint.as_deref();
    let settings = inn_otlp::Settings::find(endpoint, &|name| std::env::var(name).ok());
    let Some(settings) = settings.map_err(|error| failed(io::Error::other(error)))? else {
        return Ok(());
    };
    let Some(spans) = node.tracer.connect() else { return Ok(()) };
    let settings = inn_otlp::Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.id.clone(),
        ..settings
    };
    tracing::info!(?settings, "traces are exported");
    inn_otlp::export(spans, settings).map(drop).map_err(failed)
}

/// Says that it cannot, where it is asked to by our own configuration. The
/// standard variables may be meant for others.
#[cfg(not(feature = "otlp"))]
pub(crate) fn export(node: &Node) -> Result<(), AgentError> {
    if node.config.traces_endpoint.is_none() {
        return Ok(());
    }
    let why = "traces.endpoint is set, and this inn is built without the feature otlp: build it \
               with `cargo build --workspace --features inn/otlp`, or leave the key out";
    Err(AgentError::Start { step: STEP, source: io::Error::other(why) })
}
