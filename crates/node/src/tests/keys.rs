//! Requests that are sent again, to this life of the agent and to the next.

use hyper::Request;
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::{TestAgent, request};
use super::client::{Answer, TestClient};

async fn send(client: &TestClient, method: &str, path: &str, key: &str, body: &Value) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("idempotency-key", key);
    client.send(request, &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_outlives_the_agent() {
    let mut agent = TestAgent::start().await;
    // Without a name, so that no name keeps a second one from being made.
    let mut nameless = request("x", json!({}));
    nameless.as_object_mut().unwrap().remove("name");
    let create = "/api/vms?wait=60s";
    let first = send(&agent.client, "POST", create, "k", &nameless).await;
    assert_eq!(first.status, 201, "{first:?}");
    let id = first.ok()["id"].as_str().unwrap().to_owned();
    for name in ["web", "gone"] {
        agent.create(name, json!({})).await;
    }
    let stop = "/api/vms/web/stop?wait=60s&force=true";
    let delete = "/api/vms/gone?wait=60s&force=true";
    let stopped = send(&agent.client, "POST", stop, "k", &json!({})).await;
    let deleted = send(&agent.client, "DELETE", delete, "k", &json!({})).await;
    assert_eq!((stopped.status, deleted.status), (200, 200), "{stopped:?} {deleted:?}");
    agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();

    agent.die().await;
    let agent = agent.live_on().await;
    let again = send(&agent.client, "POST", create, "k", &nameless).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.location, first.location);
    assert_eq!(agent.node.vms.len(), 2, "no second one");
    let again = send(&agent.client, "POST", stop, "k", &json!({})).await;
    assert_eq!((again.status, &again.body), (200, &stopped.body));
    assert_eq!(agent.vm("web").await["phase"], "running", "it was not stopped again");
    let again = send(&agent.client, "DELETE", delete, "k", &json!({})).await;
    assert_eq!((again.status, &again.body), (200, &deleted.body), "though there is no such VM");

    let other = send(&agent.client, "POST", create, "k", &request("other", json!({}))).await;
    let (status, code, detail) = other.problem();
    assert_eq!((status, code.as_str()), (409, "conflict"));
    assert!(detail.contains("another request"), "{detail}");
    assert_eq!(agent.vm(&id).await["id"], id.as_str());
    agent.client.delete(&format!("/api/vms/{id}?force=true&wait=60s")).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_got_no_answer_from_an_agent_that_died_gets_it_from_the_next() {
    // No guest ever greets: whoever waits for one waits.
    let behaviour = Behaviour { answers_after: None, ..Behaviour::default() };
    let mut agent = TestAgent::with(&[], behaviour).await;
    let mut nameless = request("x", json!({}));
    nameless.as_object_mut().unwrap().remove("name");
    let client = agent.client.clone();
    let body = nameless.clone();
    let asked =
        tokio::spawn(async move { send(&client, "POST", "/api/vms?wait=600s", "k", &body).await });
    let accepted = async {
        while agent.node.vms.len() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
    let made = agent.node.vms.all()[0].id().to_string();
    // While it is at work nobody else may carry it out.
    let meanwhile = send(&agent.client, "POST", "/api/vms?wait=600s", "k", &nameless).await;
    assert!(meanwhile.problem().2.contains("still at work"), "{meanwhile:?}");

    asked.abort();
    agent.die().await;
    let agent = agent.live_on().await;
    let other = send(&agent.client, "POST", "/api/vms", "k", &request("other", json!({}))).await;
    assert_eq!(other.problem().1, "conflict");
    // How long an answer may take is no part of what is asked for.
    let again = send(&agent.client, "POST", "/api/vms", "k", &nameless).await;
    assert_eq!((again.status, &again.ok()["id"]), (202, &json!(made)), "{again:?}");
    assert_eq!(again.location, Some(format!("/api/vms/{made}")));
    assert_eq!(agent.node.vms.len(), 1, "no second one");

    let path = format!("/api/vms/{made}?force=true&wait=60s");
    agent.client.delete(&path).await.ok();
    let again = send(&agent.client, "POST", "/api/vms", "k", &nameless).await;
    assert_eq!((again.status, &again.ok()["id"]), (202, &json!(made)), "its answer by now");
    assert_eq!(agent.node.vms.len(), 0, "and no other one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_not_started_again_by_the_agent_s_next_life() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let path = "/api/vms/web/execs";
    let sleep = json!({ "command": ["sleep", "infinity"] });
    let first = send(&agent.client, "POST", path, "k", &sleep).await.ok();
    agent.die().await;
    let agent = agent.live_on().await;
    let again = send(&agent.client, "POST", path, "k", &sleep).await;
    assert_eq!((again.status, &again.ok()["id"]), (201, &first["id"]));
    let another = send(&agent.client, "POST", path, "k2", &sleep).await.ok();
    assert_ne!(another["id"], first["id"]);
    let all = agent.client.get(path).await.ok();
    let ours = all["items"].as_array().unwrap().iter().filter(|exec| exec["workload"] == false);
    assert_eq!(ours.count(), 2, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_may_ask_again_with_the_key() {
    let agent = TestAgent::start().await;
    let create = request("web", json!({ "start": false, "image": "later" }));
    let refused = send(&agent.client, "POST", "/api/vms", "k", &create).await;
    assert_eq!(refused.problem().0, 404);
    agent.import("later", &["true"]).await;
    let made = send(&agent.client, "POST", "/api/vms", "k", &create).await;
    assert_eq!(made.status, 202, "{made:?}");
    let limits = json!({ "cpuWeight": 50 });
    let patch = "/api/vms/web/limits";
    send(&agent.client, "PATCH", patch, "k", &limits).await.ok();
    let other = send(&agent.client, "PATCH", patch, "k", &json!({ "cpuWeight": 60 })).await;
    assert_eq!(other.problem().1, "conflict");
    for bad in ["", &"k".repeat(256)] {
        let answer = send(&agent.client, "PATCH", patch, bad, &limits).await;
        assert_eq!(answer.problem().1, "invalid-request", "{bad}");
    }
}

/// A client that goes away takes its request along, but never half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_whole_changes() {
    let agent = TestAgent::start().await;
    for n in 0..40u32 {
        let name = format!("vm-{n}");
        let body = request(&name, json!({ "start": false }));
        let client = agent.client.clone();
        let asked = tokio::spawn(async move { client.post("/api/vms", &body).await.status });
        for _ in 0..n * 4 {
            tokio::task::yield_now().await;
        }
        asked.abort();
    }
    let agree = async {
        loop {
            let stored = agent.node.store.vms().await.unwrap().len();
            if stored == agent.node.vms.len() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, agree).await.expect("what is stored is known");
}
