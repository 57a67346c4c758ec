use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::agent::{TestAgent, request};

const HASH: &str = "$6$saltsalt$pnTIQ5rzQW4mTkXyNOTArEALhAsHbUtLongEnOUgh0123456789abcdefghij.";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIexample me@here";

fn disk(dir: &Path, more: Value) -> Value {
    let path = dir.join("cloud.img");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let url = format!("file://{}", path.display());
    let mut wanted = json!({ "image": null, "diskImage": { "url": url }, "start": false });
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    wanted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_made_for_a_disk_image_and_its_secrets_are_told_nobody() {
    let mut agent = TestAgent::start().await;
    let user_data = "#cloud-config\nruncmd:\n  - echo s3cret-token\n";
    let more = json!({
        "sshPublicKeys": [KEY],
        "cloudInit": {
            "user": "ada", "passwordHash": HASH, "packages": ["jq"], "userData": user_data,
        },
    });
    let made = agent.create("cloudy", disk(agent.dir.path(), more)).await;
    let id = made["id"].as_str().unwrap().to_owned();
    // Another life has it of the store.
    agent.die().await;
    let agent = agent.live_on().await;
    let started = agent.client.post("/api/vms/cloudy/start?wait=60s", &json!({})).await.ok();
    assert_eq!(started["phase"], "running", "{started}");
    let paths = &agent.node.config.paths;
    let seed = paths.vms().join(&id).join("seed.iso");
    let mode = std::fs::metadata(&seed).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = String::from_utf8_lossy(&std::fs::read(&seed).unwrap()).into_owned();
    for part in [
        "cidata".to_owned(),
        format!("inn-{id}"),
        "cloudy".to_owned(),
        "ada".to_owned(),
        HASH.to_owned(),
        KEY.to_owned(),
        "jq".to_owned(),
        "s3cret-token".to_owned(),
        "INN-GUEST".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let disks: Vec<_> = std::fs::read_dir(paths.guest_disk()).unwrap().collect();
    assert_eq!(disks.len(), 1, "one for all VMs");
    let shown = agent.vm("cloudy").await.to_string();
    let events = agent.client.get("/api/events?follow=false").await.ok().to_string();
    for secret in [HASH, "s3cret-token"] {
        assert!(!shown.contains(secret) && !events.contains(secret), "{shown} {events}");
    }
    agent.client.delete("/api/vms/cloudy?force=true&wait=60s").await.ok();
    assert!(!seed.exists(), "it goes with its VM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cloud_init_cannot_do_is_refused_with_a_sentence() {
    let agent = TestAgent::start().await;
    let refused = async |body: Value, word: &str| {
        let answer = agent.client.post("/api/vms", &request("refused", body)).await;
        assert_eq!(answer.status, 400, "{word}: {}", answer.json());
        let (.., said) = answer.problem();
        assert!(said.contains(word), "{word}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    };
    refused(json!({ "sshPublicKeys": [KEY] }), "OCI image").await;
    refused(json!({ "cloudInit": {} }), "OCI image").await;
    let of_disk = |more: Value| disk(agent.dir.path(), more);
    refused(of_disk(json!({ "cloudInit": { "passwordHash": "hunter2" } })), "openssl").await;
    refused(of_disk(json!({ "cloudInit": { "user": "Ada L" } })), "user's name").await;
    refused(of_disk(json!({ "cloudInit": { "packages": ["-y"] } })), "package").await;
    refused(of_disk(json!({ "cloudInit": { "userData": "hello" } })), "#cloud-config").await;
    refused(of_disk(json!({ "cloudInit": { "userData": "#cloud-config\na: [" } })), "line").await;
    refused(of_disk(json!({ "sshPublicKeys": ["hello"] })), "ssh key 1").await;
    assert_eq!(agent.client.get("/api/vms").await.ok()["items"], json!([]));
}
