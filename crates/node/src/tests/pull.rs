//! Pulls through the API, from a registry of the test's own.

use axum::http::Request;
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;
use super::registry::TestRegistry;

/// Enough that it comes in pieces.
const LAYER: usize = 3_000_000;

fn body(registry: &TestRegistry) -> Value {
    json!({ "reference": registry.reference(), "plainHttp": true })
}

async fn pulled(agent: &TestAgent, body: &Value) -> Value {
    agent.client.post("/api/images/pull?wait=60s", body).await.ok()
}

/// The operation once it is as `wanted` says.
async fn until(agent: &TestAgent, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut version = 0;
    loop {
        let path = format!("/api/operations/{id}?wait=60s&version={version}");
        let operation = agent.client.get(&path).await.ok();
        if wanted(&operation) {
            return operation;
        }
        assert_eq!(operation["state"], "running", "{operation}");
        version = operation["version"].as_u64().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_and_a_vm_made_of_it() {
    let registry = TestRegistry::start(LAYER).await;
    let agent = TestAgent::with(&[], Behaviour::default()).await;
    let operation = pulled(&agent, &body(&registry)).await;
    assert_eq!(
        (&operation["kind"], &operation["state"]),
        (&json!("image-pull"), &json!("succeeded")),
        "{operation}"
    );
    let layers = operation["progress"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1, "{operation}");
    assert_eq!(layers[0]["digest"], registry.layer());
    let images = agent.client.get("/api/images").await.ok();
    let name = registry.reference();
    let image = images["items"].as_array().unwrap().iter().find(|image| image["name"] == name);
    assert_eq!(image.unwrap()["id"], operation["result"]);
    let vm = agent.create("web", json!({ "image": name })).await;
    assert_eq!(vm["phase"], "running", "{vm}");
    agent.until_told("was pulled").await;

    // Again under another name: nothing of the layer is asked for.
    let asked = registry.ranges().len();
    let mut named = body(&registry);
    named["name"] = json!("mine");
    assert_eq!(pulled(&agent, &named).await["state"], "succeeded");
    assert_eq!(registry.ranges().len(), asked);
    agent.create("other", json!({ "image": "mine" })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_with_a_key_is_begun_once() {
    let registry = TestRegistry::start(LAYER).await;
    registry.give(1_000_000);
    let agent = TestAgent::start().await;
    let send = || async {
        let request = Request::post("/api/images/pull")
            .header("content-type", "application/json")
            .header("idempotency-key", "once");
        agent.client.send(request, &body(&registry).to_string()).await.ok()
    };
    let (first, second) = (send().await, send().await);
    assert_eq!(first["id"], second["id"]);
    // Another request for it is another operation, and the same work.
    let other = agent.client.post("/api/images/pull", &body(&registry)).await.ok();
    let (one, two) = (first["id"].as_str().unwrap(), other["id"].as_str().unwrap());
    let comes = |o: &Value| o["progress"]["layers"][0]["arrivedBytes"] == 1_000_000;
    until(&agent, one, comes).await;
    until(&agent, two, comes).await;
    agent.client.delete(&format!("/api/operations/{one}")).await.ok();
    until(&agent, one, |o| o["state"] == "cancelled").await;
    registry.give(usize::MAX);
    until(&agent, two, |o| o["state"] == "succeeded").await;
    assert_eq!(registry.ranges().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_pull_is_gone_on_with_by_the_next() {
    let registry = TestRegistry::start(LAYER).await;
    registry.give(1_000_000);
    let agent = TestAgent::start().await;
    let operation = agent.client.post("/api/images/pull", &body(&registry)).await.ok();
    let id = operation["id"].as_str().unwrap();
    let step = until(&agent, id, |o| o["progress"]["layers"][0]["arrivedBytes"] == 1_000_000).await;
    assert_eq!(step["progress"]["step"], "downloading");
    assert_eq!(step["progress"]["layers"][0]["state"], "downloading");
    // Although the registry gives nothing more.
    agent.client.delete(&format!("/api/operations/{id}?wait=60s")).await.ok();
    until(&agent, id, |o| o["state"] == "cancelled").await;
    assert_eq!(agent.client.get("/api/images").await.ok()["items"].as_array().unwrap().len(), 1);
    registry.give(usize::MAX);
    assert_eq!(pulled(&agent, &body(&registry)).await["state"], "succeeded");
    assert_eq!(registry.ranges(), [None, Some("bytes=1000000-".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_registry_fails_is_the_operations_result() {
    let registry = TestRegistry::start(LAYER).await;
    let agent = TestAgent::start().await;
    let absent = json!({
        "reference": format!("{}/team/app:2", registry.address), "plainHttp": true,
    });
    let operation = pulled(&agent, &absent).await;
    assert_eq!(operation["state"], "failed", "{operation}");
    assert_eq!(operation["problem"]["code"], "not-found", "{operation}");
    let detail = operation["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("team/app:2") && detail.contains("check the name"), "{detail}");

    registry.change_layer();
    let operation = pulled(&agent, &body(&registry)).await;
    assert_eq!(operation["problem"]["code"], "invalid-image", "{operation}");
    let detail = operation["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("layer 1") && detail.contains(&registry.layer()), "{detail}");

    // It has no TLS, and is spoken to in nothing else unless that is asked for.
    let operation = pulled(&agent, &json!({ "reference": registry.reference() })).await;
    let problem = &operation["problem"];
    assert_eq!((&problem["code"], &problem["status"]), (&json!("remote-failed"), &json!(424)));
    assert_eq!(agent.client.get("/api/images").await.ok()["items"].as_array().unwrap().len(), 1);

    for refused in ["", "team/UPPER", "http://host/x", "a b"] {
        let body = json!({ "reference": refused });
        let (status, code, detail) = agent.client.post("/api/images/pull", &body).await.problem();
        assert_eq!((status, code.as_str()), (400, "invalid-request"), "{detail}");
    }
}
