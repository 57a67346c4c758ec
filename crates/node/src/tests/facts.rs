//! What the node tells of its host.

use inn_store::{ProbeKey, ProbeRecord};
use serde_json::json;

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_what_its_host_is_and_what_vms_may_have_of_it() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false, "diskBytes": 1 << 30 })).await;
    let told = agent.client.get("/api/node/resources").await.ok();
    assert!(told["cpu"]["threads"].as_u64().unwrap() > 0, "{told}");
    assert!(told["memory"]["totalBytes"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["kernel"]["name"], "Linux");
    for share in ["memoryBytes", "vcpus", "diskBytes", "vms"] {
        let share = &told["forVms"][share];
        let of = |name: &str| share[name].as_u64().unwrap();
        assert_eq!(of("total"), of("reserved") + of("free"), "{share}");
    }
    assert_eq!(told["forVms"]["vms"]["used"], 0, "{told}");

    // That there is a device proves nothing, and nothing was tried yet.
    assert!(told["kvm"]["probed"].is_null(), "{told}");
    let key = ProbeKey {
        kernel: inn_units::Digest::from_sha256([1; 32]),
        vmm: "qemu".into(),
        host_boot: inn_host::process::host_boot_id().unwrap().to_owned(),
    };
    let verdict = ProbeRecord {
        usable: false,
        reason: "did not boot within 10s".into(),
        took: std::time::Duration::from_secs(10),
    };
    agent.node.store.set_probe(key, verdict).await.unwrap();
    let told = agent.client.get("/api/node/resources").await.ok();
    assert_eq!(told["kvm"]["probed"], false, "{told}");
    assert_eq!(told["kvm"]["reason"], "did not boot within 10s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_has_what_was_measured() {
    let agent = TestAgent::start().await;
    let told = agent.client.get("/api/node/snapshot").await.ok();
    assert!(told["host"]["memory"]["totalBytes"].as_u64().unwrap() > 0, "{told}");
    // A simulated machine is no process that takes anything.
    agent.create("web", json!({})).await;
    let told = agent.client.get("/api/node/snapshot").await.ok();
    assert_eq!(told["usage"], json!([]), "{told}");
}
