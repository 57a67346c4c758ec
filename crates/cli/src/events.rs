//! `inn events`: what has happened on the node, and what happens.

use std::time::Duration;

use futures_util::StreamExt;
use inn_client::api::{Event, EventGap};
use inn_client::{Client, ClientError, EventsQuery, NodeEvent};
use inn_units::EventSeq;
use tokio::time::Instant;

use crate::args::EventsArgs;
use crate::context::{Context, print};
use crate::failure::{Failure, harmless};
use crate::table::Table;

/// How many are shown where nothing says how many.
const TAIL: u32 = 100;

const PAGE: u32 = 1_000;

/// How long an agent that is replaced may be away, and how often it is tried.
const AWAY: Duration = Duration::from_secs(60);
const TRY: Duration = Duration::from_millis(500);

pub(crate) async fn events(context: &Context, args: &EventsArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let bounded = args.since.is_some() || args.after.is_some();
    let query = EventsQuery {
        after: args.after,
        vm: args.vm.clone(),
        kinds: args.kind.clone(),
        since: args.since,
        tail: args.tail.or((!bounded).then_some(TAIL)),
        limit: None,
    };
    let (events, next) = all(context, &client, query.clone()).await?;
    if !args.follow {
        context.result(&events, || table(&events))?;
        return Ok(0);
    }
    for event in &events {
        show(context, event)?;
    }
    follow(context, &client, EventsQuery { after: Some(next), tail: None, ..query }).await
}

async fn all(
    context: &Context,
    client: &Client,
    mut query: EventsQuery,
) -> Result<(Vec<Event>, EventSeq), Failure> {
    query.limit = Some(PAGE);
    let mut events = Vec::new();
    loop {
        let page = client.events(&query).await?;
        if let Some(gap) = page.gap {
            context.note(&gap_note(gap));
        }
        events.extend(page.items);
        if !page.more {
            return Ok((events, page.next));
        }
        query.after = Some(page.next);
        query.tail = None;
    }
}

/// Until we are ended; over an agent that is replaced, too.
async fn follow(context: &Context, client: &Client, mut query: EventsQuery) -> Result<u8, Failure> {
    let mut away_since: Option<Instant> = None;
    loop {
        let lost = match client.follow_events(&query).await {
            Ok(mut events) => loop {
                match events.next().await {
                    Some(Ok(NodeEvent::Event(event))) => {
                        away_since = None;
                        query.after = Some(event.seq);
                        show(context, &event)?;
                    }
                    Some(Ok(NodeEvent::Gap(gap))) => {
                        query.after = Some(gap.resumed);
                        context.note(&gap_note(gap));
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
            Err(error) => Some(error),
        };
        let away = away_since.get_or_insert_with(Instant::now).elapsed();
        match lost {
            Some(error @ (ClientError::Problem(_) | ClientError::Protocol { .. })) => {
                return Err(error.into());
            }
            Some(error) if away >= AWAY => return Err(error.into()),
            None if away >= AWAY => return Err(Failure::new("the agent tells no more events")),
            _ => {}
        }
        tokio::time::sleep(TRY).await;
    }
}

fn show(context: &Context, event: &Event) -> Result<(), Failure> {
    if !context.json() {
        let [seq, time, kind, vm, what] = cells(event);
        return print(format!("{seq:>6}  {time}  {kind:<14}  {vm:<16}  {what}\n").as_bytes());
    }
    let mut line = serde_json::to_string(event)
        .map_err(|e| Failure::because("cannot write the event as JSON", &e))?;
    line.push('\n');
    print(line.as_bytes())
}

fn table(events: &[Event]) -> String {
    let mut table = Table::new(["SEQ", "TIME", "KIND", "VM", "WHAT"]).right([0]);
    for event in events {
        table.push(cells(event));
    }
    table.render()
}

fn cells(event: &Event) -> [String; 5] {
    let by = event.actor.as_ref().map(|actor| format!(" (by {})", harmless(actor)));
    [
        event.seq.to_string(),
        event.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        event.kind.clone(),
        event.vm.as_ref().map_or_else(|| "-".to_owned(), |vm| vm.name.clone()),
        format!("{}{}", harmless(&event.message), by.unwrap_or_default()),
    ]
}

fn gap_note(gap: EventGap) -> String {
    format!("what came after event {} is gone in part: it goes on after {}", gap.after, gap.resumed)
}
