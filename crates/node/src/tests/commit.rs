//! Images of VMs' disks: who may ask for one, and when.

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused() {
    let agent = TestAgent::with(&[], Behaviour::default()).await;
    agent.create("idle", json!({ "start": false })).await;
    let body = json!({ "name": "made" });
    assert_eq!(agent.client.post("/api/vms/absent/commit", &body).await.problem().0, 404);
    for wrong in [json!({}), json!({ "name": "" }), json!({ "name": "x", "env": { "A=B": "c" } })] {
        let answer = agent.client.post("/api/vms/idle/commit", &wrong).await;
        assert_eq!(answer.problem().0, 400, "{wrong}");
    }
}

/// A disk of a full VM becomes a disk image, of which others are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_vm_s_disk_becomes_a_disk_image() {
    let agent = TestAgent::start().await;
    let disk = agent.dir.path().join("disk.img");
    let content: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&disk, &content).unwrap();
    let url = format!("file://{}", disk.display());
    let made = |name: &str, disk: Value| json!({ "name": name, "diskImage": disk, "runtime": "sim", "start": true, "diskBytes": 16 << 20 });
    let create = made("full", json!({ "url": url }));
    agent.client.post("/api/vms?wait=60s", &create).await.ok();
    let stopped = agent.client.post("/api/vms/full/stop?wait=60s", &json!({})).await.ok();
    assert_eq!(stopped["phase"], "stopped", "{stopped}");
    let body = json!({ "name": "golden" });
    let operation = agent.client.post("/api/vms/full/commit?wait=60s", &body).await.ok();
    assert_eq!(operation["state"], "succeeded", "{operation}");
    let id = operation["result"].as_str().unwrap();
    let disks = agent.client.get("/api/disk-images").await.ok();
    let image = &disks["items"][0];
    assert_eq!((&image["id"], &image["url"]), (&json!(id), &json!("vm-commit:golden")));
    assert_eq!(image["diskBytes"], 16 << 20);

    let from = json!({ "url": "vm-commit:golden", "sha256": image["sha256"] });
    agent.client.post("/api/vms?wait=60s", &made("copy", from)).await.ok();
    let vm = agent.node.vms.find("copy").unwrap();
    let copied = std::fs::read(vm.paths().disk()).unwrap();
    assert!(copied[..content.len()] == content[..], "another content");
}
