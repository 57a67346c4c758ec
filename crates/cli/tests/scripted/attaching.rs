use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Query;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::agent::{Agent, Seen, finish, vm};

const ID: &str = "0123456789abcdef";

fn exec(running: bool) -> Value {
    json!({
        "id": ID, "name": ID, "command": ["./backup", "--all"], "pid": 7, "user": "root",
        "workload": false, "detached": true, "tty": false, "running": running,
        "startedAt": "2026-01-01T00:00:00Z", "restarts": 0, "outputStart": 2, "outputEnd": 8,
        "ended": (!running).then(|| json!({
            "exitCode": 3, "timedOut": false, "truncatedBytes": 0, "tookMs": 1,
        })),
    })
}

async fn say(socket: &mut WebSocket, channel: u8, text: &str) {
    let message = [&[channel], text.as_bytes()].concat();
    let _ = socket.send(Message::Binary(message.into())).await;
}

/// Output that breaks off after `one`; then the guest's agent is away; then it
/// goes on from the offset asked for, to its end with 3.
async fn play(mut socket: WebSocket, turn: usize) {
    match turn {
        0 => say(&mut socket, 1, "one\n").await,
        1 => {
            let status = json!({
                "status": "Failure", "reason": "guest-unavailable", "message": "it is away",
            });
            say(&mut socket, 3, &status.to_string()).await;
        }
        2 => {
            say(&mut socket, 2, "two\n").await;
            let status = json!({
                "status": "Failure", "reason": "NonZeroExitCode",
                "details": { "causes": [
                    { "reason": "ExitCode", "message": "3" },
                    { "reason": "Truncated", "message": "2048" },
                ] },
            });
            say(&mut socket, 3, &status.to_string()).await;
            let _ = socket.send(Message::Close(None)).await;
        }
        _ => {
            say(&mut socket, 1, "waiting\n").await;
            while let Some(Ok(_)) = socket.recv().await {}
        }
    }
}

fn routes(seen: &Seen, first: usize) -> Router {
    let turn = Arc::new(AtomicUsize::new(first));
    let (attached, created, signalled) = (seen.clone(), seen.clone(), seen.clone());
    let attach = move |Query(query): Query<HashMap<String, String>>, up: WebSocketUpgrade| async move {
        attached.add(format!("attach offset={} stdin={:?}", query["offset"], query.get("stdin")));
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        up.protocols(["v5.channel.k8s.io"]).on_upgrade(move |socket| play(socket, turn))
    };
    let create = move |Json(body): Json<Value>| async move {
        created.add(body.to_string());
        Json(exec(true))
    };
    let signal = move |Json(body): Json<Value>| async move {
        signalled.add(body.to_string());
        Response::<axum::body::Body>::default().into_response()
    };
    Router::new()
        .route("/api/vms/{vm}", get(|| async { Json(vm(1, "web", "running")) }))
        .route(
            "/api/vms/{vm}/execs",
            get(|| async { Json(json!({ "items": [exec(true), exec(false)] })) }).post(create),
        )
        .route("/api/vms/{vm}/execs/{exec}", get(|| async { Json(exec(true)) }))
        .route("/api/vms/{vm}/execs/{exec}/attach", get(attach))
        .route("/api/vms/{vm}/execs/{exec}/signal", post(signal))
}

#[tokio::test]
async fn a_detached_command_is_found_by_the_id_that_it_prints() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, 0));
    let output = agent
        .output(&["vm", "exec", "-d", "web", "--cmd", "a | b", "--timeout", "2s", "-e", "A=1"])
        .await;
    assert_eq!((output.code, output.stdout), (Some(0), format!("{ID}\n")), "{}", output.stderr);
    let body: Value = serde_json::from_str(&seen.lines()[0]).unwrap();
    assert_eq!((&body["shell"], &body["timeout"]), (&json!("a | b"), &json!("2000ms")));
    assert_eq!(body["env"], json!({ "A": "1" }));
    let listed = agent.output(&["vm", "execs", "web"]).await;
    let lines: Vec<_> = listed.stdout.lines().collect();
    assert!(lines[1].starts_with(ID) && lines[1].contains("running"), "{listed:?}");
    assert!(lines[2].contains("exited 3") && lines[2].ends_with("./backup --all"), "{listed:?}");
    let listed = agent.output(&["vm", "execs", "web", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (2, &json!(ID)));
    let killed = agent.output(&["vm", "kill", "web", ID, "-s", "usr1"]).await;
    assert_eq!((killed.code, killed.stdout), (Some(0), format!("{ID} got USR1\n")));
    assert!(seen.has(r#"{"signal":"USR1"}"#), "{seen:?}");
}

#[tokio::test]
async fn an_attach_goes_on_where_its_connection_broke_off() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, 0));
    let output = agent.output(&["vm", "attach", "web", ID]).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert_eq!(output.stdout, "one\n");
    assert!(output.stderr.contains("2B of the output are kept no more"), "{output:?}");
    assert!(output.stderr.contains("waiting for the agent"), "{output:?}");
    assert!(output.stderr.contains("two\n"), "{output:?}");
    assert!(output.stderr.contains("2KiB of output were dropped"), "{output:?}");
    let attach = |offset: u32| format!("attach offset={offset} stdin=None");
    assert_eq!(seen.lines(), [attach(2), attach(6), attach(6)]);
}

#[tokio::test]
async fn ctrl_c_leaves_and_says_how_to_go_on() {
    let agent = Agent::start(routes(&Seen::default(), 9));
    let mut child = agent.inn(&["vm", "attach", "web", ID, "--offset", "4"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).await.unwrap();
    assert_eq!(line, "waiting\n");
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    let output = finish(child).await;
    assert_eq!(output.code, Some(130), "{output:?}");
    let hint = format!("`inn vm attach web {ID} --offset 12` takes it up again");
    assert!(output.stderr.contains(&hint), "{output:?}");
}
