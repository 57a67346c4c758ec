//! A VM that takes another one's place: at any instant one of the two is there.

use std::time::Duration;

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::{TestAgent, request};
use super::client::Answer;

/// Machines that take their time to end, so that much can happen meanwhile.
fn lingering() -> Behaviour {
    Behaviour { kill_takes: Duration::from_secs(5), ..Behaviour::default() }
}

/// Asks for a new `web`, and returns once that is promised.
async fn ask(agent: &TestAgent, more: Value) -> tokio::task::JoinHandle<Answer> {
    let mut body = request("web", json!({ "replace": true }));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let client = agent.client.clone();
    let asked = tokio::spawn(async move { client.post("/api/vms?wait=60s", &body).await });
    let mut views = agent.node.vms.find("web").unwrap().watch();
    let promised = views.wait_for(|view| view.replaced_by.is_some());
    tokio::time::timeout(PATIENCE, promised).await.expect("it is promised").unwrap();
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_outlives_the_agent_that_was_asked_for_it() {
    let mut agent = TestAgent::with(&[], lingering()).await;
    let old = agent.create("web", json!({ "labels": { "which": "old" } })).await;
    let asked = ask(&agent, json!({ "labels": { "which": "new" }, "ttlSeconds": 3600 })).await;
    // What it boots from stays, and the name is the old one's yet.
    assert_eq!(agent.vm("web").await["id"], old["id"]);
    let (status, ..) = agent.client.delete("/api/images/base").await.problem();
    assert_eq!(status, 409);
    let why = agent.client.get("/api/vms/web/why").await.ok();
    assert!(why["summary"].as_str().unwrap().starts_with("it gives way to a new VM"), "{why}");
    agent.die().await;
    asked.abort();

    // The old one's record is there yet, and nothing but it is done.
    assert_eq!(agent.node.store.vms().await.unwrap().len(), 1);
    let agent = agent.live_again(Behaviour::default()).await;
    let new = agent.until_other("web", &old).await;
    assert_eq!(new["labels"]["which"], "new", "{new}");
    assert!(new["ttl"]["secondsLeft"].as_u64().unwrap() > 3000, "{new}");
    let files = agent.files_of_vms();
    assert!(files.iter().all(|name| *name == new["id"].as_str().unwrap()), "{files:?}");
    assert_eq!(agent.node.store.successors().await.unwrap(), []);
    let agent = agent.live_again(Behaviour::default()).await;
    assert_eq!(agent.vm("web").await["id"], new["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_withdraws_who_would_have_come() {
    let mut agent = TestAgent::with(&[], lingering()).await;
    agent.create("web", json!({})).await;
    let asked = ask(&agent, json!({})).await;
    agent.client.delete("/api/vms/web?force=true").await.ok();
    assert_eq!(agent.node.store.successors().await.unwrap(), []);
    agent.die().await;
    asked.abort();
    let agent = agent.live_again(Behaviour::default()).await;
    agent.until_gone("web").await;
    assert_eq!(agent.files_of_vms(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asked_is_told_that_it_was_withdrawn() {
    let slow = Behaviour { kill_takes: Duration::from_secs(1), ..Behaviour::default() };
    let agent = TestAgent::with(&[], slow).await;
    agent.create("web", json!({})).await;
    let asked = ask(&agent, json!({})).await;
    agent.client.delete("/api/vms/web?force=true").await.ok();
    let (status, code, detail) = asked.await.unwrap().problem();
    assert_eq!((status, code.as_str()), (409, "conflict"), "{detail}");
    assert!(detail.contains("was deleted before"), "{detail}");
    agent.until_gone("web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_that_are_asked_for_at_once_come_one_after_the_other() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let all = (0..4).map(|n| {
        let client = agent.client.clone();
        let body = request("web", json!({ "replace": true, "labels": { "n": n.to_string() } }));
        tokio::spawn(async move { client.post("/api/vms?wait=60s", &body).await })
    });
    for one in all.collect::<Vec<_>>() {
        let answer = one.await.unwrap();
        // One may find the name reserved by another for an instant.
        assert!(matches!(answer.status, 201 | 202 | 409), "{answer:?}");
    }
    let list = agent.client.get("/api/vms").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    agent.until("web", |vm| vm["phase"] == "running").await;
    assert_eq!(agent.node.store.successors().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_one_has_its_room_from_the_first_write_on_and_a_leased_one_dies_with_the_agent() {
    let flags = [("sim.reserves", "true"), ("admission.cpu_overcommit", "100")];
    let mut agent = TestAgent::with(&flags, lingering()).await;
    let size = 64 << 20;
    agent.create("web", json!({ "memoryBytes": size })).await;
    let asked = ask(&agent, json!({ "memoryBytes": size, "lease": true })).await;
    let reserved = |node: &Value| node["resources"]["memoryBytes"]["reserved"].clone();
    let node = agent.client.get("/api/node").await.ok();
    assert_eq!(reserved(&node), json!(2 * size), "the old one's, and the new one's");
    agent.die().await;
    asked.abort();
    let agent = agent.live_again(Behaviour::default()).await;
    agent.until_gone("web").await;
    let node = agent.client.get("/api/node").await.ok();
    assert_eq!(reserved(&node), json!(0), "{node}");
}
