use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;

const SHUTDOWN: &str = "/api/node/guests/shutdown?timeout=60s";

async fn three() -> TestAgent {
    let agent = TestAgent::start().await;
    agent.create("database", json!({ "labels": { "stop-order": "2" } })).await;
    agent.create("web", json!({ "labels": { "stop-order": "1" } })).await;
    agent.create("idle", json!({})).await;
    agent.client.post("/api/vms/idle/stop?wait=60s", &Value::Null).await.ok();
    agent
}

fn names(items: &Value) -> Vec<&str> {
    items.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_go_down_in_order_and_what_is_desired_stays() {
    let mut agent = three().await;
    let down = agent.client.post(SHUTDOWN, &Value::Null).await.ok();
    assert_eq!(names(&down["items"]), ["idle", "web", "database"], "{down}");
    for (guest, ran) in [(0, false), (1, true), (2, true)] {
        assert_eq!(down["items"][guest]["ran"], ran, "{down}");
        assert_eq!(down["items"][guest]["down"], true, "{down}");
    }
    assert_eq!(down["items"][1]["how"], "graceful");
    let ended = |vm: &Value| vm["lastEnd"]["at"].as_str().unwrap().to_owned();
    let (web, database) = (agent.vm("web").await, agent.vm("database").await);
    assert!(ended(&web) <= ended(&database), "{web} {database}");
    assert_eq!((&web["phase"], &web["desired"]), (&json!("stopped"), &json!("running")), "{web}");
    assert_eq!(agent.client.get("/api/node").await.ok()["guestsHeld"], true);

    // Not even by a request, nor by the agent's next life in this boot.
    let (status, code, why) = agent.client.post("/api/vms/web/start", &Value::Null).await.problem();
    assert_eq!((status, code.as_str()), (409, "conflict"));
    assert!(why.contains("start-guests"), "{why}");
    let why = agent.client.get("/api/vms/web/why").await.ok();
    assert_eq!(why["verdict"], "waiting", "{why}");
    assert_eq!(why["next"]["command"], "inn node start-guests", "{why}");
    agent.die().await;
    let agent = agent.live_again(Behaviour::default()).await;
    assert_eq!(agent.client.get("/api/node").await.ok()["guestsHeld"], true);
    assert_eq!(agent.vm("web").await["phase"], "stopped");

    let started = agent.client.post("/api/node/guests/start", &Value::Null).await.ok();
    assert_eq!(started["items"], json!(["database", "web"]));
    for name in ["web", "database"] {
        agent.until(name, |vm| vm["phase"] == "running").await;
    }
    assert_eq!(agent.vm("idle").await["phase"], "stopped", "its user stopped it");
    let again = agent.client.post("/api/node/guests/start", &Value::Null).await.ok();
    assert_eq!(again["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_start_again_with_the_host_s_next_boot() {
    let mut agent = three().await;
    agent.client.post(SHUTDOWN, &Value::Null).await.ok();
    let another_boot = "00000000-0000-0000-0000-000000000000".to_owned();
    agent.node.store.set_node_value("guests-held", another_boot).await.unwrap();
    agent.die().await;
    let agent = agent.live_again(Behaviour::default()).await;
    assert_eq!(agent.client.get("/api/node").await.ok()["guestsHeld"], false);
    for name in ["web", "database"] {
        agent.until(name, |vm| vm["phase"] == "running").await;
    }
    assert_eq!(agent.vm("idle").await["phase"], "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_heed_it_goes_by_force_within_the_deadline() {
    let deaf = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[], deaf).await;
    agent.create("deaf", json!({})).await;
    let path = "/api/node/guests/shutdown?timeout=1s";
    let down = agent.client.post(path, &Value::Null).await.ok();
    assert_eq!(down["items"][0]["down"], true, "{down}");
    assert_eq!(down["items"][0]["how"], "forced", "{down}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_once_guests_are_let_go() {
    let deaf = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[("stop_timeout", "2s")], deaf).await;
    agent.create("first", json!({})).await;
    agent.create("last", json!({ "labels": { "stop-order": "1" } })).await;
    let ends_meanwhile = async {
        agent.until("first", |vm| vm["phase"] == "stopping").await;
        agent.client.post("/api/node/guests/start", &Value::Null).await.ok()
    };
    let (down, started) = tokio::join!(agent.client.post(SHUTDOWN, &Value::Null), ends_meanwhile);
    assert_eq!(names(&down.ok()["items"]), ["first"], "the other one's turn never came");
    assert_eq!(started["items"], json!(["first", "last"]));
    agent.until("first", |vm| vm["phase"] == "running").await;
    let last = agent.vm("last").await;
    assert!(last["phase"] == "running" && last.get("lastEnd").is_none(), "{last}");
    assert_eq!(agent.client.get("/api/node").await.ok()["guestsHeld"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_heeds_the_order_too() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "labels": { "stop-order": "1" } })).await;
    agent.create("database", json!({ "labels": { "stop-order": "2" } })).await;
    agent.client.post("/api/node/drain", &json!({ "stopVms": true })).await.ok();
    let mut ends = Vec::new();
    for name in ["web", "database"] {
        let vm = agent.until(name, |vm| vm["phase"] == "stopped").await;
        ends.push(vm["lastEnd"]["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    }
    assert!(ends[0] <= ends[1], "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_tells_what_it_changed_and_refuses_what_is_wrong() {
    let agent = TestAgent::start().await;
    let file = agent.dir.path().join("agent.toml");
    std::fs::write(&file, "defaults.memory = '512MiB'\naccel = 'tcg'\n").unwrap();
    let reloaded = agent.client.post("/api/node/reload", &Value::Null).await.ok();
    assert_eq!(reloaded, json!({ "changed": ["defaults.memory"], "waiting": ["accel"] }));
    let vm = agent.create("larger", json!({ "start": false })).await;
    assert_eq!(vm["memoryBytes"], 512 << 20, "{vm}");

    std::fs::write(&file, "defaults.memry = '1GiB'\n").unwrap();
    let (status, _, why) = agent.client.post("/api/node/reload", &Value::Null).await.problem();
    assert_eq!(status, 400);
    assert!(why.contains("did you mean `defaults.memory`"), "{why}");
    let vm = agent.create("as-before", json!({ "start": false })).await;
    assert_eq!(vm["memoryBytes"], 512 << 20, "{vm}");
}
