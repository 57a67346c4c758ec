use hyper::Request;
use serde_json::{Value, json};

use super::agent::TestAgent;

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_that_repeat_and_hide_nothing() {
    let agent = TestAgent::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        agent.create(name, json!({ "start": false })).await;
    }
    let client = &agent.client;
    let first = client.get("/api/vms?limit=2").await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    // The cursor's own VM goes, and another one comes.
    client.delete("/api/vms/b?wait=60s").await.ok();
    agent.create("f", json!({ "start": false })).await;
    let next = first["next"].as_str().unwrap();
    let second = client.get(&format!("/api/vms?limit=3&after={next}")).await.ok();
    assert_eq!(names(&second), ["c", "d", "e"]);
    let next = second["next"].as_str().unwrap();
    let last = client.get(&format!("/api/vms?limit=3&after={next}")).await.ok();
    assert_eq!((names(&last), &last["next"]), (vec!["f"], &Value::Null));
    assert_eq!(names(&client.get("/api/vms").await.ok()).len(), 5);
    let filtered = client.get("/api/vms?limit=1&name=d").await.ok();
    assert_eq!((names(&filtered), &filtered["next"]), (vec!["d"], &Value::Null));

    for name in ["lib/one", "lib/two", "zero"] {
        agent.import(name, &["true"]).await;
    }
    let first = client.get("/api/images?limit=2").await.ok();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap().replace('/', "%2F");
    let rest = client.get(&format!("/api/images?limit=9&after={next}")).await.ok();
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (2, &Value::Null));
    assert_eq!(
        client.get("/api/images?prefix=lib/").await.ok()["items"].as_array().unwrap().len(),
        2
    );
    for (query, word) in
        [("vms?limit=0", "limit 0"), ("vms?after=x", "`next`"), ("images?limit=1001", "1001")]
    {
        let (_, code, detail) = client.get(&format!("/api/{query}")).await.problem();
        assert!(code == "invalid-request" && detail.contains(word), "{query}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_commands_come_in_pages_too() {
    let agent = TestAgent::start().await;
    let client = &agent.client;
    for name in ["a", "b", "c"] {
        client.post("/api/tokens", &json!({ "scope": "read", "name": name })).await.ok();
    }
    let first = client.get("/api/tokens?limit=2").await.ok();
    assert_eq!(names(&first)[1..], ["a"], "after the agent's own");
    // Revoked ones keep their place.
    client.delete("/api/tokens/a").await.ok();
    let next = first["next"].as_str().unwrap();
    let rest = client.get(&format!("/api/tokens?limit=2&after={next}")).await.ok();
    assert_eq!((names(&rest), &rest["next"]), (vec!["b", "c"], &Value::Null));

    agent.create("web", json!({})).await;
    let all = client.get("/api/vms/web/execs").await.ok();
    let all = all["items"].as_array().unwrap();
    let mut seen = Vec::new();
    let mut path = "/api/vms/web/execs?limit=1".to_owned();
    loop {
        let page = client.get(&path).await.ok();
        seen.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/vms/web/execs?limit=1&after={next}");
    }
    assert!(!seen.is_empty() && seen == *all, "{seen:?} {all:?}");
    for query in ["tokens?limit=0", "tokens?after=x", "vms/web/execs?after=x"] {
        assert_eq!(client.get(&format!("/api/{query}")).await.problem().1, "invalid-request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_its_time_is_waited_for() {
    let agent = TestAgent::start().await;
    let client = &agent.client;
    agent.create("web", json!({})).await;
    let body = json!({ "path": "/nonexistent.tar", "name": "none" });
    let import = client.post("/api/images/import?wait=60s", &body).await;
    assert_eq!((import.status, &import.ok()["state"]), (200, &json!("failed")));
    let id = import.ok()["id"].as_str().unwrap().to_owned();
    let ended = client.delete(&format!("/api/operations/{id}?wait=60s")).await.ok();
    assert_eq!(ended["state"], "failed", "it stays as it has ended");
    let drain = json!({ "stopVms": true });
    let node = client.post("/api/node/drain?wait=60s", &drain).await.ok();
    assert_eq!((&node["running"], &node["drained"]), (&json!(0), &json!(true)));
    assert_eq!(agent.vm("web").await["phase"], "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_shown_by_its_name_and_by_its_id() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false })).await;
    let list = agent.client.get("/api/images").await.ok();
    let image = &list["items"][0];
    let name = image["name"].as_str().unwrap();
    assert_eq!(agent.client.get(&format!("/api/images/{name}")).await.ok(), *image);
    assert_eq!(agent.client.get("/api/images/base").await.ok()["usedBy"], json!(["web"]));
    let id = image["id"].as_str().unwrap();
    assert_eq!(agent.client.get(&format!("/api/images/{id}")).await.ok(), *image);
    assert_eq!(agent.client.get("/api/images/none").await.problem().1, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_with_a_key_is_carried_out_once() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let put = |key: &'static str, user: &str| {
        let body = json!({ "user": user, "keys": [] }).to_string();
        let request = Request::put("/api/vms/web/guest/ssh-keys")
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        let client = agent.client.clone();
        async move { client.send(request, &body).await }
    };
    let first = put("k", "root").await;
    let again = put("k", "root").await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    let other = put("k", "other").await.problem();
    assert_eq!((other.0, other.1.as_str()), (409, "conflict"));
}

#[test]
fn the_docs_list_the_codes_of_problems_with_their_statuses() {
    let document = serde_json::to_value(crate::openapi()).unwrap();
    let codes = document["components"]["schemas"]["Code"].clone();
    // Each variant with a comment is a schema of its own, or all are one.
    let mut known: Vec<(String, String)> = find_strings(&codes)
        .into_iter()
        .filter_map(|name| {
            let code: inn_api::Code = serde_json::from_value(json!(name)).ok()?;
            Some((name, code.status().to_string()))
        })
        .collect();
    let text = include_str!("../../../../docs/api.md");
    let section = text.split("## Problems").nth(1).unwrap();
    let mut listed: Vec<(String, String)> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
        })
        .collect();
    known.sort();
    listed.sort();
    assert!(known.len() > 15, "{codes}");
    assert_eq!(known, listed);
}

fn find_strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(find_strings).collect(),
        Value::Object(fields) => fields.values().flat_map(find_strings).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_operation_says_what_it_may_refuse() {
    let document = serde_json::to_value(crate::openapi()).unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap();
            let mut needed = vec![];
            if path != "/health" {
                needed.extend(["400", "401", "403", "500"]);
            }
            if path.contains('{') {
                needed.push("404");
            }
            if path != "/health" {
                needed.extend(["408", "414", "431"]);
            }
            let body = &operation["requestBody"]["content"];
            if body.get("application/json").is_some() {
                needed.extend(["413", "415", "429"]);
            }
            let writes = !matches!(method.as_str(), "get" | "head");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let takes_key = parameters.into_iter().any(|p| p["name"] == "Idempotency-Key");
            let of_files = path.ends_with("/files") && method == "put";
            let of_tokens = path == "/api/tokens";
            assert_eq!(takes_key, writes && !of_files && !of_tokens, "{method} {path}");
            if takes_key {
                needed.extend(["409", "413"]);
            }
            for status in needed {
                assert!(answers.contains_key(status), "{method} {path}: {status}");
            }
        }
    }
}
