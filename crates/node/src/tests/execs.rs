//! Execs as clients of Kubernetes see them, and those that outlive theirs.

use futures_util::{SinkExt, StreamExt};
use inn_api::ExecCreate;
use inn_api::exec::{SUBPROTOCOL, SUBPROTOCOL_4, Status};
use inn_client::{Client, ExecEvent, ExecReceiver, ExecRequest};
use inn_vmm_sim::Behaviour;
use serde_json::json;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::PATIENCE;
use super::agent::TestAgent;
use super::real_guest::RealGuest;

fn client(agent: &TestAgent) -> Client {
    Client::unix(agent.node.config.paths.api_socket())
}

fn sleep() -> ExecCreate {
    ExecCreate { command: vec!["sleep".into(), "infinity".into()], ..ExecCreate::default() }
}

async fn next(socket: &mut WebSocketStream<UnixStream>) -> (u8, Vec<u8>) {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Binary(data) => return (data[0], data[1..].to_vec()),
            Message::Close(_) => panic!("closed before its end"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_the_protocol_are_spoken() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    // As the Python client asks, and as it sends a str.
    let path = "/api/vms/web/exec?command=cat&stdin=True&stdout=True&stderr=True&tty=False\
                &container=main";
    for protocol in [SUBPROTOCOL_4, SUBPROTOCOL] {
        let mut socket = agent.client.websocket_of(path, Some(protocol)).await.unwrap();
        for channel in [0, 1, 2] {
            socket.send(Message::Binary(vec![channel].into())).await.unwrap();
        }
        socket.send(Message::Text("\0as text".into())).await.unwrap();
        assert_eq!(next(&mut socket).await, (1, b"as text".to_vec()), "{protocol}");
        // Only the fifth version has a half-close.
        socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
        if protocol == SUBPROTOCOL_4 {
            socket.send(Message::Binary(b"\0more".to_vec().into())).await.unwrap();
            assert_eq!(next(&mut socket).await, (1, b"more".to_vec()));
            socket.send(Message::Binary(b"\x05SIGKILL".to_vec().into())).await.unwrap();
        }
        let (channel, status) = next(&mut socket).await;
        let status: Status = serde_json::from_slice(&status).unwrap();
        let code = if protocol == SUBPROTOCOL { 0 } else { 137 };
        assert_eq!((channel, status.exit_code()), (3, Some(code)), "{status:?}");
    }
    assert!(agent.client.websocket_of(path, None).await.is_ok(), "as one who names none");
    let refused = agent.client.websocket_of(path, Some("v9.channel.k8s.io")).await;
    assert!(refused.unwrap_err().to_string().contains("400"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_exec_is_found_attached_to_and_ended() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let client = client(&agent);
    let echo = ExecCreate { shell: Some("echo hello".into()), ..ExecCreate::default() };
    let echo = client.create_exec("web", &echo).await.unwrap();
    let made = client.create_exec("web", &sleep()).await.unwrap();
    assert!(made.running && made.detached && !made.workload, "{made:?}");
    let (id, echo) = (made.id.to_string(), echo.id.to_string());
    assert_eq!(client.exec_info("web", &id).await.unwrap().id, made.id);
    let all = client.execs("web").await.unwrap().items;
    assert_eq!(all.iter().filter(|exec| exec.workload).count(), 1, "{all:?}");

    // Whoever leaves lets it run on, and finds it again.
    let (to, from) = client.attach_exec("web", &id, 0, false).await.unwrap();
    drop((to, from));
    let (_to, mut from) = client.attach_exec("web", &id, 0, false).await.unwrap();
    client.signal_exec("web", &id, "TERM").await.unwrap();
    let event = tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap();
    let Some(ExecEvent::Status(status)) = event else { panic!("{event:?}") };
    assert_eq!((status.exit_code(), status.cause("Signal")), (Some(143), Some("SIGTERM")));
    let ended = client.exec_info("web", &id).await.unwrap();
    assert_eq!(ended.ended.unwrap().signal.as_deref(), Some("SIGTERM"));

    let (_to, mut from) = client.attach_exec("web", &echo, 2, false).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap();
    assert_eq!(event, Some(ExecEvent::Stdout("llo\n".into())), "from the offset on");

    client.delete_exec("web", &id).await.unwrap();
    assert!(client.exec_info("web", &id).await.unwrap_err().is_not_found());
    let running = client.create_exec("web", &sleep()).await.unwrap().id.to_string();
    client.delete_exec("web", &running).await.unwrap();
    let left = client.execs("web").await.unwrap().items;
    assert!(left.iter().all(|exec| exec.name != running && exec.name != id), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_to_an_exec_is_said() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let client = client(&agent);
    let made = client.create_exec("web", &sleep()).await.unwrap().id.to_string();
    let workload = client.execs("web").await.unwrap().items;
    let workload = workload.iter().find(|exec| exec.workload).unwrap().name.clone();
    let post = |path: String, body| {
        let client = agent.client.clone();
        async move { client.post(&path, &body).await.problem() }
    };
    let execs = || "/api/vms/web/execs".to_owned();
    for (path, body, code) in [
        (execs(), json!({}), "invalid-request"),
        (execs(), json!({ "command": ["a"], "shell": "b" }), "invalid-request"),
        (execs(), json!({ "command": ["a"], "timeout": "soon" }), "invalid-request"),
        (execs(), json!({ "command": ["a"], "retainBytes": 1 << 30 }), "invalid-request"),
        (execs(), json!({ "command": ["nonesuch"] }), "not-found"),
        (format!("{}/{made}/signal", execs()), json!({ "signal": "NONE" }), "invalid-request"),
        (format!("{}/0000000000000000/signal", execs()), json!({ "signal": "9" }), "not-found"),
        (format!("{}/nonsense/signal", execs()), json!({ "signal": "9" }), "not-found"),
    ] {
        let (_, got, detail) = post(path.clone(), body.clone()).await;
        assert_eq!(got, code, "{path} {body}: {detail}");
    }
    let refused = client.delete_exec("web", &workload).await.unwrap_err().to_string();
    assert!(refused.contains("the workload of VM web"), "{refused}");
    let (_to, mut from) = client.attach_exec("web", "0000000000000000", 0, false).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap();
    let Some(ExecEvent::Status(status)) = event else { panic!("{event:?}") };
    assert_eq!((status.reason.as_str(), status.exit_code()), ("not-found", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_s_maximum_caps_every_exec_and_says_so() {
    let flags = [("exec.max_timeout", "300ms")];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let client = client(&agent);
    for (timeout, by_node) in
        [(None, true), (Some(3600), true), (Some(0), false)].map(|(seconds, by_node)| {
            let timeout = seconds.map(|s: u64| Duration::from_secs(s) + Duration::from_millis(50));
            (timeout, by_node)
        })
    {
        let command = vec!["sleep".into(), "infinity".into()];
        let request = ExecRequest { command, timeout, ..ExecRequest::default() };
        let (_to, mut from) = client.exec("web", &request).await.unwrap();
        let event = tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap();
        let Some(ExecEvent::Status(status)) = event else { panic!("{event:?}") };
        let limit = if by_node { "300ms" } else { "50ms" };
        assert_eq!(status.cause("Timeout"), Some(limit), "{status:?}");
        let said = format!("the node's maximum of {limit} (exec.max_timeout)");
        assert_eq!(status.message.contains(&said), by_node, "{status:?}");
    }
    let made = client.create_exec("web", &sleep()).await.unwrap().id.to_string();
    let (_to, mut from) = client.attach_exec("web", &made, 0, false).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap();
    let Some(ExecEvent::Status(status)) = event else { panic!("{event:?}") };
    assert!(status.message.contains("exec.max_timeout"), "{status:?}");
    assert!(client.exec_info("web", &made).await.unwrap().ended.unwrap().timed_out);
    assert_eq!(agent.vm("web").await["workload"]["running"], true, "a workload is no exec");
}

/// The output of an exec to its end, and its status.
async fn collect(mut from: ExecReceiver) -> (String, Status) {
    let mut out = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap() {
            Some(ExecEvent::Stdout(data)) => out.extend_from_slice(&data),
            Some(ExecEvent::Status(status)) => return (String::from_utf8(out).unwrap(), status),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_output_says_how_much_it_cut() {
    let guest = RealGuest::start();
    let agent = TestAgent::with(&[], guest.behaviour()).await;
    agent.create("web", json!({ "workload": "none" })).await;
    let shell = Some("printf 0123456789; printf abcdef".to_owned());
    let request = ExecRequest { shell, output_limit: Some(12), ..ExecRequest::default() };
    let (_to, from) = client(&agent).exec("web", &request).await.unwrap();
    let (out, status) = collect(from).await;
    assert_eq!((out.as_str(), status.exit_code()), ("0123456789ab", Some(0)));
    assert_eq!(status.cause("Truncated"), Some("4"));
    assert!(status.message.contains("4 bytes of its output were cut"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_exec_outlives_the_agent() {
    let guest = RealGuest::start();
    let mut agent = TestAgent::with(&[], guest.behaviour()).await;
    agent.create("web", json!({ "workload": "none" })).await;
    let shell = Some("echo before; read line; echo after $line".to_owned());
    let create = ExecCreate { shell, stdin: true, ..ExecCreate::default() };
    let made = client(&agent).create_exec("web", &create).await.unwrap().id.to_string();
    agent.die().await;

    let agent = agent.live_on().await;
    agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
    let client = client(&agent);
    assert!(client.exec_info("web", &made).await.unwrap().running);
    let (mut to, from) = client.attach_exec("web", &made, 0, true).await.unwrap();
    to.stdin(b"it\n").await.unwrap();
    let (out, status) = collect(from).await;
    assert_eq!((out.as_str(), status.exit_code()), ("before\nafter it\n", Some(0)));
}
