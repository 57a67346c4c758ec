use futures_util::{SinkExt, StreamExt};
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

use super::PATIENCE;
use super::agent::{TestAgent, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_output_input_and_an_exit_code() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let exec = |query: &str| format!("/api/vms/web/exec?stdout=true&stderr=true&{query}");
    let (out, err, status) =
        agent.client.exec(&exec("command=echo&command=a%20b&command=c"), "").await;
    assert_eq!((out.as_str(), err.as_str()), ("a b c\n", ""));
    assert_eq!(status["status"], "Success");

    let (_, _, status) = agent.client.exec(&exec("command=exit&command=7"), "").await;
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));

    let (out, _, status) = agent.client.exec(&exec("command=cat&stdin=true"), "through").await;
    assert_eq!((out.as_str(), status["status"].as_str()), ("through", Some("Success")));

    let (_, _, status) = agent.client.exec(&exec("command=nonesuch"), "").await;
    assert_eq!(status["status"], "Failure");
    assert_eq!(status["reason"], "not-found");
    assert!(status["message"].as_str().unwrap().contains("VM web"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_waits_for_a_vm_that_starts() {
    let slow =
        Behaviour { answers_after: Some(Duration::from_millis(300)), ..Behaviour::default() };
    let agent = TestAgent::with(&[], slow).await;
    let vm = agent.client.post("/api/vms", &request("slow", json!({ "workload": "none" }))).await;
    assert_eq!(vm.status, 202);
    let path = format!("{}/exec?command=echo&command=up&stdout=true", vm.location.unwrap());
    let (out, _, _) = agent.client.exec(&path, "").await;
    assert_eq!(out, "up\n");
    assert!(agent.vm("slow").await.get("workload").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_in_a_vm_that_is_down_says_so() {
    let agent = TestAgent::start().await;
    agent.create("down", json!({ "start": false })).await;
    let (_, _, status) = agent.client.exec("/api/vms/down/exec?command=true", "").await;
    assert_eq!(status["reason"], "conflict");
    assert!(status["message"].as_str().unwrap().contains("inn vm start down"), "{status}");
    for path in [
        "/api/vms/down/exec?comand=true",
        "/api/vms/none/exec?command=true",
        "/api/vms/down/console",
        "/api/vms/down/lease",
    ] {
        let refused = agent.client.try_websocket(path).await;
        assert!(refused.is_err(), "{path}");
        // And by a plain request, a problem says why.
        assert!(agent.client.get(path).await.problem().0 >= 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_the_vm_s_life() {
    let agent = TestAgent::start().await;
    let more = json!({ "lease": true, "workload": "none" });
    agent.client.post("/api/vms", &request("leased", more.clone())).await.ok();
    let mut lease = agent.client.websocket("/api/vms/leased/lease").await;
    let second = agent.client.try_websocket("/api/vms/leased/lease").await;
    assert!(second.is_err(), "one lease, one holder");
    let mut phases = Vec::new();
    while phases.last().is_none_or(|phase| phase != "running") {
        let message = tokio::time::timeout(PATIENCE, lease.next()).await.unwrap().unwrap().unwrap();
        let Message::Text(text) = message else { panic!("{message:?}") };
        let event: Value = serde_json::from_str(&text).unwrap();
        phases.push(event["phase"].as_str().unwrap().to_owned());
    }
    // Gone without a word, as a client does that is killed.
    drop(lease);
    agent.until_gone("leased").await;
    assert_eq!(agent.files_of_vms(), Vec::<String>::new());

    // Whoever deletes the VM ends the lease.
    agent.client.post("/api/vms", &request("leased", more.clone())).await.ok();
    let mut lease = agent.client.websocket("/api/vms/leased/lease").await;
    agent.client.delete("/api/vms/leased?force=true").await.ok();
    let closed = async {
        loop {
            match lease.next().await {
                Some(Ok(Message::Text(_))) => {}
                other => return other,
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert!(matches!(end, Some(Ok(Message::Close(_)))), "{end:?}");
    agent.until_gone("leased").await;

    // A lease of an earlier life is over.
    let mut agent = agent;
    agent.client.post("/api/vms?wait=60s", &request("leased", more)).await.ok();
    agent.die().await;
    let agent = agent.live_again(Behaviour::default()).await;
    agent.until_gone("leased").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_s_output_and_end_are_kept() {
    let agent = TestAgent::start().await;
    agent.import("greets", &["echo", "from the image"]).await;
    agent.create("greets", json!({ "image": "greets" })).await;
    let vm = agent.until("greets", |vm| vm["workload"]["running"] == false).await;
    assert_eq!(vm["workload"]["exitCode"], 0);
    assert_eq!(vm["phase"], "running", "its end is not the VM's");
    let log = agent.client.get("/api/vms/greets/logs?follow=true").await;
    assert_eq!((log.status, &log.body[..]), (200, &b"from the image\n"[..]));

    let more = json!({ "image": "greets", "command": ["echo", "one\ntwo"], "env": { "K": "V" } });
    agent.create("other", more).await;
    agent.until("other", |vm| vm["workload"]["running"] == false).await;
    let log = agent.client.get("/api/vms/other/logs?source=workload&tail=1").await;
    assert_eq!(&log.body[..], b"two\n");

    agent.create("none", json!({ "command": ["nonesuch"] })).await;
    let vm = agent.until("none", |vm| vm["workload"]["running"] == false).await;
    assert!(vm["workload"]["reason"].is_string(), "{vm}");
    assert_eq!(vm["phase"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_is_a_stream_both_ways() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let mut console = agent.client.websocket("/api/vms/web/console").await;
    console.send(Message::Binary(b"\n".to_vec().into())).await.unwrap();
    agent.client.post("/api/vms/web/stop?force=true&wait=60s", &json!({})).await.ok();
    let closed = async {
        while let Some(Ok(message)) = console.next().await {
            if message.is_close() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the console ends with its machine");
}
