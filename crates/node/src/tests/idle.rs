//! VMs that nobody uses rest, and are woken by whoever needs them.

use serde_json::{Value, json};

use super::agent::TestAgent;

/// As soon as can be.
fn soon(action: &str) -> Value {
    json!({ "onIdle": { "action": action, "afterSeconds": 1 } })
}

fn rests(vm: &Value) -> bool {
    vm.get("rest").is_some() && ["paused", "stopped"].map(Value::from).contains(&vm["phase"])
}

async fn ask(agent: &TestAgent, path: &str) -> Value {
    agent.client.post(&format!("/api/vms/web/{path}"), &Value::Null).await.ok()
}

async fn exec(agent: &TestAgent, command: &[&str]) -> Value {
    agent.client.post("/api/vms/web/execs", &json!({ "command": command })).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_nobody_uses_is_paused_and_an_exec_wakes_it() {
    let agent = TestAgent::start().await;
    let before = agent.create("web", soon("pause")).await;
    assert_eq!(before["onIdle"], json!({ "action": "pause", "afterSeconds": 1 }), "{before}");
    let resting = agent.until("web", rests).await;
    assert_eq!((&resting["phase"], &resting["desired"]), (&json!("paused"), &json!("running")));
    assert_eq!(resting["rest"]["action"], "pause", "{resting}");
    assert!(resting.get("paused").is_none(), "nobody asked for it: {resting}");
    let why = agent.client.get("/api/vms/web/why").await.ok();
    let summary = why["summary"].as_str().unwrap();
    assert!(summary.starts_with("it is paused, as nobody used it, since 20"), "{summary}");
    assert!(summary.contains("a call that needs its guest"), "{summary}");
    assert_eq!(
        (&why["verdict"], &why["next"]["command"]),
        (&json!("stopped"), &json!("inn vm start web"))
    );
    agent.until_told("vm-idle").await;

    exec(&agent, &["true"]).await;
    let woken = agent.vm("web").await;
    assert!(woken.get("rest").is_none(), "{woken}");
    assert_eq!(woken["guest"]["bootId"], before["guest"]["bootId"], "{woken}");
    agent.until_told("vm-woken").await;
    // And again, once nobody has used it for as long.
    agent.until("web", rests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_stopped_boots_when_it_is_needed() {
    let agent = TestAgent::start().await;
    let before = agent.create("web", soon("stop")).await;
    let resting = agent.until("web", rests).await;
    assert_eq!((&resting["phase"], &resting["desired"]), (&json!("stopped"), &json!("stopped")));
    assert_eq!(resting["lastEnd"]["how"], "graceful", "{resting}");
    exec(&agent, &["true"]).await;
    let woken = agent.vm("web").await;
    assert_ne!(woken["guest"]["bootId"], before["guest"]["bootId"], "{woken}");
    agent.until("web", rests).await;
    let started = ask(&agent, "start?wait=60s").await;
    assert!(started["phase"] == "running" && started.get("rest").is_none(), "{started}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_in_it_keeps_it_awake() {
    let agent = TestAgent::start().await;
    let busy = agent.create("web", json!({})).await;
    let exec = exec(&agent, &["sleep", "infinity"]).await;
    let idle = json!({ "onIdle": { "action": "stop", "afterSeconds": 1 } });
    agent.client.put("/api/vms/web/idle", &idle).await.ok();
    // Another one that is idle as long has come to rest meanwhile, twice.
    agent.create("other", soon("pause")).await;
    for _ in 0..2 {
        agent.until("other", rests).await;
        agent.client.post("/api/vms/other/start?wait=60s", &Value::Null).await.ok();
    }
    let still = agent.vm("web").await;
    assert_eq!((&still["phase"], &still["pid"]), (&busy["phase"], &busy["pid"]), "{still}");
    let id = exec["id"].as_str().unwrap();
    agent.client.delete(&format!("/api/vms/web/execs/{id}?kill=true")).await;
    agent
        .client
        .post(&format!("/api/vms/web/execs/{id}/signal"), &json!({ "signal": "KILL" }))
        .await;
    agent.until("web", rests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_rests_over_the_agent_s_death() {
    let mut agent = TestAgent::start().await;
    let before = agent.create("web", soon("pause")).await;
    let resting = agent.until("web", rests).await;
    agent.die().await;
    let agent = agent.live_on().await;
    let now = agent.until("web", |vm| vm["phase"] == "paused").await;
    assert_eq!((&now["rest"], &now["onIdle"]), (&resting["rest"], &before["onIdle"]), "{now}");
    exec(&agent, &["true"]).await;
    let woken = agent.vm("web").await;
    assert_eq!(woken["guest"]["bootId"], before["guest"]["bootId"], "{woken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_asks_for_is_nobody_s_to_end() {
    let agent = TestAgent::start().await;
    agent.create("web", soon("pause")).await;
    agent.until("web", rests).await;
    // It was resting; now it is paused by somebody.
    let paused = ask(&agent, "pause?wait=60s").await;
    assert!(paused.get("rest").is_none() && paused.get("paused").is_some(), "{paused}");
    let command = json!({ "command": ["true"] });
    let refused = agent.client.post("/api/vms/web/execs", &command).await.problem();
    assert_eq!(refused.0, 409, "{refused:?}");
    ask(&agent, "resume?wait=60s").await;
    agent.until("web", rests).await;
    let stopped = ask(&agent, "stop?wait=60s").await;
    assert!(stopped["phase"] == "stopped" && stopped.get("rest").is_none(), "{stopped}");
    let refused = agent.client.post("/api/vms/web/execs", &command).await.problem();
    assert_eq!(refused.0, 409, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_never_is_never() {
    let agent = TestAgent::start().await;
    let vm = agent.create("web", json!({})).await;
    assert!(vm.get("onIdle").is_none(), "{vm}");
    for wrong in [
        json!({ "onIdle": { "action": "pause", "afterSeconds": 0 } }),
        json!({ "onIdle": { "action": "sleep" } }),
        json!({ "onIdle": { "afterSeconds": 5 } }),
        json!({ "idle": 5 }),
    ] {
        assert_eq!(agent.client.put("/api/vms/web/idle", &wrong).await.problem().0, 400);
    }
    let set = json!({ "onIdle": { "action": "stop" } });
    let vm = agent.client.put("/api/vms/web/idle", &set).await.ok();
    assert_eq!(vm["onIdle"]["afterSeconds"], 600, "{vm}");
    let vm = agent.client.put("/api/vms/web/idle", &json!({ "onIdle": null })).await.ok();
    assert!(vm.get("onIdle").is_none(), "{vm}");
}
