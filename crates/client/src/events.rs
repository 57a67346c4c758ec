//! What has happened on the node, and what happens.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use inn_api::{Event, EventGap, EventList};
use inn_units::EventSeq;
use jiff::Timestamp;

use crate::query::Target;
use crate::sse::Messages;
use crate::{Client, ClientError};

/// Which events; all that are kept by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsQuery {
    /// Only what came after this one.
    pub after: Option<EventSeq>,
    /// A VM by its id, or by the name that it has or had.
    pub vm: Option<String>,
    /// Any if empty.
    pub kinds: Vec<String>,
    pub since: Option<Timestamp>,
    /// Only the last so many of those that are there.
    pub tail: Option<u32>,
    /// The most of a page; a stream has no end.
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    Event(Event),
    /// What was asked for is gone in part.
    Gap(EventGap),
}

/// Events as they happen. It ends with the agent, or because it was not read
/// from for too long: with the last one's number as `after` it goes on.
#[derive(Debug)]
pub struct NodeEvents(Messages);

impl Client {
    /// A page of what is there, oldest first.
    pub async fn events(&self, query: &EventsQuery) -> Result<EventList, ClientError> {
        self.get(&query.target().with("follow", false)).await
    }

    /// What is there, and then what comes.
    pub async fn follow_events(&self, query: &EventsQuery) -> Result<NodeEvents, ClientError> {
        let target = query.target().with("follow", true);
        let during = format!("GET {}", target.as_str());
        let bytes = self.stream(&target).await?;
        Ok(NodeEvents(Messages::new(during, bytes)))
    }
}

impl EventsQuery {
    fn target(&self) -> Target {
        let kinds = (!self.kinds.is_empty()).then(|| self.kinds.join(","));
        Target::api(&["events"])
            .with_some("after", self.after)
            .with_some("vm", self.vm.as_ref())
            .with_some("kind", kinds)
            .with_some("since", self.since)
            .with_some("tail", self.tail)
            .with_some("limit", self.limit)
    }
}

impl Stream for NodeEvents {
    type Item = Result<NodeEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let message = match ready!(self.0.poll_message(cx)) {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match message.kind.as_str() {
                "event" => return Poll::Ready(Some(self.0.read(&message).map(NodeEvent::Event))),
                "gap" => return Poll::Ready(Some(self.0.read(&message).map(NodeEvent::Gap))),
                // What a later version tells.
                _ => {}
            }
        }
    }
}
