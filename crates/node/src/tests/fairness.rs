//! Many at once keep nobody from what is theirs, and the limits hold.

use std::time::Duration;

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::{TestAgent, request};

const MANY: usize = 40;

/// So many starts at a time, each of which takes this long.
async fn slow(starts: &str, launch_takes: Duration) -> TestAgent {
    let flags = [
        ("sim.reserves", "true"),
        ("admission.cpu_overcommit", "10000"),
        ("limits.concurrent_starts", starts),
    ];
    let behaviour = Behaviour { launch_takes, ..Behaviour::default() };
    TestAgent::with(&flags, behaviour).await
}

fn small(name: &str) -> Value {
    request(name, json!({ "memoryBytes": 64 << 20 }))
}

async fn in_line(agent: &TestAgent) -> usize {
    let list = agent.client.get("/api/vms").await.ok();
    list["items"].as_array().unwrap().iter().filter(|vm| vm.get("waits").is_some()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_and_a_delete_wait_for_no_start() {
    let agent = slow("1", Duration::from_millis(100)).await;
    for name in ["stops", "goes"] {
        agent.client.post("/api/vms?wait=60s", &small(name)).await.ok();
    }
    for n in 0..MANY {
        agent.client.post("/api/vms", &small(&format!("vm-{n}"))).await.ok();
    }
    let vm = agent.client.post("/api/vms/stops/stop?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["phase"], "stopped", "{vm}");
    let gone = agent.client.delete("/api/vms/goes?wait=60s").await;
    assert_eq!(gone.status, 200);
    let waiting = in_line(&agent).await;
    assert!(waiting > MANY / 4, "{waiting} of {MANY} are in line yet");
    // Nor does an API call that has nothing to do with them.
    assert_eq!(agent.vm("stops").await["phase"], "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_start_at_a_time_than_the_limit_says() {
    let agent = slow("3", Duration::MAX).await;
    for n in 0..12 {
        agent.client.post("/api/vms", &small(&format!("vm-{n}"))).await.ok();
    }
    let all_wait = async {
        while in_line(&agent).await < 9 || agent.sim.most_launches_at_once() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_wait).await.expect("three begin and the others wait");
    assert_eq!(agent.sim.most_launches_at_once(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_disks_are_copied_at_a_time_than_the_limit_says() {
    let flags = [("limits.concurrent_copies", "1")];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    let disk = agent.dir.path().join("disk.img");
    std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
    // Somebody else copies.
    let copies = agent.node.copies.clone();
    let turn = copies.take(PATIENCE, |_| panic!("nobody is ahead")).await;
    let url = format!("file://{}", disk.display());
    for name in ["a", "b"] {
        let more = json!({ "image": null, "diskImage": { "url": url }, "start": true });
        agent.client.post("/api/vms", &request(name, more)).await.ok();
        agent.until(name, |vm| vm.get("waits").is_some()).await;
    }
    for (name, ahead) in [("a", 0), ("b", 1)] {
        let why = agent.client.get(&format!("/api/vms/{name}/why")).await.ok();
        assert_eq!(why["verdict"], "waiting", "{why}");
        assert_eq!(why["summary"], format!("waits for a free copy: {ahead} ahead"));
    }
    drop(turn);
    for name in ["a", "b"] {
        agent.until(name, |vm| vm["phase"] == "running").await;
    }
}
