//! Spans of work, and how one leads to the next.
//!
//! ```text
//!   Tracer::begin(name, parent) ─▶ Span ──dropped──▶ queue ──▶ whoever exports
//!                                   └─▶ Context: the parent of what follows,
//!                                       and `traceparent` on the wire
//! ```
//!
//! A [`Tracer`] that nobody has [connected](Tracer::connect) begins spans that
//! have no context and cost nothing. A full queue loses spans, and never holds
//! up the work that they are about.

mod context;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

pub use context::{Context, SpanId, TraceId};

/// Spans that wait to be exported: some seconds of a busy node.
const QUEUE: usize = 4096;

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub context: Context,
    pub parent: Option<SpanId>,
    pub name: String,
    pub kind: Kind,
    pub began: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Who is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This process, for itself.
    Internal,
    /// This process, for a request.
    Server,
    /// Another one, at our request.
    Client,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}

/// Begins spans. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: OnceLock<SyncSender<Ended>>,
    lost: AtomicU64,
}

/// Ends when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    tracer: Tracer,
    since: Instant,
    span: Ended,
}

impl Tracer {
    /// From here on spans come out here. `None` the second time.
    pub fn connect(&self) -> Option<Receiver<Ended>> {
        let (queue, spans) = sync_channel(QUEUE);
        self.0.queue.set(queue).ok().map(|()| spans)
    }

    pub fn is_on(&self) -> bool {
        self.0.queue.get().is_some()
    }

    /// How many found no room.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Without a parent it begins a trace of its own. Where the parent's is not
    /// recorded, as who began it has decided, neither is what follows.
    pub fn begin(&self, name: impl Into<String>, kind: Kind, parent: Option<Context>) -> Span {
        if !self.is_on() {
            return Span(None);
        }
        // Without randomness there is nothing to tell it by.
        let Some(context) = Context::following(parent) else { return Span(None) };
        let began = SystemTime::now();
        let span = Ended {
            context,
            parent: parent.map(|parent| parent.span),
            name: name.into(),
            kind,
            began,
            ended: began,
            attributes: Vec::new(),
            failure: None,
        };
        Span(Some(Box::new(Open { tracer: self.clone(), since: Instant::now(), span })))
    }
}

impl Span {
    /// One that is not recorded, and that nothing follows.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn context(&self) -> Option<Context> {
        self.0.as_ref().map(|open| open.span.context)
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((name, value.into()));
        }
    }

    pub fn fail(&mut self, why: impl Into<String>) {
        if let Some(open) = &mut self.0 {
            open.span.failure = Some(why.into());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open { tracer, since, mut span } = *open;
        if !span.context.sampled {
            return;
        }
        // A clock that jumps makes no span longer.
        span.ended = span.began + since.elapsed();
        let sent = tracer.0.queue.get().is_some_and(|queue| queue.try_send(span).is_ok());
        if !sent {
            tracer.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_lead_to_one_another() {
        let tracer = Tracer::default();
        assert_eq!(tracer.begin("early", Kind::Internal, None).context(), None);
        let spans = tracer.connect().unwrap();
        assert!(tracer.connect().is_none(), "somebody has them already");
        let mut request = tracer.begin("request", Kind::Server, None);
        request.set("http.response.status_code", 500);
        request.fail("it broke");
        let step = tracer.clone().begin("step", Kind::Internal, request.context());
        drop((step, request));
        let (step, request) = (spans.recv().unwrap(), spans.recv().unwrap());
        assert_eq!((&step.name[..], &request.name[..]), ("step", "request"));
        assert_eq!(step.context.trace, request.context.trace);
        assert_eq!((step.parent, request.parent), (Some(request.context.span), None));
        assert_ne!(step.context.span, request.context.span);
        assert!(request.ended >= step.ended && request.began <= step.began);
        assert_eq!(request.attributes, [("http.response.status_code", Value::Number(500))]);
        assert_eq!(request.failure.as_deref(), Some("it broke"));
    }

    #[test]
    fn what_its_beginner_does_not_record_is_not_recorded() {
        let tracer = Tracer::default();
        let spans = tracer.connect().unwrap();
        let parent: Context =
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().unwrap();
        let span = tracer.begin("request", Kind::Server, Some(parent));
        let context = span.context().unwrap();
        assert_eq!((context.trace, context.sampled), (parent.trace, false));
        drop(span);
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn a_full_queue_holds_nobody_up() {
        let tracer = Tracer::default();
        let spans = tracer.connect().unwrap();
        for _ in 0..QUEUE + 3 {
            let _ended = tracer.begin("work", Kind::Internal, None);
        }
        assert_eq!((spans.try_iter().count(), tracer.lost()), (QUEUE, 3));
    }
}
