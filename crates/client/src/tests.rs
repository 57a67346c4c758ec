//! The client against a scripted agent: what goes over the wire, and what is
//! made of what comes back. The real agent stands above this crate.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{
    Client, ClientError, ExecEvent, ExecRequest, FileEvent, FileRead, FileWrite, StatsQuery,
};
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use inn_api::exec::{SUBPROTOCOL, Status, TerminalSize};
use inn_api::{
    BLOCK_SUM, ClockSet, Code, FileChange, FileChangeKind, FileWritten, Phase, Problem, Rename,
    SetHostname, SetSshKeys, Stats, VmCreate,
};
use jiff::Timestamp;
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
            .route("/api/vms/{vm}/files", put(take_file).get(give_file).delete(take_json))
            .route("/api/vms/{vm}/files/watch", get(changes))
            .route("/api/vms/{vm}/files/{what}", post(take_json).delete(take_json))
            .route("/api/vms/{vm}/guest/{what}", post(take_json).put(take_json))
            .route("/api/vms/{vm}/stats", get(stats))
            .route("/api/vms/{vm}/execs/{exec}/signal", post(take_json))
            .route("/api/vms/{vm}/execs/{exec}/attach", get(exec))
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
) -> Json<FileWritten> {
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
    let length = headers.get("content-length").map(|length| length.to_str().unwrap());
    let length = length.map(|length| format!(" of {length}")).unwrap_or_default();
    let line = format!("{} {kind} {total}{length} whole={whole}", query.unwrap());
    seen.lock().unwrap().push(line);
    Json(FileWritten { bytes: total as u64, block_sum: Some("ab".repeat(8)) })
}

async fn give_file(
    State(seen): State<Seen>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let of = |name| headers.get(name).map_or("-", |value| value.to_str().unwrap());
    let line = format!("{} {} {} {}", query.unwrap(), of("te"), of("range"), of("if-match"));
    seen.lock().unwrap().push(line);
    let mut trailers = HeaderMap::new();
    trailers.insert(BLOCK_SUM, HeaderValue::from_static("0001020304050607"));
    let parts = (0..100u8).map(|n| Ok::<_, io::Error>(Bytes::from(vec![n; 1000])));
    let frames = stream::iter(parts).map(|part| part.map(Frame::data));
    let frames = frames.chain(stream::once(async { Ok(Frame::trailers(trailers)) }));
    let part = of("range") != "-";
    let status = if part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let body = Body::new(StreamBody::new(frames));
    let headers =
        [("trailer", BLOCK_SUM), ("etag", "\"e\""), ("content-range", "bytes 500-100499/200000")];
    (status, headers, body).into_response()
}

async fn take_json(State(seen): State<Seen>, uri: Uri, method: Method, body: Bytes) -> Response {
    let path = uri.to_string();
    let text = String::from_utf8(body.to_vec()).unwrap();
    seen.lock().unwrap().push(format!("{method} {path} {text}").trim_end().to_owned());
    match path.rsplit('/').next().unwrap() {
        "clock" => Json(ClockSet { behind_ms: -5 }).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn stats(State(seen): State<Seen>, RawQuery(query): RawQuery) -> Json<Stats> {
    seen.lock().unwrap().push(query.unwrap_or_default());
    Json(Stats::default())
}

async fn changes() -> Body {
    let change = FileChange {
        kind: FileChangeKind::Renamed,
        path: "/srv/b".into(),
        from: Some("/srv/a".into()),
        directory: false,
    };
    let problem = Problem::new(Code::GuestUnavailable, "the guest is gone");
    let (change, problem) =
        (serde_json::to_string(&change).unwrap(), serde_json::to_string(&problem).unwrap());
    let text = format!(
        ":\n\nevent: change\ndata: {change}\n\nevent: overflow\ndata:\n\n\
         event: problem\ndata: {problem}\n\n"
    );
    Body::from(text)
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
    let content = || stream::iter((0..50).map(|_| Ok(Bytes::from(vec![b'x'; 64 << 10]))));
    let write = FileWrite {
        mode: Some(0o100_755),
        modified_at: Some(Timestamp::UNIX_EPOCH),
        upload: Some("0123456789abcdef".into()),
        offset: 100,
        length: Some(3_276_900),
        ..FileWrite::default()
    };
    let written = client.write_file("web", "/in/a b", &write, content()).await.unwrap();
    assert_eq!(written.bytes, 3_276_800);
    client.write_tree("web", "/in", content()).await.unwrap();
    let read = FileRead { offset: 500, length: Some(100_000), if_match: Some("\"e\"".into()) };
    let mut download = client.read_file("web", "/x", &read).await.unwrap();
    assert_eq!((download.etag(), download.length()), (Some("\"e\""), Some(100_000)));
    let mut total = 0;
    while let Some(part) = download.next().await {
        total += part.unwrap().len();
    }
    assert_eq!(total, 100_000);
    assert_eq!(download.block_sum(), Some(*b"\0\x01\x02\x03\x04\x05\x06\x07"));
    let mut tree = client.read_tree("web", "/x").await.unwrap();
    assert_eq!(tree.next().await.unwrap().unwrap()[0], 0);
    assert_eq!(
        agent.seen(),
        [
            "path=%2Fin%2Fa%20b&mode=0755&modified=1970-01-01T00%3A00%3A00Z\
             &upload=0123456789abcdef&offset=100 application/octet-stream 3276800 of 3276800 \
             whole=true",
            "path=%2Fin&format=tar application/x-tar 3276800 whole=true",
            "path=%2Fx trailers bytes=500-100499 \"e\"",
            "path=%2Fx&format=tar - - -",
        ]
    );
}

#[tokio::test]
async fn a_watch_tells_changes_and_why_it_ended() {
    let (_agent, client) = Scripted::start();
    let mut events = client.watch_files("web", "/srv", true).await.unwrap();
    let Some(Ok(FileEvent::Change(change))) = events.next().await else { panic!() };
    assert_eq!((change.path.as_str(), change.from.as_deref()), ("/srv/b", Some("/srv/a")));
    assert!(matches!(events.next().await, Some(Ok(FileEvent::Overflow))));
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::GuestUnavailable));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn each_method_asks_its_own_route() {
    let (agent, client) = Scripted::start();
    let last = Some(Duration::from_secs(600));
    client.stats("web", StatsQuery { last, fresh: true }).await.unwrap();
    client.signal_exec("web", "0123456789abcdef", "TERM").await.unwrap();
    client.remove_file("web", "/a", true).await.unwrap();
    client.drop_upload("web", "/a", "0123456789abcdef").await.unwrap();
    let rename = Rename { from: "/a".into(), to: "/b".into(), replace: true };
    client.rename("web", &rename).await.unwrap();
    assert_eq!(client.guest_clock("web").await.unwrap().behind_ms, -5);
    let hostname = SetHostname { hostname: "h".into() };
    client.guest_hostname("web", &hostname).await.unwrap();
    client.set_ssh_keys("web", &SetSshKeys::default()).await.unwrap();
    assert_eq!(
        agent.seen(),
        [
            "last=600000ms&fresh=true",
            r#"POST /api/vms/web/execs/0123456789abcdef/signal {"signal":"TERM"}"#,
            "DELETE /api/vms/web/files?path=%2Fa&recursive=true",
            "DELETE /api/vms/web/files/upload?path=%2Fa&upload=0123456789abcdef",
            r#"POST /api/vms/web/files/rename {"from":"/a","to":"/b","replace":true}"#,
            "POST /api/vms/web/guest/clock",
            r#"POST /api/vms/web/guest/hostname {"hostname":"h"}"#,
            r#"PUT /api/vms/web/guest/ssh-keys {"user":"","keys":[],"replace":false}"#,
        ]
    );
}

#[tokio::test]
async fn a_source_that_fails_never_looks_like_a_whole_file() {
    let (agent, client) = Scripted::start();
    let content = stream::iter([
        Ok(Bytes::from_static(b"half of it")),
        Err(io::Error::other("it shrank while it was read")),
    ]);
    let error = client.write_tree("web", "/in/x", content).await.unwrap_err();
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
        output_limit: Some(99),
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
            "command=sh&command=-c&command=a%20%26%20b&env=K%3Dv%3D1&timeout=2000ms\
             &output-limit=99&stdin=true&stdout=true&tty=true&rows=40&cols=120",
            r#"4: {"Width":80,"Height":24}"#,
            "5: SIGINT",
        ]
    );
    let (mut to, mut from) = client.attach_exec("web", "0123", 7, true).await.unwrap();
    to.close_stdin().await.unwrap();
    assert!(matches!(from.next().await.unwrap(), Some(ExecEvent::Stderr(_))));
    assert_eq!(agent.seen().last().unwrap(), "offset=7&stdin=true&stdout=true&stderr=true");
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

#[tokio::test]
async fn a_trace_goes_along_with_requests_and_channels() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let seen = Seen::default();
    let note = |State(seen): State<Seen>, headers: HeaderMap| async move {
        let told = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().push(told.unwrap_or_default());
        StatusCode::NOT_FOUND
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let routes = Router::new().fallback(note).with_state(Arc::clone(&seen));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let client = Client::unix(path);
    for client in [client.clone().in_trace(TRACE), client.clone().in_trace("no\nheader"), client] {
        client.vm("web").await.unwrap_err();
        client.exec("web", &ExecRequest::default()).await.err().unwrap();
    }
    assert_eq!(*seen.lock().unwrap(), [TRACE, TRACE, "", "", "", ""]);
}
