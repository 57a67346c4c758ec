//! What is known of a guest while it runs: its link, its telemetry, its
//! workload; and its disk, which grows under it.

use std::time::Duration;

use inn_units::Bytes;
use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::agent::{TestAgent, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_says_how_it_stands_and_since_when() {
    let late = Some(Duration::from_secs(1));
    let late = Behaviour { answers_after: late, ..Behaviour::default() };
    let agent = TestAgent::with(&[], late).await;
    let vm = agent.create("web", json!({ "start": false })).await;
    assert_eq!(vm["guest"]["link"], "absent", "{vm}");
    assert_eq!(vm["guest"]["reason"], "no machine runs");
    agent.client.post("/api/vms/web/start", &json!({})).await.ok();
    let vm = agent.until("web", |vm| vm["guest"]["link"] == "connecting").await;
    assert_eq!(vm["guest"]["reason"], "the guest boots", "{vm}");
    let connecting = vm["guest"]["since"].as_str().unwrap().to_owned();
    let vm = agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
    assert!(vm["guest"].get("reason").is_none(), "{vm}");
    assert!(vm["guest"]["since"].as_str().unwrap() > connecting.as_str(), "{vm}");
    assert_eq!(
        (vm["guest"]["protocol"].as_str(), vm["guest"]["isInit"].as_bool()),
        (Some("1.4"), Some(true))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_s_readings_are_kept_and_shown() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    for _ in 0..2 {
        let handle = agent.node.vms.find("web").unwrap();
        let enough = async {
            let mut looks = tokio::time::interval(Duration::from_millis(50));
            loop {
                looks.tick().await;
                let all = handle.telemetry().range(jiff::Timestamp::MIN, jiff::Timestamp::MAX);
                if !all.is_empty() {
                    return all;
                }
            }
        };
        let all = tokio::time::timeout(super::PATIENCE, enough).await.expect("it tells");
        assert!(all.is_sorted_by_key(|sample| sample.at));
        assert_eq!(handle.telemetry().latest().as_ref(), all.last());
        let vm = agent.vm("web").await;
        assert!(vm["stats"]["memoryTotalBytes"].as_u64().unwrap() > 0, "{vm}");
        drop(handle);
        // Another life begins with nothing, and is told on.
        agent.die().await;
        agent = agent.live_on().await;
        agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
    }
    let vm = agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
    assert!(vm.get("stats").is_none(), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_fails_is_started_again_by_its_policy() {
    let mut agent = TestAgent::start().await;
    let fails = json!({ "command": ["false"], "restartPolicy": "on-failure" });
    let fails = agent.client.post("/api/vms?wait=60s", &request("fails", fails)).await.ok();
    let again =
        agent.until("fails", |vm| vm["workload"]["restarts"].as_u64().unwrap_or(0) >= 1).await;
    assert_eq!(again["workload"]["running"], true, "{again}");
    assert_eq!(again["startedAt"], fails["startedAt"], "its VM runs on");
    let waits = agent.until("fails", |vm| vm["workload"]["exitCode"] == 1).await;
    assert!(waits["workload"]["reason"].as_str().unwrap().contains("starts again"), "{waits}");

    // Another life learns how often it was.
    let restarts = waits["workload"]["restarts"].as_u64().unwrap();
    agent.die().await;
    let agent = agent.live_on().await;
    let vm = agent.until("fails", |vm| vm["guest"]["link"] == "ready").await;
    assert!(vm["workload"]["restarts"].as_u64().unwrap() >= restarts, "{vm}");
    assert_eq!(vm["workload"]["running"], true, "{vm}");

    let once = agent.create("once", json!({ "command": ["exit", "3"] })).await;
    let vm = agent.until("once", |vm| vm["workload"]["running"] == false).await;
    assert_eq!(vm["workload"]["exitCode"], 3, "{vm} {once}");
    assert_eq!(vm["workload"]["restarts"], 0);
    assert_eq!(vm["phase"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_grows_and_stays_so() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false, "diskBytes": 16 << 20 })).await;
    let disk = |agent: &TestAgent| agent.node.vms.find("web").unwrap().paths().disk();
    let grow = async |agent: &TestAgent, size| {
        agent.node.vms.find("web").unwrap().grow_disk(&agent.node, size).await
    };
    // Before there is a disk, it is made in that size.
    grow(&agent, Bytes::mib(20)).await.unwrap();
    agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
    assert_eq!(disk(&agent).metadata().unwrap().len(), 20 << 20);
    grow(&agent, Bytes::mib(32)).await.unwrap();
    assert_eq!(disk(&agent).metadata().unwrap().len(), 32 << 20);
    let why = grow(&agent, Bytes::mib(16)).await.unwrap_err().to_string();
    assert!(why.contains("32MiB") && why.contains("never shrinks"), "{why}");
    agent.die().await;

    // An agent that died before the file had grown.
    std::fs::File::options().write(true).open(disk(&agent)).unwrap().set_len(20 << 20).unwrap();
    let agent = agent.live_on().await;
    assert_eq!(agent.vm("web").await["diskBytes"], 32 << 20);
    agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
    assert_eq!(disk(&agent).metadata().unwrap().len(), 32 << 20);
}
