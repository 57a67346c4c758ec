//! VMs that begin from templates, and from clones that wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inn_vmm_sim::{Behaviour, SimRuntime};
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::TestAgent;
use crate::templates::MOST;

/// Between two looks at what tells nobody of a change: whoever makes templates
/// needs the CPU as well.
const GLANCE: Duration = Duration::from_millis(20);

/// With a pool.
async fn pooling() -> TestAgent {
    let flags = [("templates.enabled", "true"), ("templates.pool_memory", "1GiB")];
    TestAgent::with(&flags, Behaviour::default()).await
}

async fn snapshot(agent: &TestAgent) -> Value {
    agent.client.get("/api/node/snapshot").await.ok()
}

/// The node's snapshot, once it is as `wanted` says.
async fn until(agent: &TestAgent, wanted: impl Fn(&Value) -> bool) -> Value {
    let looking = async {
        loop {
            let snapshot = snapshot(agent).await;
            if wanted(&snapshot) {
                return snapshot;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(snapshot) => snapshot,
        Err(_) => panic!("never so: {}", snapshot(agent).await),
    }
}

fn clones(snapshot: &Value) -> u64 {
    snapshot["pool"]["waiting"].as_u64().unwrap()
}

fn state(snapshot: &Value) -> &str {
    snapshot["templates"][0]["state"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_boots_and_the_second_is_a_clone_that_has_waited() {
    let agent = pooling().await;
    let first = agent.create("one", json!({})).await;
    assert!(first.get("receipt").is_none(), "{first}");
    let ready = until(&agent, |now| clones(now) == 1).await;
    let template = &ready["templates"][0];
    assert_eq!((template["image"].as_str(), template["hits"].as_u64()), (Some("base"), Some(0)));
    assert_eq!(agent.vm("one").await["phase"], "running");

    let second = agent.create("two", json!({ "labels": { "a": "b" } })).await;
    assert_eq!(second["phase"], "running", "{second}");
    let receipt = &second["receipt"];
    assert_eq!(receipt["origin"], "the template of base", "{second}");
    assert_eq!(receipt["snapshot"], template["id"], "{second}");
    assert_eq!(second["labels"]["a"], "b");
    assert_ne!(second["id"], first["id"]);
    let exec = json!({ "command": ["true"] });
    agent.client.post("/api/vms/two/execs", &exec).await.ok();
    // It is a VM like any other, and boots from its own disk from then on.
    agent.client.post("/api/vms/two/restart?wait=60s", &json!({})).await.ok();
    let again = agent.until("two", |vm| vm["phase"] == "running").await;
    assert!(again.get("receipt").is_none(), "{again}");
    let now = until(&agent, |now| clones(now) >= 1).await;
    assert_eq!(now["templates"][0]["hits"], 1, "{now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_pool_a_vm_begins_from_the_template_itself() {
    let flags = [("templates.enabled", "true"), ("templates.pool_memory", "0")];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    agent.create("one", json!({})).await;
    let now = until(&agent, |now| state(now) == "ready").await;
    assert_eq!(now["pool"]["off"], "it is off (templates.pool_memory)");
    let second = agent.create("two", json!({})).await;
    assert_eq!(second["receipt"]["origin"], "the template of base", "{second}");
    // It lies on the disk, and the next life of the agent reads it.
    let agent = agent.live_on().await;
    let third = agent.create("three", json!({})).await;
    assert_eq!(third["receipt"]["snapshot"], second["receipt"]["snapshot"], "{third}");
    assert_eq!(snapshot(&agent).await["templates"][0]["misses"], 1);
    // One that is damaged is found before a VM sees it: that one boots.
    let mut agent = agent;
    agent.die().await;
    let directory = agent.node.config.paths.templates();
    let template = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let mut state = std::fs::read(template.join("state")).unwrap();
    state.iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(template.join("state"), state).unwrap();
    let agent = agent.live_on().await;
    let fourth = agent.create("four", json!({})).await;
    assert_eq!(fourth["phase"], "running", "{fourth}");
    assert!(fourth.get("receipt").is_none(), "{fourth}");
    let gone = async {
        while template.exists() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_to_boot_boots_and_what_cannot_be_a_clone_too() {
    let agent = pooling().await;
    agent.create("one", json!({})).await;
    until(&agent, |now| clones(now) == 1).await;
    for (name, more) in [
        ("cold", json!({ "cold": true })),
        ("persistent", json!({ "persist": true })),
        ("vsock", json!({ "channel": "vsock" })),
    ] {
        let vm = agent.create(name, more).await;
        assert_eq!(vm["phase"], "running", "{vm}");
        assert!(vm.get("receipt").is_none(), "{vm}");
    }
    assert_eq!(snapshot(&agent).await["templates"][0]["hits"], 0);
    // Another size is another kind.
    let other = agent.create("larger", json!({ "memoryBytes": 512 << 20 })).await;
    assert!(other.get("receipt").is_none(), "{other}");
    until(&agent, |now| now["templates"].as_array().unwrap().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_started_later_or_takes_anothers_place_begins_from_its_template_too() {
    let agent = pooling().await;
    agent.create("one", json!({})).await;
    until(&agent, |now| clones(now) == 1).await;

    // Its id is its own: no clone's that waits.
    for (name, more) in [("later", json!({})), ("cold", json!({ "cold": true }))] {
        let mut body = super::agent::request(name, json!({ "start": false }));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        agent.client.post("/api/vms?wait=60s", &body).await.ok();
        let path = format!("/api/vms/{name}/start?wait=60s");
        agent.client.post(&path, &json!({})).await.ok();
    }
    let later = agent.until("later", |vm| vm["phase"] == "running").await;
    assert_eq!(later["receipt"]["origin"], "the template of base", "{later}");
    let cold = agent.until("cold", |vm| vm["phase"] == "running").await;
    assert!(cold.get("receipt").is_none(), "{cold}");
    let now = snapshot(&agent).await;
    assert_eq!(now["templates"][0]["hits"].as_u64(), Some(0), "{now}");

    // It is a clone that has waited, whose id it has.
    let body = super::agent::request("later", json!({ "replace": true }));
    agent.client.post("/api/vms?wait=60s", &body).await.ok();
    let new = agent.until_other("later", &later).await;
    assert_eq!(new["receipt"]["origin"], "the template of base", "{new}");
    assert_eq!(snapshot(&agent).await["templates"][0]["hits"], 1);
    // And what is replaced by one that is to be started later.
    let body = super::agent::request("later", json!({ "replace": true, "start": false }));
    agent.client.post("/api/vms?wait=60s", &body).await.ok();
    agent.client.post("/api/vms/later/start?wait=60s", &json!({})).await.ok();
    let last = agent.until("later", |vm| vm["phase"] == "running").await;
    assert_ne!(last["id"], new["id"]);
    assert_eq!(last["receipt"]["origin"], "the template of base", "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_to_go_on_as_a_clone_boots_where_the_agent_ends_before() {
    let flags = [("templates.enabled", "true"), ("templates.pool_memory", "1GiB")];
    let lingering = Behaviour { kill_takes: Duration::from_secs(2), ..Behaviour::default() };
    let mut agent = TestAgent::with(&flags, lingering).await;
    let old = agent.create("web", json!({})).await;
    until(&agent, |now| clones(now) >= 1).await;
    let body = super::agent::request("web", json!({ "replace": true }));
    let client = agent.client.clone();
    let asked = tokio::spawn(async move { client.post("/api/vms?wait=60s", &body).await });
    let mut views = agent.node.vms.find("web").unwrap().watch();
    let promised = views.wait_for(|view| view.replaced_by.is_some());
    tokio::time::timeout(PATIENCE, promised).await.expect("it is promised").unwrap();
    // A clone is its already.
    assert_eq!(snapshot(&agent).await["templates"][0]["hits"], 1);
    drop(views);
    agent.die().await;
    asked.abort();
    let agent = agent.live_again(Behaviour::default()).await;
    let new = agent.until_other("web", &old).await;
    assert!(new.get("receipt").is_none(), "{new}");
    let exec = json!({ "command": ["true"] });
    agent.client.post("/api/vms/web/execs", &exec).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_is_put_back_when_its_vm_is_refused() {
    let agent = pooling().await;
    agent.create("one", json!({})).await;
    until(&agent, |now| clones(now) == 1).await;
    let taken = agent.client.post("/api/vms", &super::agent::request("one", json!({}))).await;
    assert_eq!(taken.problem().0, 409);
    let again = until(&agent, |now| clones(now) >= 1).await;
    let hits = again["templates"][0]["hits"].as_u64().unwrap();
    let two = agent.create("two", json!({})).await;
    assert!(two.get("receipt").is_some(), "{two}");
    assert_eq!(snapshot(&agent).await["templates"][0]["hits"], hits + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_become_itself_is_not_handed_out_and_a_boot_takes_its_place() {
    let flags =
        [("templates.enabled", "true"), ("templates.pool_memory", "0"), ("start_deadline", "2s")];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    agent.create("one", json!({})).await;
    until(&agent, |now| state(now) == "ready").await;
    // The next machine is deaf, and those after it are well.
    let deaf = Arc::new(AtomicBool::new(false));
    let is_deaf = Arc::clone(&deaf);
    let sim = SimRuntime::new(move |_| Behaviour {
        deaf: is_deaf.swap(false, Ordering::SeqCst),
        ..Behaviour::default()
    });
    let agent = agent.begin_again(sim).await;
    deaf.store(true, Ordering::SeqCst);
    let two = agent.create("two", json!({})).await;
    assert_eq!(two["phase"], "running", "{two}");
    assert!(two.get("receipt").is_none(), "{two}");
    let exec = json!({ "command": ["true"] });
    agent.client.post("/api/vms/two/execs", &exec).await.ok();
    let now = snapshot(&agent).await;
    assert_eq!(state(&now), "failed", "{now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_goes_with_its_image_and_clones_with_the_agent() {
    let mut agent = pooling().await;
    agent.import("other", &["sleep", "1h"]).await;
    let vm = agent.create("one", json!({ "image": "other" })).await;
    until(&agent, |now| clones(now) == 1).await;
    assert_eq!(agent.files_of_vms().len(), 4, "a VM's and a clone's");
    agent.client.delete("/api/vms/one?force=true&wait=60s").await.ok();
    agent.until_gone("one").await;
    assert_eq!(vm["image"]["name"], "other");
    agent.client.delete("/api/images/other").await;
    until(&agent, |now| clones(now) == 0).await;
    let gone = async {
        while std::fs::read_dir(agent.node.config.paths.templates()).unwrap().next().is_some() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it goes");

    agent.create("two", json!({})).await;
    until(&agent, |now| clones(now) == 1).await;
    agent.die().await;
    assert_eq!(agent.files_of_vms().len(), 2, "the VM's alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_has_no_clones() {
    let agent = pooling().await;
    agent.create("one", json!({})).await;
    until(&agent, |now| clones(now) == 1).await;
    agent.client.post("/api/node/drain", &json!({})).await.ok();
    let now = until(&agent, |now| clones(now) == 0).await;
    assert_eq!(now["pool"]["off"], "the node takes no VMs");
    agent.client.post("/api/node/undrain", &json!({})).await.ok();
    until(&agent, |now| clones(now) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_kinds_are_known_than_can_be_kept() {
    let flags = [("templates.enabled", "true"), ("templates.pool_memory", "0")];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    let known = |now: &Value| now["templates"].as_array().unwrap().len();
    let sizes = |now: &Value| -> BTreeSet<u64> {
        let all = now["templates"].as_array().unwrap();
        all.iter().map(|template| template["memoryBytes"].as_u64().unwrap()).collect()
    };
    let ready = |now: &Value| {
        now["templates"].as_array().unwrap().iter().all(|template| template["state"] == "ready")
    };
    let make = async |mib: u64| {
        let more = json!({ "memoryBytes": mib << 20 });
        agent.create("web", more).await;
        until(&agent, |now| sizes(now).contains(&(mib << 20))).await;
        agent.client.delete("/api/vms/web?force=true&wait=60s").await.ok();
        agent.until_gone("web").await;
    };
    let first = 128;
    for more in 0..MOST as u64 {
        make(first + more).await;
    }
    let now = until(&agent, ready).await;
    assert_eq!(known(&now), MOST, "{now}");
    // The first is used again: the second is the one that nobody has used for the
    // longest.
    make(first).await;
    make(1024).await;
    let now = until(&agent, |now| known(now) == MOST && ready(now)).await;
    let expected: BTreeSet<u64> = (0..MOST as u64)
        .filter(|more| *more != 1)
        .map(|more| first + more)
        .chain([1024])
        .map(|mib| mib << 20)
        .collect();
    assert_eq!(sizes(&now), expected);
    let gone = async {
        while std::fs::read_dir(agent.node.config.paths.templates()).unwrap().count() > MOST {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its files go");
}
