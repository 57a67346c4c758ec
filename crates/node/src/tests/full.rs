//! Full VMs: their disk images, and agents that come late or never.

use std::time::{Duration, Instant};

use inn_guest_proto::wire::Hello;
use inn_guest_proto::{Guest, GuestEvent};
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::agent::TestAgent;

/// A raw disk of `size` bytes, and the request for a VM from it.
fn disk(agent: &TestAgent, size: u64) -> Value {
    let path = agent.dir.path().join("debian.img");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"a boot sector", 0).unwrap();
    json!({ "image": null, "diskImage": { "url": format!("file://{}", path.display()) } })
}

fn merged(mut request: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut request, more) else {
        panic!("objects");
    };
    fields.extend(more);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_vm_runs_on_without_an_agent() {
    let silent = Behaviour { answers_after: None, resident: true, ..Behaviour::default() };
    let mut agent = TestAgent::with(&[("start_deadline", "300ms")], silent).await;
    let more = merged(disk(&agent, 16 << 20), json!({ "diskBytes": 24 << 20 }));
    let vm = agent.create("full", more).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["observedGeneration"].as_u64()),
        (Some("running"), Some(1))
    );
    assert!(vm.get("failure").is_none() && vm.get("image").is_none(), "{vm}");
    assert_eq!(vm["diskImage"]["format"], "raw");
    assert_eq!(vm["memoryBytes"], 512 << 20);
    assert_eq!(vm["guest"]["link"], "absent", "{vm}");
    let reason = vm["guest"]["reason"].as_str().unwrap();
    assert!(reason.contains("within 300 ms") && reason.contains("runs on"), "{reason}");

    let files = agent.client.get("/api/vms/full/files?path=/etc/hostname").await;
    let (status, code, detail) = files.problem();
    assert_eq!(code, "guest-unavailable", "{status} {detail}");
    assert!(detail.contains("inn guest export"), "{detail}");

    let disk = agent.node.vms.find("full").unwrap().paths().disk();
    let bytes = std::fs::read(&disk).unwrap();
    assert!(bytes.starts_with(b"a boot sector") && bytes.len() == 24 << 20);

    agent.die().await;
    let agent = agent.live_on().await;
    let again = agent.until("full", |vm| vm["phase"] == "running").await;
    assert_eq!(
        (&again["startedAt"], &again["guest"]["link"]),
        (&vm["startedAt"], &json!("absent"))
    );
    let vm = agent.client.post("/api/vms/full/stop?timeout=300ms&wait=60s", &json!({})).await.ok();
    assert_eq!(
        (vm["phase"].as_str(), vm["lastEnd"]["how"].as_str()),
        (Some("stopped"), Some("forced"))
    );
    let reason = vm["lastEnd"]["reason"].as_str().unwrap();
    assert!(reason.contains("no guest agent") && reason.contains("power button"), "{vm}");

    let minds = Behaviour { answers_after: None, minds_power_button: true, ..Behaviour::default() };
    let agent = agent.live_again(minds).await;
    agent.client.post("/api/vms/full/start?wait=60s", &json!({})).await.ok();
    let vm = agent.client.post("/api/vms/full/stop?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["lastEnd"]["how"], "graceful", "{vm}");
    assert!(vm["lastEnd"]["reason"].as_str().unwrap().contains("power button"), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_agent_leaves_a_short_grace_to_the_power_button() {
    let hung =
        Behaviour { resident: true, deaf: true, minds_power_button: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[("start_deadline", "300ms")], hung).await;
    agent.create("hung", disk(&agent, 16 << 20)).await;
    let vm = agent.client.post("/api/vms/hung/stop?timeout=2s&wait=60s", &json!({})).await.ok();
    let end = &vm["lastEnd"];
    assert_eq!(end["how"], "graceful", "{vm}");
    assert!(end["reason"].as_str().unwrap().contains("power button"), "{vm}");
    assert!(end["tookMs"].as_u64().unwrap() < 2_000, "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_late_is_found_and_runs_what_was_asked_for() {
    let late = Some(Duration::from_secs(2));
    let late = Behaviour { answers_after: late, resident: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[("start_deadline", "300ms")], late).await;
    let more = json!({ "command": ["sleep", "infinity"], "restartPolicy": "always" });
    let vm = agent.create("late", merged(disk(&agent, 16 << 20), more)).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["guest"]["link"].as_str()),
        (Some("running"), Some("absent"))
    );
    assert!(vm.get("workload").is_none(), "{vm}");
    let vm = agent.until("late", |vm| vm["guest"]["link"] == "ready").await;
    assert_eq!(vm["workload"]["running"], true, "{vm}");
    assert!(vm["bootMs"].as_u64().unwrap() >= 1_900, "{vm}");
    let vm = agent.client.post("/api/vms/late/stop?wait=60s", &json!({})).await.ok();
    assert_eq!(vm["lastEnd"]["how"], "graceful", "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_the_agent_and_not_longer() {
    let late = Some(Duration::from_millis(500));
    let late = Behaviour { answers_after: late, resident: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[], late).await;
    let vm = agent.create("full", disk(&agent, 16 << 20)).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["guest"]["link"].as_str()),
        (Some("running"), Some("ready"))
    );
    assert!(vm.get("workload").is_none(), "of its own it runs nothing: {vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_image_that_cannot_be_used_is_refused_at_once() {
    let agent = TestAgent::start().await;
    let good = disk(&agent, 16 << 20);
    let url = |url: &str| json!({ "image": null, "diskImage": { "url": url } });
    for (more, status, code, word) in [
        (url("https://host/debian.qcow2"), 400, "invalid-request", "inn image pull"),
        (url("debian.qcow2"), 400, "invalid-request", "file://"),
        (url("file:///nonexistent/debian.qcow2"), 404, "not-found", "/nonexistent/debian.qcow2"),
        (merged(good.clone(), json!({ "image": "base" })), 400, "invalid-request", "one of them"),
        (
            merged(good.clone(), json!({ "kernel": { "args": "x" } })),
            400,
            "invalid-request",
            "kernel",
        ),
    ] {
        let answer =
            agent.client.post("/api/vms", &super::agent::request("new", more.clone())).await;
        let (got_status, got_code, detail) = answer.problem();
        assert_eq!((got_status, got_code.as_str()), (status, code), "{more}: {detail}");
        assert!(detail.contains(word), "{more}: {detail}");
    }
    let large = disk(&agent, 32 << 20);
    let small =
        super::agent::request("new", merged(large.clone(), json!({ "diskBytes": 16 << 20 })));
    let (_, code, detail) = agent.client.post("/api/vms", &small).await.problem();
    assert_eq!(code, "invalid-request");
    assert!(detail.contains("32MiB"), "{detail}");
    assert_eq!(agent.node.vms.len(), 0, "nothing was made");

    // What its content must be is checked while it is copied.
    let mut wrong = large;
    wrong["diskImage"]["sha256"] = json!("00".repeat(32));
    let vm = agent.create("wrong", merged(wrong, json!({ "diskBytes": 32 << 20 }))).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["failure"]["step"].as_str()),
        (Some("failed"), Some("prepare-disk"))
    );
    assert!(!agent.node.vms.find("wrong").unwrap().paths().disk().exists());
}

/// Greets each host that comes and then hangs up; tells of each.
async fn greet_and_go(guest: UnixListener, tell: mpsc::Sender<Instant>) {
    while let Ok((mut stream, _)) = guest.accept().await {
        if tell.send(Instant::now()).await.is_err() {
            return;
        }
        let mut protocol = Guest::default();
        while let Ok(1..) = stream.read_buf(protocol.input()).await {
            while let Some(event) = protocol.next_event() {
                if let GuestEvent::Opened(nonce) = event {
                    protocol.greet(&nonce, Hello::default()).unwrap();
                }
            }
            let output = protocol.output().to_vec();
            protocol.wrote(output.len());
            if stream.write_all(&output).await.is_err() || !output.is_empty() {
                break;
            }
        }
        // Closed with something unread, it would take the greeting with it,
        // and a host that was not greeted asks again at once.
        let _gone = stream.shutdown().await;
        while let Ok(1..) = stream.read_buf(protocol.input()).await {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_greets_and_goes_is_met_less_and_less_often() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.sock");
    let (tell, mut told) = mpsc::channel(64);
    tokio::spawn(greet_and_go(UnixListener::bind(&path).unwrap(), tell));
    let fickle = Behaviour { agent_at: Some(path), resident: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[], fickle).await;
    let request = super::agent::request("fickle", disk(&agent, 16 << 20));
    agent.client.post("/api/vms", &request).await.ok();
    let first = told.recv().await.unwrap();
    told.recv().await.unwrap();
    told.recv().await.unwrap();
    let fourth = told.recv().await.unwrap();
    // At the least after 1 s and 2 s more: without a wait it is milliseconds.
    assert!(fourth - first >= Duration::from_millis(2_900), "{:?}", fourth - first);
    let vm = agent.until("fickle", |vm| vm["guest"]["link"] == "lost").await;
    assert_eq!(vm["phase"], "running", "{vm}");
}
