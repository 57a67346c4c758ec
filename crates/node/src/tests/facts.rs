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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_examines_its_host() {
    let agent = TestAgent::start().await;
    let told = agent.client.get("/api/node/doctor").await.ok();
    assert_eq!(told["byAgent"], true);
    let findings = told["findings"].as_array().unwrap();
    let of = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{check}: {told}"))
    };
    // The agent runs, so there is a place for it.
    assert_eq!(of("data-directory")["needed"], true);
    assert_ne!(of("data-directory")["state"], "missing");
    for finding in findings {
        let is_ok = finding["state"] == "ok";
        assert_eq!(finding["consequence"].is_null(), is_ok, "{finding}");
    }
    for runtime in ["qemu", "firecracker", "krun", "libvirt"] {
        of(&format!("runtime.{runtime}"));
    }
    let unwell =
        |finding: &&serde_json::Value| finding["needed"] == true && finding["state"] != "ok";
    assert_eq!(told["healthy"], findings.iter().find(unwell).is_none(), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_benchmark_is_bounded_alone_and_kept() {
    let agent = TestAgent::start().await;
    let path = "/api/node/benchmark";
    assert_eq!(agent.client.get(path).await.status, 404);
    for (body, status) in [
        (json!({ "sizeBytes": 1 }), 400),
        (json!({ "passMillis": 1 }), 400),
        (json!({ "sizeBytes": 16_u64 << 40 }), 400),
    ] {
        assert_eq!(agent.client.post(path, &body).await.status, status, "{body}");
    }
    let small = json!({ "sizeBytes": 16 << 20, "passMillis": 100 });
    let held = std::sync::Arc::clone(&agent.node.benchmarking).lock_owned().await;
    let answer = agent.client.post(path, &small).await;
    // A disk that is nearly full takes none.
    if answer.status == 507 {
        println!("SKIPPED: {:?}", answer.problem());
        return;
    }
    assert_eq!(answer.status, 409);
    drop(held);

    let ended = agent.client.post(&format!("{path}?wait=60s"), &small).await.ok();
    if ended["state"] == "failed" {
        // A file system that knows no file without a name, or no O_DIRECT.
        println!("SKIPPED: {ended}");
        return;
    }
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let report = agent.client.get(path).await.ok();
    assert_eq!(report["at"], ended["result"]);
    assert_eq!(report["sizeBytes"], 16 << 20);
    assert!(report["writtenBytes"].as_u64().unwrap() <= 9 * (16 << 20), "{report}");
    assert!(report["passes"].as_array().unwrap().len() >= 8, "{report}");
    let agent = agent.live_on().await;
    assert_eq!(agent.client.get(path).await.ok(), report);
}
