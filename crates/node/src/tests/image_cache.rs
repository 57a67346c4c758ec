//! The image cache and its limits, over the API.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;

/// Has an image look as if nobody had used it for so many days.
pub(super) async fn age(agent: &TestAgent, name: &str, days: u64) {
    let image = agent.client.get(&format!("/api/images/{name}")).await.ok();
    let id = image["id"].as_str().unwrap();
    let then = SystemTime::now() - Duration::from_secs(days * 86_400);
    let cache = &agent.node.config.paths.image_cache_dir;
    for entry in fs::read_dir(cache.join("records")).unwrap() {
        let path = entry.unwrap().path();
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        if record["manifest"] == id {
            let unix = then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            record["created_unix"] = json!(unix);
            fs::write(&path, record.to_string()).unwrap();
        }
    }
    let disk = cache.join("disks").join(format!("{}.img", id.trim_start_matches("sha256:")));
    File::options().write(true).open(disk).unwrap().set_modified(then).unwrap();
}

async fn gc(agent: &TestAgent, body: Value) -> Value {
    agent.client.post("/api/images/gc", &body).await.ok()
}

/// The decision on an image, and why.
fn of<'a>(result: &'a Value, name: &str) -> (&'a str, &'a str) {
    let decisions = result["decisions"].as_array().unwrap();
    let wanted = |one: &&Value| {
        ["image", "partial"].map(Value::from).contains(&one["kind"])
            && one["name"].as_str().unwrap().trim_end_matches(":latest") == name
    };
    let one = decisions.iter().find(wanted).unwrap_or_else(|| panic!("no {name} in {result}"));
    (one["action"].as_str().unwrap(), one["reason"].as_str().unwrap())
}

async fn names(agent: &TestAgent) -> Vec<String> {
    let list = agent.client.get("/api/images").await.ok();
    let items = list["items"].as_array().unwrap().clone();
    let name =
        |image: &Value| image["name"].as_str().unwrap().trim_end_matches(":latest").to_owned();
    items.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_decision_is_explained_and_carried_out() {
    let agent = TestAgent::start().await;
    for name in ["old", "used", "young"] {
        agent.import(name, &["echo", name]).await;
    }
    agent.create("web", json!({ "image": "used", "start": false })).await;
    agent.create("api", json!({ "image": "used", "start": false })).await;
    for (name, days) in [("base", 2), ("old", 31), ("used", 90)] {
        age(&agent, name, days).await;
    }

    let asked = json!({ "dryRun": true, "maxAgeSeconds": 30 * 86_400 });
    let dry = gc(&agent, asked).await;
    let why = "removed: unused for 31 d, longer than the 30 d of images.max_age";
    assert_eq!(of(&dry, "old"), ("removed", why));
    assert_eq!(of(&dry, "used"), ("kept", "kept: 2 VMs run from it"));
    assert_eq!(of(&dry, "base"), ("kept", "kept: unused for 2 d, and it may be for 30 d"));
    assert!(of(&dry, "young").1.contains("what was just used may be about to be"), "{dry}");
    assert_eq!(dry["dryRun"], true);
    assert!(
        dry["freedBytes"].as_u64().unwrap() > 0
            && dry["usedBytes"].as_u64() > dry["freedBytes"].as_u64()
    );
    assert_eq!(names(&agent).await, ["base", "old", "used", "young"], "it was a dry run");

    let done = gc(&agent, json!({ "maxAgeSeconds": 30 * 86_400 })).await;
    assert_eq!(done["freedBytes"], dry["freedBytes"]);
    assert_eq!(names(&agent).await, ["base", "used", "young"]);
    // Its root disk and its own blobs are gone with it, and what it shared is there.
    let left = gc(&agent, json!({ "dryRun": true })).await;
    let used = done["usedBytes"].as_u64().unwrap() - done["freedBytes"].as_u64().unwrap();
    assert_eq!(left["usedBytes"].as_u64().unwrap(), used);
    assert_eq!(of(&left, "base").1, "kept: unused for 2 d, and no limit is set");

    // A limit that cannot be met takes all but what is used.
    let done = gc(&agent, json!({ "limitBytes": 0 })).await;
    assert!(of(&done, "base").1.starts_with("removed to come below the limit of 0B"), "{done}");
    assert_eq!(names(&agent).await, ["used", "young"]);
    assert_eq!(agent.vm("web").await["phase"], "stopped");
    let start = agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
    assert_eq!(start["phase"], "running", "{start}");
    let again = agent.client.post("/api/vms", &super::agent::request("x", json!({}))).await;
    assert_eq!(again.problem().0, 404, "base is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn use_ends_with_the_last_vm_and_not_before() {
    let agent = TestAgent::start().await;
    age(&agent, "base", 90).await;
    agent.create("web", json!({ "start": false })).await;
    age(&agent, "base", 90).await;
    // The pass notes the use, so that it is none of 90 days when the VM goes.
    crate::image_cache::collect_by_limits(&agent.node).await;
    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    agent.until_gone("web").await;
    let result = gc(&agent, json!({ "maxAgeSeconds": 86_400 })).await;
    assert!(of(&result, "base").1.starts_with("kept: used "), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configured_limits_hold_in_the_background() {
    let flags = [("images.max_age", "1d"), ("reap.interval", "50ms")];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    agent.import("old", &["echo"]).await;
    age(&agent, "old", 2).await;
    let gone = async {
        while names(&agent).await != ["base"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::PATIENCE, gone).await.expect("it goes by itself");
    let unknown = agent.client.post("/api/images/gc", &json!({ "dryrun": true })).await;
    assert_eq!(unknown.problem().0, 400, "a misspelt dry run is none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_with_one_cache_remove_nothing_of_each_other() {
    let agent = TestAgent::start().await;
    age(&agent, "base", 90).await;
    let other = inn_image::ImageStore::open(&agent.node.config.paths.image_cache_dir).unwrap();
    let result = gc(&agent, json!({ "limitBytes": 0 })).await;
    assert_eq!(of(&result, "base"), ("kept", "kept: another agent uses this cache"));
    // It is down, and its VMs are not.
    let data = agent.dir.path().join("other");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("state.db"), "").unwrap();
    other.register(&data).unwrap();
    drop(other);
    let result = gc(&agent, json!({ "limitBytes": 0 })).await;
    assert_eq!(of(&result, "base"), ("kept", "kept: another agent uses this cache"));
    // It is no more.
    fs::remove_dir_all(data).unwrap();
    gc(&agent, json!({ "limitBytes": 0 })).await;
    assert!(names(&agent).await.is_empty());
}

/// What downloads have left is in the plan: by its age, for room, and never
/// while somebody goes on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_downloads_go_like_all_else() {
    let agent = TestAgent::start().await;
    let cache = agent.node.config.paths.image_cache_dir.clone();
    let make = |path: std::path::PathBuf, hours: u64| {
        fs::write(&path, vec![7; 100_000]).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let hour = std::time::Duration::from_secs(3600);
        file.set_modified(std::time::SystemTime::now() - hour * u32::try_from(hours).unwrap())
            .unwrap();
        (path, file)
    };
    let layer = "ab".repeat(32);
    let old = make(cache.join("partial").join(&layer), 20).0;
    let (held, file) = make(cache.join("partial").join("cd".repeat(32)), 20);
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let disk = make(cache.join("disk-images/partial/0123.part"), 20).0;
    let young = make(cache.join("disk-images/partial/4567.part"), 1).0;

    let dry = gc(&agent, json!({ "dryRun": true, "maxAgeSeconds": 36_000 })).await;
    let why = "removed: unused for 20 h, longer than the 10 h of images.max_age";
    assert_eq!(of(&dry, &format!("download of {}", &layer[..12])), ("removed", why));
    assert_eq!(of(&dry, "download of cdcdcdcdcdcd"), ("kept", "kept: it is being brought in"));
    assert_eq!(of(&dry, "download of 0123"), ("removed", why));
    assert_eq!(of(&dry, "download of 4567").0, "kept");
    gc(&agent, json!({ "maxAgeSeconds": 36_000 })).await;
    assert!(!old.exists() && !disk.exists() && held.exists() && young.exists());
    let all = gc(&agent, json!({ "limitBytes": 0 })).await;
    let kinds = |action: &str| {
        let all = all["decisions"].as_array().unwrap().iter();
        all.filter(|d| d["action"] == action && d["kind"] == "partial").count()
    };
    assert_eq!((kinds("removed"), kinds("kept")), (1, 1), "{all}");
    assert!(held.exists() && !young.exists());
}
