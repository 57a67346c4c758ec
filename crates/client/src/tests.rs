//! The client against a scripted agent: what goes over the wire, and what is
//! made of what comes back. The real agent stands above this crate.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Client, ClientError, ExecEvent, ExecRequest, FileFormat, FileWrite};
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, put};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use inn_api::exec::{SUBPROTOCOL, Status, TerminalSize};
use inn_api::{Code, Phase, Problem, VmCreate};
use tempfile::TempDir;
use tokio::net::UnixListener;

type Seen = Arc<Mutex<Vec<String>>>;

/// An agent of a few routes that writes down what it was asked.
struct Scripted {
    dir: TempDir,
    seen: Seen,
}

impl Scripted {
    fn start() -> (Self, Client) {
        let dir = tempfile::tempdir().unwrap();
        let seen = Seen::default();
        let routes = Router::new()
            .route("/api/vms", any(problem))
            .route("/api/vms/{vm}", get(describe))
            .route("/api/vms/{vm}/files", put(take_file).get(give_file))
            .route("/api/vms/{vm}/exec", get(exec))
            .route("/api/vms/{vm}/lease", get(lease))
            .route("/health", get(|| async { "{}" }))
            .with_state(Arc::clone(&seen));
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (Self { dir, seen }, Client::unix(path))
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn problem(State(seen): State<Seen>, body: Bytes) -> Response {
    seen.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
    let problem = Problem::new(Code::NameInUse, "the name web is taken; choose another");
    let status = StatusCode::from_u16(problem.status).unwrap();
    (status, Json(problem)).into_response()
}

async fn describe(
    State(seen): State<Seen>,
    Path(vm): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    seen.lock().unwrap().push(format!("{vm}?{}", query.unwrap_or_default()));
    (StatusCode::NOT_FOUND, "this is no problem+json").into_response()
}

async fn take_file(
    State(seen): State<Seen>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    let mut total = 0;
    let mut whole = true;
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        match part {
            Ok(data) => total += data.len(),
            Err(_) => whole = false,
        }
    }
    let kind = headers["content-type"].to_str().unwrap();
    let line = format!("{} {kind} {total} whole={whole}", query.unwrap());
    seen.lock().unwrap().push(line);
    StatusCode::NO_CONTENT
}

async fn give_file() -> Body {
    let parts = (0..100u8).map(|n| Ok::<_, io::Error>(Bytes::from(vec![n; 1000])));
    Body::from_stream(stream::iter(parts))
}

async fn exec(
    State(seen): State<Seen>,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Response {
    seen.lock().unwrap().push(query.unwrap());
    upgrade.protocols([SUBPROTOCOL]).on_upgrade(|socket| echo(socket, seen))
}

/// Says back what it reads until its stdin ends.
async fn echo(mut socket: WebSocket, seen: Seen) {
    assert_eq!(socket.protocol().unwrap(), SUBPROTOCOL);
    while let Some(Ok(Message::Binary(data))) = socket.recv().await {
        match data[0] {
            0 => {
                let mut out = vec![1];
                out.extend_from_slice(&data[1..]);
                socket.send(Message::Binary(out.into())).await.unwrap();
            }
            255 => break,
            channel => {
                let text = String::from_utf8_lossy(&data[1..]).into_owned();
                seen.lock().unwrap().push(format!("{channel}: {text}"));
            }
        }
    }
    socket.send(Message::Binary(Bytes::from_static(b"\x02oops"))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(b"\x09from a later version"))).await.unwrap();
    let status = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]},"metadata":{}}"#;
    let mut last = vec![3];
    last.extend_from_slice(status);
    socket.send(Message::Binary(last.into())).await.unwrap();
}

async fn lease(Path(vm): Path<String>, upgrade: WebSocketUpgrade) -> Response {
    if vm == "gone" {
        let problem = Problem::new(Code::NotFound, "there is no VM gone");
        return (StatusCode::NOT_FOUND, Json(problem)).into_response();
    }
    upgrade.on_upgrade(|mut socket| async move {
        for phase in ["starting", "running"] {
            let text = format!(r#"{{"phase":"{phase}"}}"#);
            socket.send(Message::Text(text.into())).await.unwrap();
        }
    })
}

#[tokio::test]
async fn a_refusal_comes_back_as_the_agent_s_problem() {
    let (agent, client) = Scripted::start();
    let request = VmCreate { image: Some("base".into()), start: true, ..VmCreate::default() };
    let error = client.create_vm(&request).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NameInUse));
    assert_eq!(error.to_string(), "the name web is taken; choose another");
    let sent: VmCreate = serde_json::from_str(&agent.seen()[0]).unwrap();
    assert_eq!(sent, request);
}

#[tokio::test]
async fn an_answer_of_another_kind_is_shown_and_not_guessed_at() {
    let (agent, client) = Scripted::start();
    let wait = Duration::from_millis(1500);
    let error = client.wait_vm("web", inn_units::Generation(3), wait).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    assert!(error.to_string().contains("404 this is no problem+json"), "{error}");
    assert_eq!(agent.seen(), ["web?wait=1500ms&generation=3"]);
    assert!(matches!(client.health().await.unwrap_err(), ClientError::Protocol { .. }));
}

#[tokio::test]
async fn a_socket_without_an_agent_is_named() {
    let (agent, _) = Scripted::start();
    let path = agent.dir.path().join("other.sock");
    let error = Client::unix(&path).vms().await.unwrap_err();
    let ClientError::Unreachable { target, source } = error else { panic!("{error}") };
    assert_eq!(target, path.display().to_string());
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn files_stream_both_ways() {
    let (agent, client) = Scripted::start();
    let content = stream::iter((0..50).map(|_| Ok(Bytes::from(vec![b'x'; 64 << 10]))));
    let write = FileWrite { path: "/in/a b", format: FileFormat::Raw, mode: Some(0o100_755) };
    client.write_file("web", write, content).await.unwrap();
    assert_eq!(
        agent.seen(),
        ["path=%2Fin%2Fa%20b&format=raw&mode=0755 application/octet-stream 3276800 whole=true"]
    );
    let mut parts = client.read_file("web", "/x", FileFormat::Tar).await.unwrap();
    let mut total = 0;
    while let Some(part) = parts.next().await {
        total += part.unwrap().len();
    }
    assert_eq!(total, 100_000);
}

#[tokio::test]
async fn a_source_that_fails_never_looks_like_a_whole_file() {
    let (agent, client) = Scripted::start();
    let content = stream::iter([
        Ok(Bytes::from_static(b"half of it")),
        Err(io::Error::other("it shrank while it was read")),
    ]);
    let write = FileWrite { path: "/in/x", format: FileFormat::Tar, mode: None };
    let error = client.write_file("web", write, content).await.unwrap_err();
    let ClientError::Broken { source, .. } = &error else { panic!("{error}") };
    let mut chain = vec![source.to_string()];
    let mut next = source.source();
    while let Some(cause) = next {
        chain.push(cause.to_string());
        next = cause.source();
    }
    assert!(chain.iter().any(|text| text.contains("it shrank")), "{chain:?}");
    assert!(agent.seen().iter().all(|line| !line.contains("whole=true")), "{:?}", agent.seen());
}

#[tokio::test]
async fn exec_keeps_the_channels_apart() {
    let (agent, client) = Scripted::start();
    let request = ExecRequest {
        command: vec!["sh".into(), "-c".into(), "a & b".into()],
        env: vec![("K".into(), "v=1".into())],
        timeout: Some(Duration::from_secs(2)),
        stdin: true,
        tty: Some(TerminalSize { cols: 120, rows: 40 }),
        ..ExecRequest::default()
    };
    let (mut to, mut from) = client.exec("web", &request).await.unwrap();
    to.resize(TerminalSize { cols: 80, rows: 24 }).await.unwrap();
    to.signal("SIGINT").await.unwrap();
    to.stdin(b"hello").await.unwrap();
    assert_eq!(from.next().await.unwrap(), Some(ExecEvent::Stdout(Bytes::from_static(b"hello"))));
    to.close_stdin().await.unwrap();
    assert_eq!(from.next().await.unwrap(), Some(ExecEvent::Stderr(Bytes::from_static(b"oops"))));
    let Some(ExecEvent::Status(status)) = from.next().await.unwrap() else { panic!() };
    assert_eq!(Status::exit_code(&status), Some(7));
    assert_eq!(
        agent.seen(),
        [
            "command=sh&command=-c&command=a%20%26%20b&env=K%3Dv%3D1&timeout=2000ms&stdin=true\
             &stdout=true&tty=true&rows=40&cols=120",
            r#"4: {"Width":80,"Height":24}"#,
            "5: SIGINT",
        ]
    );
}

#[tokio::test]
async fn a_lease_tells_the_phases_and_then_its_end() {
    let (_agent, client) = Scripted::start();
    let mut lease = client.lease("web").await.unwrap();
    assert_eq!(lease.next().await.unwrap().map(|e| e.phase), Some(Phase::Starting));
    assert_eq!(lease.next().await.unwrap().map(|e| e.phase), Some(Phase::Running));
    assert!(!matches!(lease.next().await, Ok(Some(_))));
    assert!(client.lease("gone").await.unwrap_err().is_not_found());
}

#[test]
fn only_http_addresses_are_taken_and_the_token_is_never_shown() {
    for wrong in ["https://127.0.0.1:5100", "127.0.0.1:5100", "not a url", "http://"] {
        assert!(Client::tcp(wrong, None).unwrap_err().to_string().contains(wrong), "{wrong}");
    }
    let client = Client::tcp("http://127.0.0.1:5100", Some("hush".into())).unwrap();
    assert!(!format!("{client:?}").contains("hush"));
}
