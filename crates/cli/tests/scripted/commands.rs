use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::collections::HashMap;

use crate::agent::{Agent, Seen, problem, vm};

fn hundred_vms() -> Router {
    let list = || async {
        let items: Vec<_> = (0..100)
            .map(|n| vm(n, &format!("vm-{n}"), if n % 2 == 0 { "running" } else { "stopped" }))
            .collect();
        Json(json!({ "items": items }))
    };
    Router::new().route("/api/vms", get(list))
}

#[tokio::test]
async fn list_shows_active_vms_and_json_is_an_array() {
    let agent = Agent::start(hundred_vms());
    let table = agent.output(&["vm", "list"]).await;
    assert_eq!(table.code, Some(0), "{table:?}");
    assert_eq!(table.stdout.lines().count(), 51, "{}", table.stdout);
    assert!(table.stdout.starts_with("ID "), "{}", table.stdout);
    assert_eq!(table.stderr, "");
    let all = agent.output(&["vm", "list", "--all", "-o", "json"]).await;
    let json: Vec<serde_json::Value> = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(json.len(), 100);
    assert!(json.iter().all(|vm| vm["id"].is_string() && vm["name"].is_string()));
    let stopped = agent.output(&["vm", "list", "--status", "stopped", "-o", "json"]).await;
    let json: Vec<serde_json::Value> = serde_json::from_str(&stopped.stdout).unwrap();
    assert_eq!(json.len(), 50);
}

#[tokio::test]
async fn each_vm_reports_for_itself_and_one_failure_fails_all() {
    let seen = Seen::default();
    let asked = seen.clone();
    let stop = move |Path(name): Path<String>, Query(query): Query<HashMap<String, String>>| {
        let asked = asked.clone();
        async move {
            asked.add(format!("{name} {query:?}"));
            if name == "b" {
                return problem(404, "not-found", "there is no VM b; did you mean a?");
            }
            Json(vm(1, &name, "stopped")).into_response()
        }
    };
    let agent = Agent::start(Router::new().route("/api/vms/{vm}/stop", post(stop)));
    let output = agent.output(&["vm", "stop", "a", "--vm", "b", "c", "--force"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.contains("a stopped") && output.stdout.contains("c stopped"));
    assert!(output.stderr.contains("inn: there is no VM b; did you mean a?\n"), "{output:?}");
    assert!(output.stderr.contains("1 of 3"), "{output:?}");
    assert!(seen.lines().iter().all(|line| line.contains(r#""force": "true""#)), "{seen:?}");
    let json = agent.output(&["vm", "stop", "-o", "json", "b"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json[0]["name"], "b");
    assert!(json[0]["error"].is_string(), "{json}");
}

#[tokio::test]
async fn delete_waits_until_the_vm_is_gone() {
    let seen = Seen::default();
    let asked = seen.clone();
    let show = move |Query(query): Query<HashMap<String, String>>| {
        let asked = asked.clone();
        async move {
            if query.contains_key("wait") {
                asked.add("waited");
                return problem(404, "not-found", "there is no VM web");
            }
            Json(vm(1, "web", "running")).into_response()
        }
    };
    let asked = seen.clone();
    let delete = move |Query(query): Query<HashMap<String, String>>| {
        let asked = asked.clone();
        async move {
            asked.add(format!("deleted keep={:?}", query.get("keepDisk")));
            (StatusCode::ACCEPTED, Json(vm(1, "web", "deleting")))
        }
    };
    let agent = Agent::start(Router::new().route("/api/vms/{vm}", get(show).delete(delete)));
    let output = agent.output(&["vm", "delete", "web", "--keep-disk"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    assert!(output.stdout.starts_with("web deleted"), "{output:?}");
    assert_eq!(seen.lines(), [r#"deleted keep=Some("true")"#, "waited"]);
}

#[tokio::test]
async fn a_failed_import_says_why_and_shows_its_steps() {
    let step = |state: &str, version: u64| {
        json!({
            "id": "0000000000000001", "kind": "image-import", "state": state, "version": version,
            "progress": { "step": format!("layer {version} of 2"), "doneBytes": 1024, "totalBytes": 2048 },
            "problem": (state == "failed").then(|| json!({
                "type": "urn:innkeeper:problem:invalid-image", "title": "invalid image",
                "status": 400, "code": "invalid-image",
                "detail": "layer 2 of ./x has an entry ../etc/passwd; the image is not to be trusted",
            })),
            "createdAt": "2026-01-01T00:00:00Z",
        })
    };
    let routes = Router::new()
        .route("/api/images/import", post(move || async move { Json(step("running", 1)) }))
        .route(
            "/api/operations/{id}",
            get(move |Query(query): Query<HashMap<String, String>>| async move {
                match query["version"].as_str() {
                    "1" => Json(step("running", 2)),
                    _ => Json(step("failed", 3)),
                }
            }),
        );
    let agent = Agent::start(routes);
    std::fs::write(agent.path().join("x"), "").unwrap();
    let output = agent.output(&["image", "import", "./x", "--name", "x"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    assert_eq!(
        output.stderr,
        "inn: layer 1 of 2: 1KiB of 2KiB\n\
         inn: layer 2 of 2: 1KiB of 2KiB\n\
         inn: layer 2 of ./x has an entry ../etc/passwd; the image is not to be trusted\n"
    );
    let missing = agent.output(&["image", "import", "./y", "--name", "x"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.starts_with("inn: cannot import ./y: "), "{missing:?}");
}

#[tokio::test]
async fn nothing_is_started_where_it_is_forbidden() {
    let agent = Agent::start(Router::new());
    let elsewhere = agent.path().join("none.sock");
    let output = agent.output(&["vm", "list", "--socket", elsewhere.to_str().unwrap()]).await;
    assert_eq!(output.code, Some(1));
    let expected =
        format!("inn: no agent answers at {}; start one with `inn agent`\n", elsewhere.display());
    assert_eq!(output.stderr, expected);
}
