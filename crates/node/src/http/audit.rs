//! Who has asked for what change, and how that went: an event for each.
//!
//! The outermost layer, so that refusals are in it. Neither queries nor bodies
//! are, which may hold secrets, nor what nobody asked who may ask anything:
//! those would push out what counts.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use inn_api::Code;
use tokio::time::Instant;

use super::serve::Gate;
use crate::access::Principal;
use crate::events::{Event, EventKind};
use crate::node::Node;
use crate::vm::VmHandle;

/// What is asked by GET, being a WebSocket, and does something.
const ACTING: [&str; 4] = [
    "/api/vms/{vm}/exec",
    "/api/vms/{vm}/console",
    "/api/vms/{vm}/lease",
    "/api/vms/{vm}/execs/{exec}/attach",
];

/// Who it was, once that is known: a client that goes away takes the request,
/// and what hangs on it, along.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<Option<Principal>>>);

pub(super) fn asked_by(request: &mut Request, principal: &Principal) {
    if let Some(Asked(by)) = request.extensions().get() {
        *by.lock().unwrap_or_else(PoisonError::into_inner) = Some(principal.clone());
    }
}

pub(super) async fn record(
    State(gate): State<Gate>,
    path: Option<MatchedPath>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(path) = path.filter(|path| is_write(request.method(), path.as_str())) else {
        return next.run(request).await;
    };
    let asked = Asked::default();
    request.extensions_mut().insert(asked.clone());
    let name = params.as_ref().ok().and_then(|params| params.iter().find(|(key, _)| *key == "vm"));
    let mut entry = Entry {
        // Found before: it may be its deletion that is asked for.
        vm: name.and_then(|(_, name)| gate.node.vms.find(name)),
        node: Arc::clone(&gate.node),
        what: format!("{} {}", request.method(), request.uri().path()),
        method: request.method().clone(),
        route: path,
        from: Instant::now(),
        asked,
        answered: false,
    };
    let response = next.run(request).await;
    entry.answer(&response);
    response
}

fn is_write(method: &Method, route: &str) -> bool {
    // RFC 9110, 9.2.1: those that are safe.
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    !safe || ACTING.contains(&route)
}

/// A request under way. Dropped without an answer it is told, too.
struct Entry {
    node: Arc<Node>,
    vm: Option<VmHandle>,
    what: String,
    method: Method,
    route: MatchedPath,
    from: Instant,
    asked: Asked,
    answered: bool,
}

impl Entry {
    fn answer(&mut self, response: &Response) {
        self.answered = true;
        let by = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let by = by.or_else(|| response.extensions().get().cloned());
        let Some(by) = by.filter(|by: &Principal| by.scope.is_some()) else { return };
        if self.vm.is_none() {
            self.vm = self.made(response);
        }
        let status = response.status().as_u16();
        let code = response.extensions().get::<Code>().map(|code| code.as_str());
        let result = match &code {
            Some(code) => format!("{status} {code}"),
            None => status.to_string(),
        };
        let mut event = self.event(&by, &result).with("status", status);
        if let Some(code) = code {
            event = event.with("code", code);
        }
        self.node.events.tell(event);
    }

    /// The VM that an answer's `Location` names.
    fn made(&self, response: &Response) -> Option<VmHandle> {
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        self.node.vms.find(location.strip_prefix("/api/vms/")?)
    }

    fn event(&self, by: &Principal, result: &str) -> Event {
        let took = u64::try_from(self.from.elapsed().as_millis()).unwrap_or(u64::MAX);
        let event = Event::new(EventKind::ApiWrite, format!("{}: {result}", self.what))
            .by(by.who.to_string())
            .with("method", self.method.as_str())
            .with("route", self.route.as_str())
            .with("tookMs", took);
        match &self.vm {
            Some(vm) => event.of(vm),
            None => event,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let by = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(by) = by.filter(|by| by.scope.is_some()) {
            let result = "the client went away before the answer; it may have been carried out";
            self.node.events.tell(self.event(&by, result));
        }
    }
}
