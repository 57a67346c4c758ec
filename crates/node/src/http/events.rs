//! The events, as a page or as a stream that goes on.
//!
//! ```text
//!   store ──a page──▶ feed ──bounded──▶ body ──▶ client
//!     ▲ `written`       └ full for too long: cut off; the client resumes by id
//! ```
//!
//! A stream reads from the store, each at its own pace: what a slow client has
//! not read lies there and not in memory.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use inn_api::{EventGap, EventList, Problem};
use inn_store::{EventQuery, EventWindow, StoreError};
use inn_units::{EventSeq, nearest};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::ApiState;
use super::convert::event::event;
use super::extract::Params;
use super::problem::Failed;
use crate::access::Principal;
use crate::error::Chain;
use crate::events::{EventKind, EventLog, is_gap};

/// Of a page for which no limit is given, and the largest.
const PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1_000;

/// Events that wait for a client to read them, beyond what the kernel holds.
const BUFFERED: usize = 64;

/// How long a client may read nothing at all.
const SLOW: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// Only what came after this one; the oldest that is kept comes first
    /// unless given. `Last-Event-ID` counts before it.
    #[param(value_type = Option<u64>)]
    after: Option<EventSeq>,
    /// Only what is about this VM: its id, or the name that it has or had.
    vm: Option<String>,
    /// Only of these kinds, with commas between them.
    #[param(example = "vm-phase,vm-failed")]
    kind: Option<String>,
    /// Only what has happened since.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-01-31T12:00:00Z")]
    since: Option<Timestamp>,
    /// Only the last so many of those that are there.
    tail: Option<u32>,
    /// Go on with what comes, as server-sent events; or, with false, a page of
    /// what is there, as JSON.
    #[serde(default = "yes")]
    #[param(default = true)]
    follow: bool,
    /// The most of a page: 1 to 1000, 100 unless given. Streams have no end.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

fn yes() -> bool {
    true
}

/// What has happened on the node, oldest first: what is kept, and then what
/// comes. In a stream each event is an `event` with its number as `id`, by
/// which a client that broke off resumes; where some were gone by then, a
/// `gap` (an `EventGap`) stands in their place. Callers who are limited to
/// some VMs see the events of those.
#[utoipa::path(get, path = "/api/events", tag = "events",
    params(EventParams, ("last-event-id" = Option<u64>, Header, description = "As `after`; what an EventSource sends by itself")),
    responses(
        (status = 200, description = "the events", content(
            (EventList = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn events(
    State(state): State<ApiState>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Params(params): Params<EventParams>,
) -> Result<Response, Failed> {
    let log = &state.node.events;
    let after = last_event_id(&headers)?.or(params.after);
    let mut query = EventQuery {
        after: after.unwrap_or_default(),
        since: params.since,
        vm: params.vm,
        only_vms: principal.vms.as_ref().map(|vms| vms.iter().copied().collect()),
        kinds: params.kind.as_deref().map(kinds).transpose()?.unwrap_or_default(),
    };
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Failed::invalid(format!("limit {limit} is not between 1 and {LARGEST_PAGE}")));
    }
    // Whoever asks for all that is kept misses nothing.
    let mut known = after.is_some();
    if let Some(count) = params.tail {
        query.after = log.tail(query.clone(), count).await.map_err(|e| Failed::internal(&e))?;
        known = false;
    }
    if !params.follow {
        return page(log, query, limit, known).await.map(IntoResponse::into_response);
    }
    let (to, mut from) = mpsc::channel(BUFFERED);
    let feed = Feed { query, known, to, closing: state.node.closing.clone() };
    let log = std::sync::Arc::clone(log);
    state.node.tasks.spawn(async move { feed.run(&log).await });
    let frames = stream::poll_fn(move |cx| from.poll_recv(cx));
    Ok(Sse::new(frames).keep_alive(KeepAlive::default()).into_response())
}

async fn page(
    log: &EventLog,
    mut query: EventQuery,
    limit: u32,
    known: bool,
) -> Result<Json<EventList>, Failed> {
    let read = |query: EventQuery| async {
        log.page(query, limit).await.map_err(|error| Failed::internal(&error))
    };
    let mut page = read(query.clone()).await?;
    let gap = gap(&query, page.window, known);
    if let Some(gap) = gap {
        query.after = gap.resumed;
        page = read(query).await?;
    }
    let items = page.events.into_iter().map(event).collect();
    let more = page.scanned_to < page.window.last;
    Ok(Json(EventList { items, next: page.scanned_to, more, gap }))
}

/// What whoever has seen all until `after` has missed.
fn gap(query: &EventQuery, window: EventWindow, known: bool) -> Option<EventGap> {
    (known && is_gap(query.after, window)).then(|| EventGap {
        after: query.after,
        resumed: window.first.map_or(window.last, |first| EventSeq(first.0.saturating_sub(1))),
    })
}

fn kinds(text: &str) -> Result<Vec<String>, Failed> {
    let names = || EventKind::ALL.iter().map(|kind| kind.as_str());
    let known = |name: &str| {
        if names().any(|known| known == name) {
            return Ok(name.to_owned());
        }
        let shown: String = name.chars().take(80).collect();
        let hint = match nearest(name, names()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
        };
        Err(Failed::invalid(format!("there is no kind of event `{shown}`; {hint}")))
    };
    text.split(',').map(known).collect()
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<EventSeq>, Failed> {
    // An EventSource without one sends none (HTML, "Server-sent events").
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| Failed::invalid("Last-Event-ID is not an event's number"))?;
    Ok(Some(EventSeq(number)))
}

type FrameResult = Result<Frame, axum::Error>;

/// Brings one client its events.
struct Feed {
    query: EventQuery,
    /// Whether the client has seen what came before.
    known: bool,
    to: mpsc::Sender<FrameResult>,
    closing: CancellationToken,
}

/// The client is to come again.
struct CutOff;

impl Feed {
    async fn run(mut self, log: &EventLog) {
        let mut written = log.written();
        loop {
            // Before the page is read: what comes meanwhile is seen after it.
            written.borrow_and_update();
            let Ok(caught_up) = self.page(log).await else { return };
            if !caught_up {
                continue;
            }
            let changed = tokio::select! {
                // Only looks at a value.
                changed = written.changed() => changed.is_ok(),
                // Both only wait.
                () = self.to.closed() => false,
                () = self.closing.cancelled() => false,
            };
            if !changed {
                return;
            }
        }
    }

    /// Whether that were all there are.
    async fn page(&mut self, log: &EventLog) -> Result<bool, CutOff> {
        let page = match log.page(self.query.clone(), PAGE).await {
            Ok(page) => page,
            Err(error) => return self.problem(&error).await,
        };
        if let Some(gap) = gap(&self.query, page.window, self.known) {
            self.query.after = gap.resumed;
            let id = gap.resumed.to_string();
            self.send(Frame::default().event("gap").id(id).json_data(gap)).await?;
            return Ok(false);
        }
        self.known = true;
        for (seq, record) in page.events {
            let frame = Frame::default().event("event").id(seq.to_string());
            self.send(frame.json_data(event((seq, record)))).await?;
        }
        self.query.after = page.scanned_to;
        Ok(page.scanned_to >= page.window.last)
    }

    async fn problem(&mut self, error: &StoreError) -> Result<bool, CutOff> {
        tracing::error!(error = %Chain(error), "events cannot be read");
        let problem = Failed::internal(error).0;
        self.send(Frame::default().event("problem").json_data(&*problem)).await?;
        Err(CutOff)
    }

    async fn send(&self, frame: FrameResult) -> Result<(), CutOff> {
        tokio::select! {
            // A frame that is not sent is read again by whoever resumes.
            sent = self.to.send_timeout(frame, SLOW) => sent.map_err(|error| {
                if matches!(error, mpsc::error::SendTimeoutError::Timeout(_)) {
                    tracing::info!("a reader of events is too slow, and cut off");
                }
                CutOff
            }),
            // The same.
            () = self.closing.cancelled() => Err(CutOff),
        }
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
