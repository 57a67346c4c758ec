//! Times to live, and what VMs leave behind.

use std::time::Duration;

use inn_store::{Durability, TtlRecord};
use jiff::Timestamp;
use serde_json::json;

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_whose_time_is_over_is_stopped_or_deleted() {
    let agent = TestAgent::start().await;
    let vm = agent.create("goes", json!({ "ttlSeconds": 1 })).await;
    assert_eq!(vm["ttl"]["action"], "delete", "{vm}");
    agent.create("stops", json!({ "ttlSeconds": 1, "ttlAction": "stop" })).await;
    agent.create("stays", json!({})).await;
    agent.until_gone("goes").await;
    let vm = agent.until("stops", |vm| vm["phase"] == "stopped").await;
    assert_eq!(
        (vm["desired"].as_str(), &vm["lastEnd"]["how"]),
        (Some("stopped"), &json!("graceful"))
    );
    // It had its time: started again it stays.
    let vm = agent.client.post("/api/vms/stops/start?wait=60s", &json!({})).await.ok();
    assert_eq!((vm["phase"].as_str(), vm.get("ttl")), (Some("running"), None), "{vm}");
    assert!(agent.vm("stays").await.get("ttl").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_renewed_and_taken_away_and_what_makes_no_sense_refused() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "ttlSeconds": 600, "ttlAction": "stop" })).await;
    let set = |body| {
        let client = agent.client.clone();
        async move { client.post("/api/vms/web/ttl", &body).await }
    };
    let vm = set(json!({ "ttlSeconds": 7200 })).await.ok();
    let left = vm["ttl"]["secondsLeft"].as_u64().unwrap();
    assert!((7100..=7200).contains(&left), "{vm}");
    assert_eq!(vm["ttl"]["action"], "stop", "it stays as it was");
    let ends: Timestamp = vm["ttl"]["endsAt"].as_str().unwrap().parse().unwrap();
    assert!(ends > Timestamp::now());
    let vm = set(json!({ "ttlSeconds": 60, "ttlAction": "delete" })).await.ok();
    assert_eq!(vm["ttl"]["action"], "delete");
    for seconds in [0, 315_360_001] {
        let (status, code, _) = set(json!({ "ttlSeconds": seconds })).await.problem();
        assert_eq!((status, code.as_str()), (400, "invalid-request"));
        let more = json!({ "ttlSeconds": seconds });
        let refused = agent.client.post("/api/vms", &super::agent::request("x", more)).await;
        assert_eq!(refused.problem().0, 400);
    }
    assert_eq!(set(json!({ "seconds": 5 })).await.problem().0, 400);
    assert!(set(json!({ "ttlSeconds": null })).await.ok().get("ttl").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_outlive_the_agent_and_a_clock_that_jumps() {
    let mut agent = TestAgent::start().await;
    for name in ["kept", "leapt", "fell"] {
        agent.create(name, json!({ "ttlSeconds": 600 })).await;
    }
    agent.die().await;
    // As if the host's clock had gone on, or back, by a year in between.
    let year = Duration::from_secs(365 * 24 * 3600);
    for (name, ends_at) in [("leapt", Timestamp::now() - year), ("fell", Timestamp::now() + year)] {
        let id = agent.node.vms.find(name).unwrap().id();
        let granted = Duration::from_secs(600);
        let ttl = TtlRecord { ends_at, granted, action: inn_domain::TtlAction::Delete };
        agent.node.store.set_ttl(id, Some(ttl), Durability::Host).await.unwrap();
    }
    let agent = agent.live_on().await;
    for (name, most, least) in [("kept", 600, 500), ("leapt", 60, 30), ("fell", 600, 500)] {
        let vm = agent.until(name, |vm| vm["phase"] == "running").await;
        let left = vm["ttl"]["secondsLeft"].as_u64().unwrap();
        assert!((least..=most).contains(&left), "{name}: {left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_nobody_s_goes_while_vms_come_and_go() {
    let agent = TestAgent::with(&[("reap.interval", "20ms")], Default::default()).await;
    let paths = agent.node.config.paths.clone();
    let orphan = "00000000aa";
    std::fs::create_dir_all(paths.vms().join(orphan)).unwrap();
    std::fs::write(paths.persist().join(".00000000aa.new"), "x").unwrap();
    for round in 0..20 {
        let name = format!("vm-{round}");
        let vm = agent.create(&name, json!({ "persist": true })).await;
        assert_eq!(vm["phase"], "running", "{vm}");
        agent.client.delete(&format!("/api/vms/{name}?force=true&wait=60s")).await.ok();
    }
    agent.client.post("/api/node/reap", &json!({})).await.ok();
    assert_eq!(agent.files_of_vms(), Vec::<String>::new());
    assert!(!paths.persist().join(".00000000aa.new").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_on_demand_says_what_it_has_removed() {
    let agent = TestAgent::start().await;
    agent.create("stays", json!({ "persist": true })).await;
    let paths = agent.node.config.paths.clone();
    std::fs::create_dir_all(paths.vms().join("00000000aa").join("logs")).unwrap();
    let reaped = agent.client.post("/api/node/reap", &json!({})).await.ok();
    assert_eq!(reaped["items"], json!([{ "kind": "vm-files", "vm": "00000000aa" }]));
    let again = agent.client.post("/api/node/reap", &json!({})).await.ok();
    assert_eq!(again["items"], json!([]));
    assert_eq!(agent.vm("stays").await["phase"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_groups_of_nobody_go_with_the_pass_too() {
    let agent = TestAgent::start().await;
    let orphan = "00000000aa";
    let cgroups = &agent.node.cgroups;
    let plan = cgroups.plan(orphan, &inn_host::cgroup::CgroupLimits::default());
    let groups: Vec<_> = cgroups.make(&plan).entrances;
    if groups.is_empty() {
        return println!("SKIPPED control_groups_of_nobody_go_with_the_pass_too: none here");
    }
    let reaped = agent.client.post("/api/node/reap", &json!({})).await.ok();
    assert_eq!(reaped["items"], json!([{ "kind": "control-group", "vm": orphan }]));
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}
