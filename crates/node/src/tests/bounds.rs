//! What the API bounds, over the sockets that it is bounded on.

use std::time::Duration;

use futures_util::StreamExt;
use hyper::Request;
use inn_vmm_sim::Behaviour;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::PATIENCE;
use super::access::Caller;
use super::agent::TestAgent;
use super::client::send_tcp;

async fn agent(limits: &[(&str, &str)]) -> TestAgent {
    let mut flags = vec![("api_listen", "127.0.0.1:0")];
    flags.extend(limits);
    TestAgent::with(&flags, Behaviour::default()).await
}

/// All that comes back for these bytes until the connection is closed.
async fn raw(stream: &mut TcpStream, bytes: &[u8]) -> String {
    // Closed on a sender that still sends.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    let reading = async {
        while let Ok(n @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..n]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the agent closes the connection");
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_too_often_waits_and_nobody_else_does() {
    let agent = agent(&[("api.rate", "2")]).await;
    let busy = Caller::new(&agent, json!({ "scope": "read" })).await;
    let other = Caller::new(&agent, json!({ "scope": "read" })).await;
    let mut refused = None;
    for _ in 0..1_000 {
        let answer = busy.get("/api/vms").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a thousand requests are too many");
    assert_eq!(refused.problem().0, 429);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(other.get("/api/vms").await.status, 200);
    for _ in 0..20 {
        assert_eq!(agent.client.get("/api/vms").await.status, 200, "the host's owner");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_slowed_down_and_keeps_no_owner_of_a_token_out() {
    let agent = agent(&[("api.strangers_rate", "1")]).await;
    let caller = Caller::new(&agent, json!({ "scope": "read" })).await;
    let guess = |n: u32| {
        let request = Request::get("/api/vms")
            .header("host", "localhost")
            .header("authorization", format!("Bearer inn_{n:064}"));
        send_tcp(agent.tcp(), request)
    };
    let mut last = 0;
    for n in 0..1_000 {
        last = guess(n).await.problem().0;
        if last != 401 {
            break;
        }
    }
    assert_eq!(last, 429);
    let wrong_host = Request::get("/api/vms").header("host", "evil.example");
    assert_eq!(send_tcp(agent.tcp(), wrong_host).await.problem().0, 429);
    assert_eq!(caller.get("/api/vms").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_for_each_peer_and_the_owner_gets_in() {
    let agent = agent(&[("api.connections_per_peer", "3")]).await;
    let caller = Caller::new(&agent, json!({ "scope": "read" })).await;
    let mut open = Vec::new();
    let refused = loop {
        let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
        if open.len() == 3 {
            break raw(&mut stream, b"").await;
        }
        // Answered, hence taken.
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        open.push(stream);
    };
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("retry-after"), "{refused}");
    assert_eq!(agent.client.get("/api/vms").await.status, 200, "the unix socket");
    drop(open);
    let comes_back = async {
        loop {
            let mut stream = TcpStream::connect(caller.address).await.unwrap();
            let ask = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            if raw(&mut stream, ask).await.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, comes_back).await.expect("places come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_never_ends_is_not_waited_for() {
    let agent = agent(&[("api.header_timeout", "200ms")]).await;
    let mut slow = TcpStream::connect(agent.tcp()).await.unwrap();
    let answer = raw(&mut slow, b"GET /health HTTP/1.1\r\nhost: loc").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut silent = TcpStream::connect(agent.tcp()).await.unwrap();
    assert_eq!(raw(&mut silent, b"").await, "", "who has asked nothing hears nothing");
    // And the next head on a connection.
    let mut second = TcpStream::connect(agent.tcp()).await.unwrap();
    second.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    second.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let answer = raw(&mut second, b"GET /hea").await;
    assert!(answer.contains("HTTP/1.1 408 "), "{answer}");
    assert_eq!(agent.client.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_bounded_in_size_and_in_number() {
    let agent = agent(&[("api.header_size", "8192"), ("api.headers", "16")]).await;
    let head = |more: &str| {
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n")
    };
    let ask = async |more: &str| {
        let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
        raw(&mut stream, head(more).as_bytes()).await
    };
    let few: String = (0..10).map(|n| format!("x-{n}: y\r\n")).collect();
    assert!(ask(&few).await.starts_with("HTTP/1.1 200"));
    let many: String = (0..20).map(|n| format!("x-{n}: y\r\n")).collect();
    assert!(ask(&many).await.starts_with("HTTP/1.1 431"));
    let long = format!("x: {}\r\n", "y".repeat(4_000));
    assert!(ask(&long).await.starts_with("HTTP/1.1 200"));
    let too_long = format!("x: {}\r\n", "y".repeat(20_000));
    assert!(ask(&too_long).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_is_bounded() {
    let agent = agent(&[]).await;
    let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
    let target = format!("/health?{}", "x".repeat(66_000));
    let head = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(raw(&mut stream, head.as_bytes()).await.starts_with("HTTP/1.1 414"));
}

/// A request over TCP with a body that is sent as it is.
fn upload(caller: &Caller, path: &str, more: &str, body: &str) -> Vec<u8> {
    let method = if path.contains("/files") { "PUT" } else { "POST" };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {}\r\n{more}\r\n{body}",
        caller.token
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_go_on_is_not_waited_for() {
    let agent = agent(&[("api.body_timeout", "300ms")]).await;
    agent.create("web", json!({})).await;
    let caller = Caller::new(&agent, json!({ "scope": "operate" })).await;
    let json = "content-type: application/json\r\ncontent-length: 100\r\n";
    let keyed = format!("{json}idempotency-key: k\r\n");
    for more in [json, &keyed] {
        let mut slow = TcpStream::connect(agent.tcp()).await.unwrap();
        let answer = raw(&mut slow, &upload(&caller, "/api/vms", more, "{\"name\"")).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("\"request-timeout\"") && answer.contains("api.body_timeout"));
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(agent.client.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_json_or_too_much_of_it_says_so_by_its_status() {
    let agent = agent(&[]).await;
    let caller = Caller::new(&agent, json!({ "scope": "operate" })).await;
    let small = |kind: &str| format!("{kind}content-length: 2\r\n");
    let large = "x".repeat(2 << 20);
    let large_head = format!("content-type: application/json\r\ncontent-length: {}\r\n", 2 << 20);
    let chunks = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", 2 << 20);
    let keyed = format!("{large_head}idempotency-key: k\r\n");
    for (more, body, status, code) in [
        (small("content-type: text/plain\r\n"), "{}", 415, "unsupported-media-type"),
        (small(""), "{}", 415, "unsupported-media-type"),
        (small("content-type: application/json\r\n"), "{]", 400, "invalid-request"),
        (small("content-type: application/json\r\n"), "[]", 400, "invalid-request"),
        (small("content-type: application/merge-patch+json\r\n"), "{}", 400, "invalid-request"),
        (large_head.clone(), &large, 413, "body-too-large"),
        (keyed.clone(), &large, 413, "body-too-large"),
        (chunks.to_owned(), &chunked, 413, "body-too-large"),
    ] {
        let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
        let answer = raw(&mut stream, &upload(&caller, "/api/vms", &more, body)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{more}: {answer}");
        assert!(answer.contains(&format!("\"{code}\"")), "{more}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_of_the_api_change_with_a_reload() {
    let agent = agent(&[]).await;
    let caller = Caller::new(&agent, json!({ "scope": "read" })).await;
    let file = agent.dir.path().join("agent.toml");
    let set = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        agent.client.post("/api/node/reload", &json!({})).await.ok()
    };
    let most = "api.rate = 1\napi.hosts = \"node-9.example\"\napi.header_size = 8192\n\
                api.body_timeout = \"5s\"\n";
    let reload = set(most).await;
    assert_eq!(reload["waiting"], json!([]), "{reload}");
    assert_eq!(reload["changed"].as_array().unwrap().len(), 4, "{reload}");
    let host = Request::get("/health").header("host", "node-9.example");
    assert_eq!(send_tcp(agent.tcp(), host).await.status, 200);
    let mut last = 0;
    for _ in 0..1_000 {
        last = caller.get("/api/vms").await.status;
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 429, "the new rate");
    let head = format!(
        "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: {}\r\n\r\n",
        "y".repeat(20_000)
    );
    let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
    assert!(raw(&mut stream, head.as_bytes()).await.starts_with("HTTP/1.1 431"));
    drop(stream);
    // Last: until the agent has seen the end of a connection, it counts.
    let reload = set(&format!("{most}api.connections_per_peer = 2\n")).await;
    assert_eq!(reload["changed"].as_array().unwrap().len(), 1, "{reload}");
    let mut open = Vec::new();
    let refused = async {
        loop {
            let mut stream = TcpStream::connect(agent.tcp()).await.unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.unwrap();
            if &status == b"HTTP/1.1 429" {
                return;
            }
            open.push(stream);
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the new number of connections");
    assert!(open.len() <= 2, "{}", open.len());
    drop(open);
    // Back to what there was, at once.
    let reload = set("").await;
    assert_eq!(reload["changed"].as_array().unwrap().len(), 5, "{reload}");
    // At the rate before it would take longer than anybody waits here.
    let many = async {
        let mut good = 0;
        while good < 200 {
            good += u32::from(caller.get("/api/vms").await.status == 200);
        }
    };
    tokio::time::timeout(PATIENCE, many).await.expect("the old rate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_this_host_are_ours_once_they_are_told() {
    let agent = agent(&[("api.hosts", "node-1.example")]).await;
    let caller = Caller::new(&agent, json!({ "scope": "read" })).await;
    for (host, status) in [("node-1.example:5100", 200), ("node-2.example", 403)] {
        let request = Request::get("/api/vms")
            .header("host", host)
            .header("authorization", format!("Bearer {}", caller.token));
        assert_eq!(send_tcp(agent.tcp(), request).await.status, status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_of_another_site_s_page_is_refused_and_a_revoked_token_ends_one() {
    let agent = agent(&[]).await;
    agent.create("web", json!({})).await;
    let caller = Caller::new(&agent, json!({ "scope": "operate", "name": "shell" })).await;
    let open = async |origin: Option<&str>| {
        let url = format!("ws://{}/api/vms/web/console", caller.address);
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        let bearer = format!("Bearer {}", caller.token);
        headers.insert("authorization", bearer.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(caller.address).await.unwrap();
        tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
    };
    match open(Some("http://evil.example")).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), 403),
        other => panic!("{other:?}"),
    }
    let own = format!("http://{}", caller.address);
    let mut socket = open(Some(&own)).await.unwrap();
    let mut lease = open(None).await.unwrap();

    // And a stream that goes on for ever.
    let mut logs = TcpStream::connect(caller.address).await.unwrap();
    let follow = format!(
        "GET /api/vms/web/logs?follow=true HTTP/1.1\r\nhost: localhost\r\n\
         authorization: Bearer {}\r\n\r\n",
        caller.token
    );
    logs.write_all(follow.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    logs.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");

    agent.client.delete("/api/tokens/shell").await.ok();
    let ends = async {
        while let Some(Ok(_)) = socket.next().await {}
        while let Some(Ok(_)) = lease.next().await {}
        raw(&mut logs, b"").await
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("they end with their token");
    assert!(open(None).await.is_err());
    // Tokens that expire end alike.
    let brief = Caller::new(&agent, json!({ "scope": "operate", "ttlSeconds": 1 })).await;
    let gone = async {
        while brief.get("/api/vms").await.status == 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its time is over");
}
