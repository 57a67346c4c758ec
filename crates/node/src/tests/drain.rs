//! A drain that stops VMs, and goes on with it in the agent's next life.

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::TestAgent;

async fn is_drained(agent: &TestAgent) -> bool {
    agent.client.get("/api/node").await.ok()["drained"] == true
}

/// The store's word for it.
async fn mark(agent: &TestAgent) -> String {
    agent.node.store.node_value("drained").await.unwrap().unwrap_or_default()
}

async fn until_mark(agent: &TestAgent, wanted: &str) {
    let changed = async {
        while mark(agent).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("the mark changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_dies_midway_is_gone_on_with() {
    let deaf = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let mut agent = TestAgent::with(&[], deaf).await;
    for name in ["a", "b", "c"] {
        agent.create(name, json!({})).await;
    }
    agent.client.post("/api/node/drain", &json!({ "stopVms": true })).await.ok();
    // The newest one's guest does not go down, and so the others' turn never comes.
    agent.until("c", |vm| vm["phase"] == "stopping").await;
    for name in ["a", "b"] {
        assert_eq!(agent.vm(name).await["desired"], "running", "{name}");
    }
    agent.die().await;
    let agent = agent.live_again(Behaviour::default()).await;
    assert!(is_drained(&agent).await);
    for name in ["a", "b", "c"] {
        let vm = agent.until(name, |vm| vm["phase"] == "stopped").await;
        assert_eq!(
            (&vm["desired"], &vm["lastEnd"]["how"]),
            (&json!("stopped"), &json!("graceful"))
        );
    }
    until_mark(&agent, "true").await;

    // It is over: the next life stops nobody, drained or not.
    let agent = agent.live_again(Behaviour::default()).await;
    assert!(is_drained(&agent).await);
    agent.client.post("/api/node/undrain", &json!({})).await.ok();
    agent.client.post("/api/vms/a/start?wait=60s", &json!({})).await.ok();
    let agent = agent.live_again(Behaviour::default()).await;
    assert_eq!(agent.until("a", |vm| vm["guest"]["link"] == "ready").await["phase"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_waits_for_the_end_of_a_drain_is_stopped_by_it_in_the_next_life_too() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({ "restartPolicy": "always" })).await;
    agent.client.post("/api/node/drain", &json!({})).await.ok();
    let machine = agent.node.vms.find("web").unwrap().machine().unwrap();
    inn_vmm::Machine::kill(&*machine).await.unwrap();
    agent.until("web", |vm| vm.get("waits").is_some()).await;
    agent.die().await;
    // As if the agent had died right after such a request was stored, and its
    // time had passed long since.
    let mark = "until 2000-01-01T00:00:00Z".to_owned();
    agent.node.store.set_node_value("drained", mark).await.unwrap();
    let agent = agent.live_again(Behaviour::default()).await;
    let vm = agent.until("web", |vm| vm["phase"] == "stopped" && vm["desired"] == "stopped").await;
    assert!(vm.get("waits").is_none(), "{vm}");
    until_mark(&agent, "true").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undrain_ends_a_drain_and_another_drain_takes_its_place() {
    let deaf = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[("stop_timeout", "10m")], deaf).await;
    for name in ["first", "last"] {
        agent.create(name, json!({})).await;
    }
    let drain = |more: Value| {
        let client = agent.client.clone();
        async move { client.post("/api/node/drain", &more).await.ok() }
    };
    drain(json!({ "stopVms": true, "timeoutSeconds": 3600 })).await;
    agent.until("last", |vm| vm["phase"] == "stopping").await;
    assert!(mark(&agent).await.starts_with("until "), "{}", mark(&agent).await);
    // One that stops no VMs ends none that does.
    drain(json!({})).await;
    assert!(mark(&agent).await.starts_with("until "), "{}", mark(&agent).await);
    agent.client.post("/api/node/undrain", &json!({})).await.ok();
    assert_eq!(agent.vm("first").await["desired"], "running");
    assert_eq!(mark(&agent).await, "false");

    drain(json!({ "stopVms": true, "timeoutSeconds": 0 })).await;
    for name in ["first", "last"] {
        let vm = agent.until(name, |vm| vm["phase"] == "stopped").await;
        assert_eq!(vm["lastEnd"]["how"], "forced", "{vm}");
    }
    until_mark(&agent, "true").await;
}
