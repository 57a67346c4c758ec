//! VMs that stand still, and go on.

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;

async fn ask(agent: &TestAgent, verb: &str) -> Value {
    agent.client.post(&format!("/api/vms/web/{verb}?wait=60s"), &Value::Null).await.ok()
}

async fn guest_is_back(agent: &TestAgent) {
    let ready = |vm: &Value| vm["phase"] == "running" && vm["guest"]["link"] == "ready";
    agent.until("web", ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_vm_says_by_whom_and_goes_on() {
    let agent = TestAgent::start().await;
    let before = agent.create("web", json!({})).await;
    assert_eq!(before["phase"], "running", "{before}");
    let paused = ask(&agent, "pause").await;
    assert_eq!((&paused["phase"], &paused["desired"]), (&json!("paused"), &json!("running")));
    let by = paused["paused"]["by"].as_str().unwrap().to_owned();
    assert!(by.contains("uid"), "{paused}");
    assert_eq!(paused["guest"]["reason"], "it is paused", "{paused}");
    let why = agent.client.get("/api/vms/web/why").await.ok();
    assert_eq!(why["verdict"], "stopped", "{why}");
    let summary = why["summary"].as_str().unwrap();
    assert!(summary.starts_with(&format!("it is paused by {by} since 20")), "{summary}");
    assert_eq!(why["next"]["command"], "inn vm resume web", "{why}");

    // Whoever wants its guest is told at once.
    let exec = json!({ "command": ["true"] });
    let (status, code, why) = agent.client.post("/api/vms/web/execs", &exec).await.problem();
    assert_eq!((status, code.as_str()), (409, "conflict"), "{why}");
    assert!(why.contains("inn vm resume web"), "{why}");

    // Twice is once.
    assert_eq!(ask(&agent, "pause").await["generation"], paused["generation"]);
    let resumed = ask(&agent, "resume").await;
    assert_eq!(resumed["phase"], "running", "{resumed}");
    assert!(resumed.get("paused").is_none(), "{resumed}");
    assert_eq!(ask(&agent, "resume").await["generation"], resumed["generation"]);
    guest_is_back(&agent).await;
    assert_eq!(agent.vm("web").await["guest"]["bootId"], before["guest"]["bootId"]);
    agent.client.post("/api/vms/web/execs", &exec).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stays_paused_over_the_agent_s_death() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let paused = ask(&agent, "pause").await;
    agent.die().await;
    let agent = agent.live_on().await;
    let now = agent.until("web", |vm| vm["phase"] == "paused").await;
    assert_eq!(now["paused"], paused["paused"], "{now}");
    assert_eq!(agent.vm("web").await["guest"]["reason"], "it is paused");
    ask(&agent, "resume").await;
    guest_is_back(&agent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_stopped_started_restarted_and_deleted() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    ask(&agent, "pause").await;
    let stopped = ask(&agent, "stop").await;
    assert_eq!(stopped["phase"], "stopped", "{stopped}");
    assert_eq!(stopped["lastEnd"]["how"], "graceful", "it went on to shut down: {stopped}");
    let (status, _, why) = agent.client.post("/api/vms/web/pause", &Value::Null).await.problem();
    assert_eq!(status, 409);
    assert!(why.contains("start it first"), "{why}");

    ask(&agent, "start").await;
    ask(&agent, "pause").await;
    let started = ask(&agent, "start").await;
    assert_eq!(started["phase"], "running", "a start is the end of a pause: {started}");
    ask(&agent, "pause").await;
    let restarted = ask(&agent, "restart").await;
    assert_eq!(restarted["phase"], "running", "{restarted}");
    ask(&agent, "pause").await;
    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    agent.until_gone("web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_on_its_way_up_pauses_there() {
    let slow = Behaviour {
        answers_after: Some(std::time::Duration::from_millis(300)),
        ..Behaviour::default()
    };
    let agent = TestAgent::with(&[], slow).await;
    let body = super::agent::request("web", json!({}));
    agent.client.post("/api/vms", &body).await.ok();
    let paused = ask(&agent, "pause").await;
    assert_eq!(paused["phase"], "paused", "{paused}");
    ask(&agent, "resume").await;
    guest_is_back(&agent).await;
}
