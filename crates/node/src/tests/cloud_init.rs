use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use inn_vmm_sim::Behaviour;
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
    let told = Told::new();
    told.is_done(&[]);
    let mut agent = TestAgent::with(&[], told.behaviour()).await;
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
async fn a_screen_that_is_not_there_is_told() {
    let agent = TestAgent::start().await;
    agent.create("micro", json!({})).await;
    agent.create("full", disk(agent.dir.path(), json!({}))).await;
    for (vm, word) in [("micro", "serial console"), ("full", "start it first")] {
        let answer = agent.client.post(&format!("/api/vms/{vm}/vnc"), &json!({})).await;
        let (status, code, detail) = answer.problem();
        assert_eq!((status, code.as_str()), (409, "conflict"));
        assert!(detail.contains(word), "{detail}");
    }
    agent.client.post("/api/vms/full/start?wait=60s", &json!({})).await.ok();
    let answer = agent.client.post("/api/vms/full/vnc", &json!({})).await;
    assert!(answer.problem().2.contains("simulated"), "{answer:?}");
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

/// What cloud-init has written in a simulated guest.
struct Told(tempfile::TempDir);

impl Told {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn behaviour(&self) -> Behaviour {
        let files_at = Some(self.0.path().to_owned());
        Behaviour { resident: true, files_at, ..Behaviour::default() }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn is_at(&self, stage: &str) {
        let status = json!({ "v1": { "stage": stage, "init": { "errors": [] } } });
        self.write("run/cloud-init/status.json", &status.to_string());
    }

    fn is_done(&self, errors: &[&str]) {
        let status = json!({ "v1": { "stage": null, "modules-final": { "errors": errors } } });
        self.write("run/cloud-init/status.json", &status.to_string());
        let result = json!({ "v1": { "datasource": "NoCloud", "errors": errors } });
        self.write("run/cloud-init/result.json", &result.to_string());
    }
}

fn started(agent: &TestAgent) -> Value {
    disk(agent.dir.path(), json!({ "start": true, "cloudInit": {} }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_ready_once_cloud_init_is_done() {
    let told = Told::new();
    told.is_at("init");
    let mut agent = TestAgent::with(&[], told.behaviour()).await;
    let made = agent.client.post("/api/vms", &request("cloudy", started(&agent))).await;
    assert_eq!(made.status, 202, "{}", made.json());
    told.is_at("modules-config");
    let waiting = agent.until("cloudy", |vm| vm["cloudInit"]["stage"] == "modules-config").await;
    assert_eq!(waiting["cloudInit"]["status"], "waiting", "{waiting}");
    assert_eq!(
        (waiting["phase"].as_str(), waiting["observedGeneration"].as_u64()),
        (Some("running"), Some(0)),
        "{waiting}"
    );
    let why = agent.client.get("/api/vms/cloudy/why").await.ok();
    assert_eq!(why["verdict"], "underway", "{why}");
    let summary = why["summary"].as_str().unwrap();
    assert!(summary.contains("waiting for cloud-init: modules-config"), "{why}");
    assert_eq!(why["step"]["name"], "cloud-init", "{why}");

    // Another life goes on with it.
    agent.die().await;
    let agent = agent.live_on().await;
    told.is_at("modules-final");
    let waiting = agent.until("cloudy", |vm| vm["cloudInit"]["stage"] == "modules-final").await;
    assert_eq!(waiting["observedGeneration"], 0, "{waiting}");
    told.is_done(&[]);
    let ready = agent.until("cloudy", |vm| vm["observedGeneration"] == 1).await;
    assert_eq!(ready["cloudInit"], json!({ "status": "done" }));
    assert_eq!(ready["guest"]["link"], "ready");
    let agent = agent.live_on().await;
    let again = agent.until("cloudy", |vm| vm["guest"]["link"] == "ready").await;
    assert_eq!(again["cloudInit"], json!({ "status": "done" }), "it is not waited for again");
    let why = agent.client.get("/api/vms/cloudy/why").await.ok();
    assert_eq!(why["verdict"], "fine", "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_init_that_fails_says_why_and_leaves_the_vm_running() {
    let told = Told::new();
    told.write("var/log/cloud-init-output.log", &"E: no such package\n".repeat(1_000));
    told.is_done(&["('package-update-upgrade-install', ProcessExecutionError)"]);
    let agent = TestAgent::with(&[], told.behaviour()).await;
    let vm = agent.create("cloudy", started(&agent)).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["guest"]["link"].as_str()),
        (Some("running"), Some("ready"))
    );
    assert_eq!(vm["observedGeneration"], 1, "{vm}");
    let state = &vm["cloudInit"];
    assert_eq!(state["status"], "failed", "{vm}");
    let error = "modules-final: ('package-update-upgrade-install', ProcessExecutionError)";
    assert_eq!(state["errors"], json!([error]));
    assert_eq!(state["output"].as_array().unwrap().len(), 15, "{state}");
    let why = agent.client.get("/api/vms/cloudy/why").await.ok();
    assert_eq!(why["verdict"], "impaired", "{why}");
    assert!(why["summary"].as_str().unwrap().contains("modules-final"), "{why}");
    assert!(why["causes"].to_string().contains("no such package"), "{why}");
    assert_eq!(why["next"]["command"], "inn vm exec cloudy -- cloud-init status --long");
    let agent = agent.live_on().await;
    let again = agent.until("cloudy", |vm| vm["guest"]["link"] == "ready").await;
    assert_eq!(&again["cloudInit"], state, "it is known to the next life");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_init_that_never_ends_or_is_not_there_is_given_up() {
    let told = Told::new();
    let agent = TestAgent::with(&[("cloud_init_deadline", "1s")], told.behaviour()).await;
    let none = agent.create("none", started(&agent)).await;
    assert_eq!(none["cloudInit"]["errors"], json!(["there is no cloud-init in the image"]));
    told.write("run/cloud-init/disabled", "");
    let disabled = agent.create("disabled", started(&agent)).await;
    assert!(disabled["cloudInit"]["errors"].to_string().contains("disabled"), "{disabled}");
    told.is_at("modules-config");
    let late = agent.create("late", started(&agent)).await;
    let errors = late["cloudInit"]["errors"].to_string();
    assert!(errors.contains("within 1.00 s") && errors.contains("modules-config"), "{late}");

    // Nor is an agent that is never installed waited for without end.
    let silent = Behaviour { answers_after: None, resident: true, ..Behaviour::default() };
    let flags = [("start_deadline", "200ms"), ("cloud_init_deadline", "1s")];
    let agent = TestAgent::with(&flags, silent).await;
    let mute = agent.create("mute", started(&agent)).await;
    assert_eq!(
        (mute["phase"].as_str(), mute["guest"]["link"].as_str()),
        (Some("running"), Some("absent"))
    );
    let errors = mute["cloudInit"]["errors"].to_string();
    assert!(errors.contains("told nothing"), "{mute}");
    let why = agent.client.get("/api/vms/mute/why").await.ok();
    assert_eq!(why["next"]["command"], "inn vm console mute", "{why}");
}
