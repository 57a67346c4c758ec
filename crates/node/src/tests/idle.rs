//! VMs that nobody uses rest, and are woken by whoever needs them.

use serde_json::{Value, json};

use super::agent::TestAgent;
use super::disk_full::{agent_with, with_own_mounts};

/// As soon as can be.
fn soon(action: &str) -> Value {
    json!({ "onIdle": { "action": action, "afterSeconds": 1 } })
}

fn rests(vm: &Value) -> bool {
    vm.get("rest").is_some() && ["paused", "stopped"].map(Value::from).contains(&vm["phase"])
}

/// What becomes of a file's text.
type Damage = fn(String) -> String;

/// Its machine has ended.
fn is_asleep(vm: &Value) -> bool {
    rests(vm) && vm["phase"] == "stopped" && vm.get("pid").is_none_or(Value::is_null)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_memory_is_saved_goes_on_where_it_was() {
    let mut agent = TestAgent::start().await;
    agent.create("web", soon("snapshot")).await;
    let resting = agent.until("web", is_asleep).await;
    assert_eq!(
        (&resting["phase"], &resting["rest"]["action"]),
        (&json!("stopped"), &json!("snapshot"))
    );
    let asleep = agent.node.vms.find("web").unwrap().paths().asleep();
    assert!(asleep.join("memory").exists() || asleep.join("state").exists(), "{asleep:?}");
    let why = agent.client.get("/api/vms/web/why").await.ok();
    assert!(why["summary"].as_str().unwrap().contains("its memory saved"), "{why}");

    // Over the agent's death, and taken away by the wake.
    agent.die().await;
    let agent = agent.live_on().await;
    exec(&agent, &["true"]).await;
    let woken = agent.vm("web").await;
    // A simulated guest that goes on has another boot id, and a receipt.
    assert_eq!(woken["receipt"]["origin"], "web", "{woken}");
    assert!(!asleep.exists() && !asleep.with_extension("new").exists(), "{asleep:?}");

    // Whoever stops it wants no memory of it.
    agent.until("web", is_asleep).await;
    assert!(asleep.exists());
    ask(&agent, "stop?wait=60s").await;
    assert!(!asleep.exists(), "{asleep:?}");
    let booted = ask(&agent, "start?wait=60s").await;
    assert!(booted.get("receipt").is_none(), "{booted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_memory_is_damaged_or_does_not_fit_boots_in_place_of_it() {
    let agent = TestAgent::start().await;
    let mut before = agent.create("web", soon("snapshot")).await;
    let manifest = "manifest.json";
    let damages: [(&str, &str, Damage); 3] = [
        ("state", "its state has 19 bytes", |_| "nothing of the kind".to_owned()),
        (manifest, "it was saved with the vCPU count 2", |text| {
            text.replace("\"vcpus\":1", "\"vcpus\":2")
        }),
        (manifest, "its state cannot be read", |text| text[..text.len() / 2].to_owned()),
    ];
    for (file, says, damage) in damages {
        agent.until("web", is_asleep).await;
        let asleep = agent.node.vms.find("web").unwrap().paths().asleep();
        let path = asleep.join(file);
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        let damaged = damage(text.clone());
        assert_ne!(damaged, text, "{file} is another now");
        std::fs::write(&path, damaged).unwrap();
        exec(&agent, &["true"]).await;
        let booted = agent.vm("web").await;
        assert_ne!(booted["guest"]["bootId"], before["guest"]["bootId"], "{booted}");
        assert!(booted.get("receipt").is_none(), "{booted}");
        assert!(!asleep.exists(), "{asleep:?}");
        agent.until_told(&format!("cannot go on from its memory: {says}")).await;
        before = booted;
    }
}

#[test]
fn one_that_cannot_be_saved_runs_on_and_says_so() {
    with_own_mounts("idle::one_that_cannot_be_saved_runs_on_and_says_so", async {
        let (disk, agent) = agent_with("data/vms", "8m").await;
        let before = agent.create("web", json!({})).await;
        disk.fill();
        agent.client.put("/api/vms/web/idle", &soon("snapshot")).await.ok();
        agent.until_told("VM web failed at suspend: cannot write ").await;
        agent.until_told("VM web is woken by not having been saved").await;
        agent.client.put("/api/vms/web/idle", &json!({ "onIdle": null })).await.ok();
        let up = |vm: &Value| vm["phase"] == "running" && vm.get("rest").is_none();
        let after = agent.until("web", up).await;
        exec(&agent, &["true"]).await;
        assert_eq!(
            (&after["pid"], &after["guest"]["bootId"]),
            (&before["pid"], &before["guest"]["bootId"]),
            "it runs on: {after}"
        );
        let asleep = agent.node.vms.find("web").unwrap().paths().asleep();
        assert!(!asleep.exists() && !asleep.with_extension("new").exists(), "{asleep:?}");
        // Once there is room, it is saved.
        disk.free();
        agent.client.put("/api/vms/web/idle", &soon("snapshot")).await.ok();
        let resting = agent.until("web", is_asleep).await;
        assert!(resting.get("failure").is_none(), "{resting}");
        assert!(asleep.exists());
        // And goes with its VM.
        agent.client.delete("/api/vms/web?wait=60s").await.ok();
        assert!(!asleep.exists());
    });
}
