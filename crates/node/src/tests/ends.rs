//! How machines come to their ends, and what is told of it.

use std::time::Duration;

use inn_vmm::MachineEnd;
use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_says_whether_it_was_graceful() {
    let mut agent = TestAgent::start().await;
    let vm = agent.create("web", json!({})).await;
    assert!(vm.get("lastEnd").is_none(), "{vm}");
    let vm = agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["lastEnd"]["how"], "graceful", "{vm}");
    assert!(vm["lastEnd"].get("reason").is_none() && vm["lastEnd"]["tookMs"].is_u64(), "{vm}");

    agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
    let vm = agent.client.post("/api/vms/web/restart?wait=60s&force=true", &json!({})).await.ok();
    assert_eq!(
        (vm["phase"].as_str(), vm["lastEnd"]["how"].as_str()),
        (Some("running"), Some("forced"))
    );
    assert!(vm["lastEnd"]["reason"].as_str().unwrap().contains("asked to"), "{vm}");
    let vm = agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["lastEnd"]["how"], "graceful", "{vm}");

    agent.client.post("/api/vms/web/stop?wait=60s&force=true", &json!({})).await.ok();
    agent.die().await;
    let agent = agent.live_on().await;
    assert_eq!(agent.vm("web").await["lastEnd"]["how"], "forced", "also in the next life");
    agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
    let gone = agent.client.delete("/api/vms/web?wait=60s").await.ok();
    assert_eq!(gone["lastEnd"]["how"], "graceful", "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_not_graceful_says_why() {
    let stubborn = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[], stubborn).await;
    agent.create("stubborn", json!({})).await;
    let stop = "/api/vms/stubborn/stop?timeout=300ms&wait=60s";
    let vm = agent.client.post(stop, &json!({})).await.ok();
    let end = &vm["lastEnd"];
    assert_eq!(end["how"], "forced", "{vm}");
    assert!(end["reason"].as_str().unwrap().contains("within 300 ms"), "{vm}");
    assert!(end["tookMs"].as_u64().unwrap() >= 300, "{vm}");

    let panic = Some((Duration::from_millis(300), MachineEnd::Panicked));
    let agent = agent.live_again(Behaviour { ends_after: panic, ..Behaviour::default() }).await;
    agent.create("panics", json!({})).await;
    let vm = agent.until("panics", |vm| vm["phase"] == "failed").await;
    let end = &vm["lastEnd"];
    assert_eq!((end["how"].as_str(), end.get("tookMs")), (Some("by-itself"), None), "{vm}");
    assert!(end["reason"].as_str().unwrap().contains("panicked"), "{vm}");

    let silent = Behaviour { answers_after: None, ..Behaviour::default() };
    let agent = agent.live_again(silent).await;
    let request = super::agent::request("boots", json!({}));
    agent.client.post("/api/vms", &request).await.ok();
    agent.until("boots", |vm| vm["guest"]["link"] == "connecting").await;
    let vm = agent.client.post("/api/vms/boots/stop?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["lastEnd"]["how"], "forced", "{vm}");
    assert!(vm["lastEnd"]["reason"].as_str().unwrap().contains("not answered yet"), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_right_after_a_restart_of_the_agent_asks_the_guest() {
    let mut agent = TestAgent::start().await;
    for name in ["stops", "restarts", "goes"] {
        agent.create(name, json!({})).await;
    }
    agent.die().await;
    // The guests are slow, so that the requests come before their sessions.
    let slow = Some(Duration::from_secs(2));
    let agent = agent.live_again(Behaviour { answers_after: slow, ..Behaviour::default() }).await;
    assert_eq!(agent.vm("stops").await["guest"]["link"], "lost");
    let none = json!({});
    let (stopped, restarted, gone) = tokio::join!(
        agent.client.post("/api/vms/stops/stop?wait=60s", &none),
        agent.client.post("/api/vms/restarts/restart?wait=60s", &none),
        agent.client.delete("/api/vms/goes?wait=60s"),
    );
    for (vm, phase) in
        [(stopped.ok(), "stopped"), (restarted.ok(), "running"), (gone.ok(), "deleting")]
    {
        assert_eq!(
            (vm["phase"].as_str(), vm["lastEnd"]["how"].as_str()),
            (Some(phase), Some("graceful")),
            "{vm}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_come_back_is_forced_within_the_grace() {
    let mut agent = TestAgent::start().await;
    for name in ["patient", "impatient"] {
        agent.create(name, json!({})).await;
    }
    agent.die().await;
    let silent = Behaviour { answers_after: None, ..Behaviour::default() };
    let agent = agent.live_again(silent).await;
    let vm = agent.client.post("/api/vms/patient/stop?timeout=1s&wait=60s", &json!({})).await.ok();
    let end = &vm["lastEnd"];
    assert_eq!(end["how"], "forced", "{vm}");
    assert!(end["reason"].as_str().unwrap().contains("getting its session back"), "{vm}");
    let took = end["tookMs"].as_u64().unwrap();
    assert!((900..5_000).contains(&took), "{vm}");

    // And whoever asks for force meanwhile need not wait.
    agent.client.post("/api/vms/impatient/stop?timeout=50s", &json!({})).await.ok();
    let vm = agent.client.post("/api/vms/impatient/stop?force=true&wait=60s", &json!({})).await;
    assert!(vm.ok()["lastEnd"]["reason"].as_str().unwrap().contains("asked to"));
}
