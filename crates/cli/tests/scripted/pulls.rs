use std::collections::HashMap;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::agent::{Agent, Seen, problem, vm};

const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn operation(state: &str, version: u64, detail: Option<&str>) -> Value {
    json!({
        "id": "0000000000000001", "kind": "image-pull", "state": state, "version": version,
        "progress": {
            "step": "downloading", "doneBytes": 1024, "totalBytes": 2048,
            "layers": [{
                "digest": ID, "sizeBytes": 2048, "arrivedBytes": 1024, "unpackedBytes": 0,
                "state": "downloading",
            }],
        },
        "result": (state == "succeeded").then_some(ID),
        "problem": detail.map(|detail| json!({
            "type": "urn:innkeeper:problem:remote-failed", "title": "remote failed",
            "status": 424, "code": "remote-failed", "detail": detail,
        })),
        "createdAt": "2026-01-01T00:00:00Z",
    })
}

/// An agent whose pulls end so; VMs can be made once one has succeeded.
fn routes(seen: &Seen, detail: Option<&'static str>) -> Router {
    let (pulls, creates) = (seen.clone(), seen.clone());
    let pull = move |Json(body): Json<Value>| {
        let pulls = pulls.clone();
        async move {
            pulls.add(format!("pull {}", body["reference"].as_str().unwrap_or_default()));
            (StatusCode::ACCEPTED, Json(operation("running", 1, None)))
        }
    };
    let wait = move |Query(_): Query<HashMap<String, String>>| async move {
        let state = if detail.is_some() { "failed" } else { "succeeded" };
        Json(operation(state, 2, detail))
    };
    let images = || async {
        Json(json!({ "items": [{
            "id": ID, "name": "debian:12", "diskBytes": 1, "blobBytes": 1, "architecture": "amd64",
            "config": { "entrypoint": [], "cmd": [], "env": [] }, "usedBy": [],
            "createdAt": "2026-01-01T00:00:00Z",
        }] }))
    };
    let create = move || {
        let creates = creates.clone();
        async move {
            let was_pulled = creates.lines().iter().any(|line| line.starts_with("pull"));
            creates.add("create".to_owned());
            if !was_pulled || detail.is_some() {
                let missing = "there is no image debian:12; did you mean debian?";
                return problem(404, "not-found", missing);
            }
            (StatusCode::CREATED, Json(vm(1, "web", "stopped"))).into_response()
        }
    };
    Router::new()
        .route("/api/images/pull", post(pull))
        .route("/api/images", get(images))
        .route("/api/operations/{id}", get(wait))
        .route("/api/vms", post(create))
        .route("/api/vms/{vm}", get(|| async { Json(vm(1, "web", "stopped")) }))
}

#[tokio::test]
async fn a_pull_ends_with_the_image() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, None));
    let output = agent.output(&["image", "pull", "debian:12"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout, format!("debian:12 {ID}\n"));
    assert_eq!(output.stderr, "inn: downloading: 1KiB of 2KiB\n");
    let json = agent.output(&["image", "pull", "-q", "-o", "json", "debian:12"]).await;
    let image: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((image["id"].as_str(), json.stderr.as_str()), (Some(ID), ""));
    assert_eq!(seen.lines(), ["pull debian:12", "pull debian:12"]);
}

#[tokio::test]
async fn an_image_that_is_missing_is_pulled_for_a_vm_and_that_is_said() {
    let create = ["vm", "create", "--no-start", "--image", "debian:12"];
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, None));
    let output = agent.output(&create).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "web\n"), "{output:?}");
    let said = "image debian:12 is not here; pulling it (--pull never";
    assert!(output.stderr.contains(said), "{output:?}");
    assert_eq!(seen.lines(), ["create", "pull debian:12", "create"]);

    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, None));
    let output = agent.output(&[&create[..], &["--pull", "never"]].concat()).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stderr, "inn: there is no image debian:12; did you mean debian?\n");
    assert_eq!(seen.lines(), ["create"]);

    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, None));
    agent.output(&[&create[..], &["--pull", "always"]].concat()).await;
    assert_eq!(seen.lines(), ["pull debian:12", "create"]);
}

#[tokio::test]
async fn a_pull_that_fails_says_both_why_there_is_no_image_and_why_none_came() {
    let seen = Seen::default();
    let why = "cannot get the manifest of debian:12 from docker.io: no connection; check the host";
    let agent = Agent::start(routes(&seen, Some(why)));
    let output = agent.output(&["run", "--rm", "debian:12", "--", "true"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    let last = output.stderr.lines().last().unwrap();
    let both = "inn: there is no image debian:12; did you mean debian? It was not pulled, either: ";
    assert_eq!(last, format!("{both}{why}"));
    assert_eq!(seen.lines(), ["create", "pull debian:12"]);
}
