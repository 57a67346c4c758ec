//! `inn events` against a scripted agent.

use axum::Router;
use axum::extract::RawQuery;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, http::header};
use serde_json::{Value, json};

use crate::agent::{Agent, Seen};

fn event(seq: u64) -> Value {
    json!({
        "seq": seq, "at": "2026-01-31T12:00:00Z", "kind": "vm-phase",
        "vm": { "id": "0101010101", "name": "web" }, "message": "VM web is running\u{1b}[2J",
        "detail": { "to": "running" },
    })
}

/// Three events in pages of two; a stream of one, which then breaks off.
fn routes(seen: Seen) -> Router {
    let events = move |RawQuery(query): RawQuery| {
        let seen = seen.clone();
        async move { answer(&seen, &query.unwrap_or_default()) }
    };
    Router::new().route("/api/events", get(events))
}

fn answer(seen: &Seen, query: &str) -> Response {
    seen.add(query);
    if query.contains("follow=true") {
        let (seq, gap) = if query.contains("after=4") {
            (9, "event: gap\ndata: {\"after\":4,\"resumed\":8}\n\n")
        } else {
            (4, "")
        };
        let text = format!(": hello\n\n{gap}id: {seq}\nevent: event\ndata: {}\n\n", event(seq));
        return ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response();
    }
    let page = if query.contains("after=2") {
        json!({ "items": [event(3)], "next": 3, "more": false })
    } else {
        json!({ "items": [event(1), event(2)], "next": 2, "more": true })
    };
    Json(page).into_response()
}

#[tokio::test]
async fn events_are_a_table_or_an_array_of_all_pages() {
    let seen = Seen::default();
    let agent = Agent::start(routes(seen.clone()));
    let table = agent.output(&["events", "--vm", "web", "--kind", "vm-phase,vm-failed"]).await;
    assert_eq!(table.code, Some(0), "{table:?}");
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[1], "  1  2026-01-31T12:00:00Z  vm-phase  web  VM web is running[2J");
    assert!(seen.has("vm=web&kind=vm-phase%2Cvm-failed&tail=100&limit=1000&follow=false"));
    let all = agent.output(&["events", "--since", "10m", "-o", "json"]).await;
    let json: Vec<Value> = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(json.len(), 3);
    let wrong = agent.output(&["events", "--since", "noon"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("2026-01-31T12:00:00Z"), "{}", wrong.stderr);
}

#[tokio::test]
async fn a_followed_stream_goes_on_where_it_broke_off() {
    let seen = Seen::default();
    let agent = Agent::start(routes(seen.clone()));
    let mut child = agent.inn(&["events", "--follow", "-o", "json"]).spawn().unwrap();
    for next in ["after=3", "after=4", "after=9"] {
        seen.until(&format!("{next}&follow=true")).await;
    }
    child.kill().await.unwrap();
    assert_eq!(seen.lines()[0], "tail=100&limit=1000&follow=false");
}
