//! Only so many machines start at a time, and none on a drained node.

use std::time::Duration;

use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::PATIENCE;
use super::agent::{TestAgent, request};

/// One start at a time, of guests that answer as they are told.
async fn one_by_one(behaviour: Behaviour) -> TestAgent {
    let flags = [("sim.reserves", "true"), ("limits.concurrent_starts", "1")];
    TestAgent::with(&flags, behaviour).await
}

fn silent() -> Behaviour {
    Behaviour { answers_after: None, ..Behaviour::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_wait_in_line_visibly_and_a_stop_leaves_it() {
    let agent = one_by_one(silent()).await;
    for name in ["a", "b", "c", "d"] {
        let small = json!({ "memoryBytes": 64 << 20 });
        agent.client.post("/api/vms", &request(name, small)).await.ok();
        let there = move |vm: &serde_json::Value| {
            vm["phase"] == if name == "a" { "starting" } else { "pending" }
                && (name == "a" || vm.get("waits").is_some())
        };
        agent.until(name, there).await;
    }
    assert!(agent.vm("a").await.get("waits").is_none());
    for (name, ahead) in [("b", 0), ("c", 1), ("d", 2)] {
        let vm = agent.vm(name).await;
        assert_eq!(vm["waits"], format!("waits for a free start: {ahead} ahead"), "{vm}");
    }
    // Those in line leave it at once; those behind come forward.
    let vm = agent.client.post("/api/vms/b/stop?wait=60s", &json!({})).await.ok();
    assert_eq!((vm["phase"].as_str(), vm.get("waits")), (Some("stopped"), None));
    agent.client.delete("/api/vms/c?wait=60s").await.ok();
    agent.until_gone("c").await;
    assert_eq!(agent.vm("d").await["waits"], "waits for a free start: 0 ahead");
    // The one that has the turn gives it on when it is ended.
    agent.client.post("/api/vms/a/stop?force=true&wait=60s", &json!({})).await.ok();
    let vm = agent.until("d", |vm| vm["phase"] == "starting").await;
    assert!(vm.get("waits").is_none(), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_hangs_keeps_nobody_waiting_past_its_deadline() {
    let flags =
        [("sim.reserves", "true"), ("limits.concurrent_starts", "1"), ("start_deadline", "300ms")];
    let agent = TestAgent::with(&flags, silent()).await;
    for n in 0..6 {
        let small = json!({ "memoryBytes": 64 << 20 });
        agent.client.post("/api/vms", &request(&format!("vm-{n}"), small)).await.ok();
    }
    for n in 0..6 {
        let vm = agent.until(&format!("vm-{n}"), |vm| vm["phase"] == "failed").await;
        assert_eq!(vm["failure"]["step"], "handshake");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_vms_pass_one_by_one() {
    let agent = one_by_one(Behaviour::default()).await;
    for n in 0..20 {
        let small = json!({ "memoryBytes": 64 << 20 });
        agent.client.post("/api/vms", &request(&format!("vm-{n}"), small)).await.ok();
    }
    for n in 0..20 {
        agent.until(&format!("vm-{n}"), |vm| vm["phase"] == "running").await;
    }
}

/// The agent's time for a thousand VMs, as the benchmark takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_thousand_simulated_vms() {
    let agent = TestAgent::start().await;
    let begun = std::time::Instant::now();
    for n in 0..1000 {
        agent.client.post("/api/vms", &request(&format!("vm-{n}"), json!({}))).await.ok();
    }
    for n in 0..1000 {
        agent.until(&format!("vm-{n}"), |vm| vm["phase"] == "running").await;
    }
    println!("1000 simulated VMs run after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_takes_and_starts_nothing_over_restarts_too() {
    let mut agent = TestAgent::start().await;
    agent.create("runs", json!({})).await;
    agent.create("stopped", json!({ "start": false })).await;
    let node = agent.client.post("/api/node/drain", &json!({})).await.ok();
    assert_eq!((&node["drained"], &node["running"]), (&json!(true), &json!(1)));
    for life in 0..2 {
        assert_eq!(agent.client.get("/health").await.ok()["status"], "drained");
        assert_eq!(
            agent.until("runs", |vm| vm["guest"]["link"] == "ready").await["phase"],
            "running"
        );
        let create = agent.client.post("/api/vms", &request("new", json!({}))).await;
        let start = agent.client.post("/api/vms/stopped/start", &json!({})).await;
        let restart = agent.client.post("/api/vms/runs/restart", &json!({})).await;
        for refused in [create, start, restart] {
            let (status, code, detail) = refused.problem();
            assert_eq!((status, code.as_str()), (409, "drained"), "{detail}");
            assert!(detail.contains("inn node undrain"), "{detail}");
        }
        agent.client.post("/api/vms/runs/start", &json!({})).await.ok();
        if life == 0 {
            agent.die().await;
            agent = agent.live_on().await;
        }
    }
    let node = agent.client.post("/api/node/undrain", &json!({})).await.ok();
    assert_eq!(node["drained"], false);
    let vm = agent.client.post("/api/vms/stopped/start?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["phase"], "running");
    let long = json!({ "timeoutSeconds": 86_401 });
    assert_eq!(agent.client.post("/api/node/drain", &long).await.problem().0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_policy_waits_for_the_end_of_a_drain() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "restartPolicy": "always" })).await;
    agent.client.post("/api/node/drain", &json!({})).await.ok();
    let machine = agent.node.vms.find("web").unwrap().machine().unwrap();
    inn_vmm::Machine::kill(&*machine).await.unwrap();
    let vm = agent.until("web", |vm| vm.get("waits").is_some()).await;
    assert!(vm["waits"].as_str().unwrap().contains("drained"), "{vm}");
    let why = agent.client.get("/api/vms/web/why").await.ok();
    assert!(why.to_string().contains("inn node undrain"), "{why}");
    assert!(vm.get("pid").is_none(), "{vm}");
    agent.client.post("/api/node/undrain", &json!({})).await.ok();
    let vm = agent.until("web", |vm| vm["phase"] == "running").await;
    assert!(vm.get("waits").is_none(), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_stops_vms_newest_first_and_ends_what_is_left_at_its_deadline() {
    let agent = TestAgent::start().await;
    for name in ["a", "b", "c"] {
        agent.create(name, json!({})).await;
    }
    let drain = json!({ "stopVms": true });
    agent.client.post("/api/node/drain", &drain).await.ok();
    let mut ends = Vec::new();
    for name in ["a", "b", "c"] {
        let vm = agent.until(name, |vm| vm["phase"] == "stopped").await;
        assert_eq!(vm["lastEnd"]["how"], "graceful", "{vm}");
        ends.push(vm["lastEnd"]["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    }
    assert!(ends[2] <= ends[1] && ends[1] <= ends[0], "{ends:?}");
    let node = agent.client.get("/api/node").await.ok();
    assert_eq!(node["running"], 0);

    // Nobody stopped is started by the undrain, and no grace is none.
    agent.client.post("/api/node/undrain", &json!({})).await.ok();
    assert_eq!(agent.vm("a").await["phase"], "stopped");
    agent.client.post("/api/vms/a/start?wait=60s", &json!({})).await.ok();
    let drain = json!({ "stopVms": true, "timeoutSeconds": 0 });
    agent.client.post("/api/node/drain", &drain).await.ok();
    let stopped = agent.until("a", |vm| vm["phase"] == "stopped");
    let vm = tokio::time::timeout(PATIENCE.max(Duration::from_secs(1)), stopped).await.unwrap();
    assert_eq!(vm["lastEnd"]["how"], "forced", "{vm}");
}
