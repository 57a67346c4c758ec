//! What is written down of those who ask, and of a configuration that is read
//! again.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use inn_host::init_system::InitSystem;
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::PATIENCE;
use super::access::{Caller, OVER_TCP};
use super::agent::{TestAgent, request};

/// The events of that kind, once there are as many.
async fn events(agent: &TestAgent, kind: &str, count: usize) -> Vec<Value> {
    let path = format!("/api/events?follow=false&limit=1000&kind={kind}");
    let there = async {
        loop {
            let page = agent.client.get(&path).await.ok();
            let items = page["items"].as_array().unwrap().clone();
            if items.len() >= count {
                return items;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("they are told")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_before_the_answer_is_written_down() {
    // A guest that never greets: its start is waited for.
    let behaviour = Behaviour { answers_after: None, ..Behaviour::default() };
    let agent = TestAgent::with(OVER_TCP, behaviour).await;
    let caller = Caller::new(&agent, json!({ "scope": "operate", "name": "brief" })).await;
    let body = request("web", json!({})).to_string();
    let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
    let head = format!(
        "POST /api/vms?wait=600s HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        caller.token,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let accepted = async {
        while agent.node.vms.find("web").is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
    drop(stream);
    // The first is the token's.
    let all = events(&agent, "api-write", 3).await;
    let cut = all.iter().find(|event| event["message"].to_string().contains("went away"));
    let cut = cut.unwrap_or_else(|| panic!("{all:?}"));
    assert!(cut["actor"].as_str().unwrap().starts_with("token brief ("), "{cut}");
    assert!(cut["message"].as_str().unwrap().starts_with("POST /api/vms: "), "{cut}");
    assert!(cut["detail"].get("status").is_none(), "there was no answer: {cut}");
    assert!(agent.node.vms.find("web").is_some(), "it was carried out");
    agent.client.delete("/api/vms/web?force=true&wait=60s").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_and_revoked_in_sight() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    let admin = Caller::new(&agent, json!({ "scope": "admin", "name": "boss" })).await;
    let new = json!({ "scope": "read", "name": "laptop" });
    let made = admin.ask("POST", "/api/tokens", Some(&new)).await.ok();
    let secret = made["token"].as_str().unwrap();
    admin.ask("DELETE", "/api/tokens/laptop", None).await.ok();
    let created = events(&agent, "token-created", 2).await;
    let revoked = events(&agent, "token-revoked", 1).await;
    let id = &made["info"]["id"];
    for (event, word) in [(&created[1], "was made"), (&revoked[0], "was revoked")] {
        assert_eq!((&event["detail"]["token"], &event["detail"]["id"]), (&json!("laptop"), id));
        assert!(event["message"].as_str().unwrap().contains(word), "{event}");
    }
    let writes = events(&agent, "api-write", 4).await;
    let by_boss = writes.iter().filter(|event| event["actor"].to_string().contains("boss"));
    let of = |event: &Value| event["detail"]["method"].clone();
    assert_eq!(by_boss.map(of).collect::<Vec<_>>(), ["POST", "DELETE"]);
    let all = agent.client.get("/api/events?follow=false&limit=1000").await;
    assert!(!String::from_utf8_lossy(&all.body).contains(secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_is_an_event_and_the_init_system_hears_of_it() {
    let agent = TestAgent::start().await;
    let path = agent.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let init = Arc::new(InitSystem::at(&path).unwrap());
    agent.node.init_system.set(init).unwrap();
    let mut last = 0;
    let mut hears = |end: &str| {
        let mut buffer = [0; 1024];
        let n = socket.recv(&mut buffer).unwrap();
        let begun = std::str::from_utf8(&buffer[..n]).unwrap().to_owned();
        let micros = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&begun);
        let micros: u64 = micros.lines().next().unwrap().parse().unwrap();
        assert!(micros > last, "{begun}");
        last = micros;
        let n = socket.recv(&mut buffer).unwrap();
        let ended = std::str::from_utf8(&buffer[..n]).unwrap();
        assert!(ended.starts_with("READY=1\nSTATUS=") && ended.contains(end), "{ended}");
    };
    let file = agent.dir.path().join("agent.toml");
    std::fs::write(&file, "stop_timeout = \"7s\"\nevents.keep = 77777\n").unwrap();
    agent.client.post("/api/node/reload", &json!({})).await.ok();
    hears("after a restart also with new events.keep");
    let event = &events(&agent, "config-reloaded", 1).await[0];
    let detail = json!({ "changed": ["stop_timeout"], "waiting": ["events.keep"] });
    assert_eq!(event["detail"], detail, "{event}");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("stop_timeout changed"), "{message}");
    assert!(message.contains("events.keep after a restart"), "{message}");

    std::fs::write(&file, "stop_timout = 1\n").unwrap();
    // As SIGHUP does it.
    agent.reload().await.unwrap_err();
    hears("stop_timout");
    let refused = agent.client.post("/api/node/reload", &json!({})).await.problem();
    hears("the configuration stays as it was");
    assert!(refused.0 == 400 && refused.2.contains("stop_timeout"), "{refused:?}");
    let all = events(&agent, "config-refused", 2).await;
    assert!(all[0]["message"].as_str().unwrap().contains("stop_timout"), "{all:?}");
    assert_eq!(agent.node.config.live().stop_timeout, Duration::from_secs(7), "as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_operate_lifts_no_limit_beyond_the_default() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    agent.create("web", json!({ "limits": { "cpuQuotaPercent": 50 } })).await;
    let operator = Caller::new(&agent, json!({ "scope": "operate" })).await;
    let of_one = Caller::new(&agent, json!({ "scope": "operate", "vms": ["web"] })).await;
    let admin = Caller::new(&agent, json!({ "scope": "admin" })).await;
    let path = "/api/vms/web/limits";
    let patch =
        async |caller: &Caller, change: Value| caller.ask("PATCH", path, Some(&change)).await;
    let tighter = json!({ "cpuQuotaPercent": 40, "pids": 100 });
    patch(&of_one, tighter).await.ok();
    for (looser, name) in [
        (json!({ "cpuQuotaPercent": 41 }), "cpuQuotaPercent"),
        (json!({ "cpuQuotaPercent": null }), "cpuQuotaPercent"),
        (json!({ "pids": null }), "pids"),
        (json!({ "cpuWeight": 101 }), "cpuWeight"),
    ] {
        let (status, code, detail) = patch(&of_one, looser).await.problem();
        assert_eq!((status, code.as_str()), (403, "forbidden"), "{detail}");
        assert!(detail.contains(name) && detail.contains("admin"), "{detail}");
    }
    patch(&operator, json!({ "cpuQuotaPercent": null, "pids": null })).await.ok();
    let beyond = [json!({ "pids": 100_000 }), json!({ "memoryBytes": 64u64 << 30 })];
    for looser in &beyond {
        assert_eq!(patch(&operator, looser.clone()).await.problem().0, 403, "{looser}");
        let create = request("other", json!({ "start": false, "limits": looser }));
        let refused = operator.ask("POST", "/api/vms", Some(&create)).await;
        assert_eq!(refused.problem().0, 403, "{looser}");
    }
    patch(&admin, json!({ "pids": 100_000, "cpuWeight": 500 })).await.ok();
    let create = request("other", json!({ "start": false, "limits": { "pids": 100 } }));
    assert_eq!(operator.ask("POST", "/api/vms", Some(&create)).await.status, 202);
}
