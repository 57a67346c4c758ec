use hyper::Request;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::{TestAgent, request};
use super::client::send_tcp;
use super::stream::Stream;
use inn_vmm_sim::Behaviour;

/// The events of a page once `wanted` holds of them.
async fn until(agent: &TestAgent, query: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut written = agent.node.events.written();
    let found = async {
        loop {
            written.borrow_and_update();
            let path = format!("/api/events?follow=false&limit=1000{query}");
            let items = agent.client.get(&path).await.ok()["items"].as_array().unwrap().clone();
            if wanted(&items) {
                return items;
            }
            written.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the events come")
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_s_life_is_told_from_its_acceptance_to_its_end() {
    let agent = TestAgent::start().await;
    let vm = agent.create("web", json!({})).await;
    let id = vm["id"].as_str().unwrap();
    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    let events = until(&agent, "&vm=web", |events| {
        !of_kind(events, "vm-deleted").is_empty() && of_kind(events, "api-write").len() == 2
    })
    .await;
    for event in &events {
        assert_eq!(event["vm"], json!({ "id": id, "name": "web" }), "{event}");
    }
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
    assert_eq!(events[0]["kind"], "vm-accepted");
    let phases: Vec<&str> = of_kind(&events, "vm-phase")
        .iter()
        .map(|event| event["detail"]["to"].as_str().unwrap())
        .collect();
    assert!(phases.starts_with(&["preparing", "starting", "running"]), "{phases:?}");
    let running = of_kind(&events, "vm-phase")[2];
    assert!(running["detail"]["bootMs"].is_u64(), "{running}");
    assert_eq!(running["message"], "VM web is running");
    assert_eq!(of_kind(&events, "vm-ended").len(), 1);
    assert_eq!(until(&agent, &format!("&vm={id}"), |_| true).await.len(), events.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_on_record_and_no_read_and_no_secret() {
    let agent = TestAgent::with(&[("api_listen", "127.0.0.1:0")], Behaviour::default()).await;
    agent.create("web", json!({ "env": { "TOKEN": "s3cr3t" } })).await;
    let client = &agent.client;
    client.get("/api/vms/web").await.ok();
    client.post("/api/vms/web/stop?wait=60s&timeout=1s", &json!({})).await.ok();
    let password = json!({ "user": "root", "password": "s3cr3t" });
    client.post("/api/vms/web/guest/password", &password).await.problem();
    client.post("/api/vms", &request("web", json!({}))).await.problem();
    client.delete("/api/vms/none").await.problem();
    let token = std::fs::read_to_string(agent.node.config.paths.token()).unwrap();
    let over_tcp = |path: &str, auth: &str| {
        let request = Request::post(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {auth}"));
        send_tcp(agent.tcp(), request)
    };
    over_tcp("/api/vms/web/start?wait=60s", "not-a-token").await.problem();
    over_tcp("/api/vms/web/start?wait=60s", token.trim()).await.ok();
    drop(client.websocket("/api/vms/web/exec?command=s3cr3t").await);

    let writes = until(&agent, "&kind=api-write", |events| events.len() == 8).await;
    let told: Vec<(&str, &str, Option<u64>, &Value, bool)> = writes
        .iter()
        .map(|event| {
            let detail = &event["detail"];
            let text = |name: &str| detail[name].as_str().unwrap();
            let of_vm = event["vm"]["name"] == "web";
            (text("method"), text("route"), detail["status"].as_u64(), &detail["code"], of_vm)
        })
        .collect();
    let none = &Value::Null;
    let (not_found, in_use, conflict) =
        (json!("not-found"), json!("name-in-use"), json!("conflict"));
    assert_eq!(
        told,
        [
            ("POST", "/api/images/import", Some(202), none, false),
            ("POST", "/api/vms", Some(201), none, true),
            ("POST", "/api/vms/{vm}/stop", Some(200), none, true),
            ("POST", "/api/vms/{vm}/guest/password", Some(409), &conflict, true),
            ("POST", "/api/vms", Some(409), &in_use, false),
            ("DELETE", "/api/vms/{vm}", Some(404), &not_found, false),
            ("POST", "/api/vms/{vm}/start", Some(200), none, true),
            ("GET", "/api/vms/{vm}/exec", Some(101), none, true),
        ]
    );
    let uid = format!("uid {}", rustix::process::geteuid().as_raw());
    assert!(writes[0]["actor"].as_str().unwrap().contains(&uid), "{}", writes[0]);
    assert!(writes[6]["actor"].as_str().unwrap().starts_with("token "), "{}", writes[6]);
    let all = client.get("/api/events?follow=false&limit=1000").await;
    assert!(!String::from_utf8_lossy(&all.body).contains("s3cr3t"));
    assert!(!String::from_utf8_lossy(&all.body).contains(token.trim()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_and_is_resumed_by_id() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false })).await;
    let mut all = Stream::open(&agent, "/api/events?kind=vm-accepted,vm-phase", None).await;
    let first = all.next().await;
    assert_eq!(
        (first.event.as_str(), first.json()["kind"].as_str()),
        ("event", Some("vm-accepted"))
    );
    assert_eq!(first.id, first.json()["seq"].to_string());
    drop(all);

    agent.create("db", json!({ "start": false })).await;
    let path = "/api/events?kind=vm-accepted";
    let mut resumed = Stream::open(&agent, path, Some(&first.id)).await;
    assert_eq!(resumed.next().await.json()["vm"]["name"], "db");
    agent.create("late", json!({ "start": false })).await;
    assert_eq!(resumed.next().await.json()["vm"]["name"], "late");

    let path = "/api/events?kind=vm-accepted&tail=1&vm=db";
    let mut tail = Stream::open(&agent, path, None).await;
    assert_eq!(tail.next().await.json()["vm"]["name"], "db");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_outlive_the_agent_and_what_is_gone_is_a_gap() {
    let mut agent = TestAgent::with(&[("events.keep", "10")], Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let events = until(&agent, "", |events| of_kind(events, "api-write").len() == 2).await;
    let last = events.last().unwrap()["seq"].as_u64().unwrap();
    agent.die().await;
    let agent = agent.live_on().await;
    let again = until(&agent, "", |events| !of_kind(events, "vm-adopted").is_empty()).await;
    assert_eq!(again[..events.len()], events[..]);
    assert!(again[events.len()]["seq"].as_u64().unwrap() > last);

    // The oldest go by some hundreds at a time.
    for n in 0..600 {
        let event = crate::events::Event::new(crate::events::EventKind::VmPhase, format!("{n}"));
        agent.node.events.tell(event);
    }
    until(&agent, "&tail=1", |events| events[0]["message"] == "599").await;
    let page = agent.client.get("/api/events?follow=false&after=1&limit=5").await.ok();
    let resumed = page["gap"]["resumed"].as_u64().unwrap();
    assert_eq!((page["gap"]["after"].as_u64(), page["more"].as_bool()), (Some(1), Some(true)));
    assert_eq!(page["items"][0]["seq"].as_u64(), Some(resumed + 1));
    let mut stream = Stream::open(&agent, "/api/events", Some("1")).await;
    let gap = stream.next().await;
    assert_eq!((gap.event.as_str(), gap.json()), ("gap", page["gap"].clone()));
    assert_eq!(stream.next().await.id, (resumed + 1).to_string());
    // From the oldest that is kept on nothing is missed.
    let page = agent.client.get("/api/events?follow=false").await.ok();
    assert_eq!(page["gap"], Value::Null);
    // Of another log.
    let page = agent.client.get("/api/events?follow=false&after=999999999").await.ok();
    assert_eq!(page["gap"]["resumed"].as_u64(), Some(resumed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_of_events_is_said() {
    let agent = TestAgent::start().await;
    for (query, word) in [
        ("kind=vm-fase", "did you mean vm-phase?"),
        ("limit=0&follow=false", "limit 0"),
        ("limit=1001", "limit 1001"),
        ("since=yesterday", "since"),
        ("after=-1", "after"),
        ("afetr=1", "afetr"),
    ] {
        let (status, code, detail) =
            agent.client.get(&format!("/api/events?{query}")).await.problem();
        assert_eq!((status, code.as_str()), (400, "invalid-request"), "{query}");
        assert!(detail.contains(word), "{query}: {detail}");
    }
    let bad = Request::get("/api/events").header("last-event-id", "x");
    assert!(agent.client.send(bad, "").await.problem().2.contains("Last-Event-ID"));
}

#[test]
fn the_docs_list_the_kinds_of_events() {
    let text = include_str!("../../../../docs/api.md");
    let section = text.split("## Events").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(kind, _)| kind)
        .collect();
    let kinds: Vec<&str> = crate::events::EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(listed, kinds);
}
