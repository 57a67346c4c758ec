use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use inn_guest_proto::BlockSum;
use serde_json::json;

use crate::agent::{Agent, Seen};

/// A hole between two ends, larger than one chunk of anything.
fn content() -> Vec<u8> {
    let mut content = vec![b'a'; 100_000];
    content.resize(3 << 20, 0);
    content.extend_from_slice(b"the end");
    content
}

fn hex(content: &[u8]) -> String {
    let mut sum = BlockSum::default();
    sum.add(content);
    sum.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn info(size: usize) -> Json<serde_json::Value> {
    Json(json!({
        "name": "disk", "kind": "file", "sizeBytes": size, "allocatedBytes": 0, "mode": "4750",
        "uid": 0, "gid": 0, "modifiedAt": "2020-01-02T03:04:05Z", "etag": "\"e1\"",
    }))
}

/// The whole, but a first answer that breaks off in the middle. `sum`: what is
/// said to be its sum.
fn downloads(seen: &Seen, sum: String) -> Router {
    let (seen, turn) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
    let read = move |headers: HeaderMap| async move {
        let of = |name: &str| headers[name].to_str().unwrap().to_owned();
        seen.add(format!("{} if {} te {}", of("range"), of("if-match"), of("te")));
        let content = Bytes::from(content());
        let body = match turn.fetch_add(1, Ordering::SeqCst) {
            0 => Body::from_stream(stream::iter([
                Ok(content.slice(..1_000_001)),
                Err(std::io::Error::other("gone")),
            ])),
            _ => {
                let name: HeaderName = "inn-block-sum".parse().unwrap();
                let trailers = HeaderMap::from_iter([(name, sum.parse().unwrap())]);
                // Without a known length, since HTTP/1.1 has trailers of chunked bodies alone.
                let whole = Body::from_stream(stream::iter([Ok::<_, std::io::Error>(content)]));
                Body::new(whole.with_trailers(async { Some(Ok(trailers)) }))
            }
        };
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("trailer", "inn-block-sum")
            .body(body)
            .unwrap()
    };
    Router::new()
        .route("/api/vms/{vm}/files", get(read))
        .route("/api/vms/{vm}/files/info", get(|| async { info(content().len()) }))
}

#[tokio::test]
async fn a_download_goes_on_after_a_break_and_keeps_holes() {
    let seen = Seen::default();
    let agent = Agent::start(downloads(&seen, hex(&content())));
    let output = agent.output(&["vm", "cp", "-p", "web:/var/disk", "./copy"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("waiting for the agent"), "{output:?}");
    let copy = agent.path().join("copy");
    assert!(std::fs::read(&copy).unwrap() == content());
    let metadata = std::fs::metadata(&copy).unwrap();
    // Blocks are of 512 bytes (stat(2)).
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o750, "no set-id bits");
    assert_eq!(metadata.mtime(), 1_577_934_245);
    let asked = format!("bytes=0-{} if \"e1\" te trailers", content().len() - 1);
    assert_eq!(seen.lines(), [asked.clone(), asked]);
    let names: Vec<_> = std::fs::read_dir(agent.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "the socket and the copy: {names:?}");
}

#[tokio::test]
async fn stdout_gets_each_byte_once() {
    let agent = Agent::start(downloads(&Seen::default(), hex(&content())));
    let output = agent.output(&["vm", "cp", "web:/var/disk", "-"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.as_bytes() == content());
}

#[tokio::test]
async fn what_was_damaged_on_its_way_is_not_kept() {
    let agent = Agent::start(downloads(&Seen::default(), hex(b"another")));
    let output = agent.output(&["vm", "cp", "web:/var/disk", "./copy"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("web:/var/disk was damaged"), "{output:?}");
    assert_eq!(std::fs::read_dir(agent.path()).unwrap().count(), 1, "the socket alone");
}

/// Takes half of a first upload and then has lost its guest, which kept a
/// quarter; takes all of the second.
fn uploads(seen: &Seen, sum: String) -> Router {
    let (put, asked, dropped) = (seen.clone(), seen.clone(), seen.clone());
    let turn = Arc::new(AtomicUsize::new(0));
    let write = move |Query(query): Query<HashMap<String, String>>, request: Request| async move {
        let get = |name: &str| query.get(name).map_or("-", String::as_str).to_owned();
        put.add(format!("put {} {} {}", get("mode"), get("offset"), get("modified")));
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        let mut body = request.into_body().into_data_stream();
        let mut taken = 0;
        while let Some(Ok(part)) = body.next().await {
            taken += part.len();
            if turn == 0 && taken > content().len() / 2 {
                let problem = json!({
                    "type": "", "title": "", "status": 409, "code": "guest-unavailable",
                    "detail": "the guest of web is away",
                });
                return (StatusCode::CONFLICT, Json(problem)).into_response();
            }
        }
        put.add(format!("took {taken}"));
        Json(json!({ "bytes": taken, "blockSum": sum })).into_response()
    };
    let state = move |Query(query): Query<HashMap<String, String>>| async move {
        asked.add(format!("state of {} digits", query["upload"].len()));
        Json(json!({ "offset": content().len() / 4 }))
    };
    let drop = move || async move { dropped.add("dropped") };
    Router::new()
        .route("/api/vms/{vm}/files", axum::routing::put(write))
        .route("/api/vms/{vm}/files/upload", get(state).delete(drop))
}

#[tokio::test]
async fn an_upload_goes_on_with_what_the_guest_has_kept() {
    let seen = Seen::default();
    let agent = Agent::start(uploads(&seen, hex(&content())));
    let source = agent.path().join("disk");
    std::fs::write(&source, content()).unwrap();
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o640)).unwrap();
    let output = agent.output(&["vm", "cp", "./disk", "web:/var/", "-o", "json"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let copied: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(copied["bytes"], content().len());
    let quarter = content().len() / 4;
    assert_eq!(
        seen.lines(),
        [
            "put 0640 - -".to_owned(),
            "state of 16 digits".to_owned(),
            format!("put 0640 {quarter} -"),
            format!("took {}", content().len() - quarter),
        ]
    );
}

#[tokio::test]
async fn what_arrived_otherwise_is_an_error_and_forgotten() {
    let seen = Seen::default();
    let agent = Agent::start(uploads(&seen, hex(b"another")));
    std::fs::write(agent.path().join("disk"), content()).unwrap();
    let output = agent.output(&["vm", "cp", "./disk", "web:/var/disk"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("is not what was sent"), "{output:?}");
    assert!(seen.has("dropped"), "{seen:?}");
}

#[tokio::test]
async fn stdin_cannot_go_on_and_says_so() {
    let agent = Agent::start(uploads(&Seen::default(), hex(&content())));
    std::fs::write(agent.path().join("disk"), content()).unwrap();
    let stdin = std::fs::File::open(agent.path().join("disk")).unwrap();
    let child = agent.inn(&["vm", "cp", "-", "web:/var/disk"]).stdin(stdin).spawn().unwrap();
    let output = crate::agent::finish(child).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("cannot be sent again"), "{output:?}");
}
