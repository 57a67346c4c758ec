use std::time::Duration;

use inn_vmm::MachineEnd;
use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_made_started_stopped_and_deleted() {
    let agent = TestAgent::start().await;
    let vm = agent.create("web", json!({ "start": false, "labels": { "a": "b" } })).await;
    assert_eq!((vm["phase"].as_str(), vm["generation"].as_u64()), (Some("stopped"), Some(1)));
    assert_eq!(vm["observedGeneration"], 1);

    let vm = agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
    assert_eq!((vm["phase"].as_str(), vm["generation"].as_u64()), (Some("running"), Some(2)));
    assert_eq!(vm["guest"]["link"], "ready");
    assert_eq!(vm["accelerator"], "none");
    assert_eq!(vm["workload"]["command"], json!(["sleep", "infinity"]));
    assert_eq!(vm["workload"]["running"], true, "{vm}");
    let again = agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await;
    assert_eq!((again.status, again.ok()["generation"].as_u64()), (200, Some(2)));

    let boot = vm["startedAt"].clone();
    let vm = agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
    assert_eq!((vm["phase"].as_str(), vm["generation"].as_u64()), (Some("running"), Some(3)));
    assert_ne!(vm["startedAt"], boot);

    for generation in [4, 4] {
        let vm = agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
        assert_eq!(vm["phase"], "stopped");
        assert_eq!(vm["generation"], generation, "stopping twice is stopping once");
        assert_eq!(vm["workload"]["running"], false);
        assert!(vm.get("failure").is_none() && vm.get("pid").is_none());
    }
    let id = vm["id"].as_str().unwrap();
    assert!(agent.files_of_vms().contains(&id.to_owned()));
    let gone = agent.client.delete("/api/vms/web?wait=60s").await;
    assert_eq!(gone.status, 200);
    agent.until_gone("web").await;
    assert_eq!(agent.files_of_vms(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_vms_are_listed_and_filtered() {
    let agent = TestAgent::start().await;
    for n in 0..100 {
        let more = json!({ "start": n % 2 == 0, "labels": { "half": (n % 2).to_string() } });
        let request = super::agent::request(&format!("vm-{n}"), more);
        assert_eq!(agent.client.post("/api/vms", &request).await.status, 202);
    }
    for n in 0..100 {
        agent.until(&format!("vm-{n}"), |vm| vm["observedGeneration"] == 1).await;
    }
    let names = |list: serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|vm| vm["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = names(agent.client.get("/api/vms").await.ok());
    let expected: Vec<String> = (0..100).map(|n| format!("vm-{n}")).collect();
    assert_eq!(all, expected, "in the order of creation");
    for (query, count) in [
        ("status=running", 50),
        ("status=stopped", 50),
        ("status=failed", 0),
        ("label=half=1", 50),
        ("label=half", 100),
        ("name=vm-7", 1),
        ("status=running&label=half%3D1", 0),
    ] {
        let list = agent.client.get(&format!("/api/vms?{query}")).await.ok();
        assert_eq!(names(list).len(), count, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vms_outlive_the_agent_and_are_adopted() {
    let mut agent = TestAgent::start().await;
    let running = agent.create("runs", json!({})).await;
    agent.create("stopped", json!({ "start": false })).await;
    agent.die().await;
    let agent = agent.live_on().await;
    let vm = agent.until("runs", |vm| vm["guest"]["link"] == "ready").await;
    for same in ["id", "generation", "startedAt", "createdAt", "bootMs"] {
        assert_eq!(vm[same], running[same], "{same}");
    }
    assert_eq!(vm["phase"], "running");
    assert_eq!(vm["workload"]["running"], true, "{vm}");
    assert_eq!(agent.vm("stopped").await["phase"], "stopped");
    let (out, _, status) =
        agent.client.exec("/api/vms/runs/exec?command=echo&command=back&stdout=true", "").await;
    assert_eq!((out.as_str(), status["status"].as_str()), ("back\n", Some("Success")));
    agent.client.delete("/api/vms/runs?force=true&wait=60s").await.ok();
    agent.until_gone("runs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_for_before_a_crash_is_done_after_it() {
    // Boots that never end, so that the first life leaves everything half done.
    let silent = Behaviour { answers_after: None, ..Behaviour::default() };
    let mut agent = TestAgent::with(&[], silent).await;
    let request = super::agent::request("boots", json!({}));
    agent.client.post("/api/vms", &request).await.ok();
    let request = super::agent::request("goes", json!({}));
    agent.client.post("/api/vms", &request).await.ok();
    for name in ["boots", "goes"] {
        agent.until(name, |vm| vm["phase"] == "starting").await;
    }
    agent.die().await;
    // A request that is stored, and not carried out any more.
    let (record, _) = agent.node.store.vms().await.unwrap().swap_remove(1);
    assert_eq!(record.spec.name.as_str(), "goes");
    let desired = inn_domain::Desired {
        power: inn_domain::Power::Deleted,
        generation: record.desired.generation.next(),
        ..record.desired
    };
    let durability = inn_store::Durability::Host;
    agent.node.store.set_desired(record.id, desired, durability).await.unwrap();

    let agent = agent.live_again(Behaviour::default()).await;
    agent.until_gone("goes").await;
    let vm = agent.until("boots", |vm| vm["observedGeneration"] == 1).await;
    assert_eq!(vm["phase"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_nobody_s_go_at_the_start() {
    let mut agent = TestAgent::start().await;
    let vm = agent.create("kept", json!({ "start": false, "persist": true })).await;
    agent.client.post("/api/vms/kept/start?wait=60s", &json!({})).await.ok();
    let paths = agent.node.config.paths.clone();
    for dir in [paths.vms(), paths.runs()] {
        std::fs::create_dir_all(dir.join("00000000aa")).unwrap();
    }
    agent.die().await;
    let agent = agent.live_again(Behaviour::default()).await;
    let files = agent.files_of_vms();
    assert!(files.iter().all(|name| name == vm["id"].as_str().unwrap()), "{files:?}");
    assert!(paths.persist().join("kept.img").exists());
    agent.client.delete("/api/vms/kept?force=true&wait=60s").await.ok();
    assert!(paths.persist().join("kept.img").exists(), "it outlives its VM");
    agent.create("kept", json!({ "persist": true })).await;
    let delete = "/api/vms/kept?force=true&keepDisk=true&purgePersist=true&wait=60s";
    agent.client.delete(delete).await.ok();
    assert!(!paths.persist().join("kept.img").exists());
    assert_eq!(std::fs::read_dir(paths.kept()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_never_answers_fails_the_start_by_its_deadline() {
    let silent = Behaviour { answers_after: None, ..Behaviour::default() };
    let agent = TestAgent::with(&[("start_deadline", "300ms")], silent).await;
    let vm = agent.create("mute", json!({})).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["observedGeneration"].as_u64()),
        (Some("failed"), Some(1))
    );
    let failure = &vm["failure"];
    assert_eq!(failure["step"], "handshake");
    assert!(failure["cause"].as_str().unwrap().contains("did not answer within 300 ms"));
    assert!(failure["next"].as_str().unwrap().contains("inn vm start mute"));
    assert_eq!(vm["guest"]["link"], "absent", "its machine was ended");
    let (status, code, detail) = {
        let files = agent.client.get("/api/vms/mute/files?path=/etc/hosts").await;
        files.problem()
    };
    assert_eq!((status, code.as_str()), (409, "vm-failed"));
    assert!(detail.contains("handshake"), "{detail}");
    agent.client.delete("/api/vms/mute?wait=60s").await.ok();
    agent.until_gone("mute").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_dies_while_booting_is_reported_at_once() {
    let end = MachineEnd::Died("QEMU ended by itself (signal 11)".to_owned());
    let dies = Behaviour {
        answers_after: None,
        ends_after: Some((Duration::from_millis(50), end)),
        ..Behaviour::default()
    };
    // The deadline is beyond this test's patience: it is the end that counts.
    let agent = TestAgent::with(&[("start_deadline", "10m")], dies).await;
    let vm = agent.create("dies", json!({ "restartPolicy": "always" })).await;
    assert_eq!(vm["phase"], "failed");
    assert_eq!(vm["failure"]["step"], "boot");
    assert!(vm["failure"]["cause"].as_str().unwrap().contains("signal 11"), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_fails_says_why() {
    let fails = Behaviour { launch_fails: Some("no luck".to_owned()), ..Behaviour::default() };
    let agent = TestAgent::with(&[], fails).await;
    let vm = agent.create("unlucky", json!({})).await;
    assert_eq!(
        (vm["phase"].as_str(), vm["failure"]["step"].as_str()),
        (Some("failed"), Some("launch"))
    );
    assert!(vm["failure"]["cause"].as_str().unwrap().contains("no luck"), "{vm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_of_its_own_stops_or_restarts_a_vm_by_its_policy() {
    let off = Behaviour {
        ends_after: Some((Duration::from_millis(500), MachineEnd::PoweredOff)),
        ..Behaviour::default()
    };
    let agent = TestAgent::with(&[], off).await;
    let first = agent.create("once", json!({})).await;
    let vm = agent.until("once", |vm| vm["phase"] == "stopped").await;
    assert_eq!((vm["desired"].as_str(), vm["generation"].as_u64()), (Some("running"), Some(1)));
    assert!(vm.get("failure").is_none(), "{vm} {first}");

    let first = agent.create("ever", json!({ "restartPolicy": "always" })).await;
    let again = agent
        .until("ever", |vm| vm["phase"] == "running" && vm["startedAt"] != first["startedAt"])
        .await;
    assert_eq!(again["generation"], 1, "nobody has asked for it");
    agent.client.delete("/api/vms/ever?force=true&wait=60s").await.ok();

    let crash = MachineEnd::Died("killed by somebody".to_owned());
    let crashes =
        Behaviour { ends_after: Some((Duration::from_millis(500), crash)), ..Behaviour::default() };
    let agent = agent.live_again(crashes).await;
    assert_eq!(agent.vm("once").await["phase"], "stopped", "also in the next life");
    agent.create("crashes", json!({})).await;
    let vm = agent.until("crashes", |vm| vm["phase"] == "failed").await;
    assert_eq!(vm["failure"]["step"], "run");
    assert!(vm["failure"]["cause"].as_str().unwrap().contains("killed by somebody"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_shut_down_is_ended() {
    let stubborn = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[], stubborn).await;
    agent.create("stubborn", json!({})).await;
    let vm =
        agent.client.post("/api/vms/stubborn/stop?timeout=300ms&wait=60s", &json!({})).await.ok();
    assert_eq!(
        (vm["phase"].as_str(), vm["observedGeneration"].as_u64()),
        (Some("stopped"), Some(2))
    );

    // A long grace gives way to impatience.
    agent.client.post("/api/vms/stubborn/start?wait=60s", &json!({})).await.ok();
    agent.client.post("/api/vms/stubborn/stop?timeout=10m", &json!({})).await.ok();
    agent.until("stubborn", |vm| vm["phase"] == "stopping").await;
    let vm = agent.client.post("/api/vms/stubborn/stop?force=true&wait=60s", &json!({})).await.ok();
    assert_eq!(vm["phase"], "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_deleted_in_the_middle_of_its_boot() {
    let silent = Behaviour { answers_after: None, ..Behaviour::default() };
    let agent = TestAgent::with(&[("start_deadline", "10m")], silent).await;
    let request = super::agent::request("boots", json!({}));
    agent.client.post("/api/vms", &request).await.ok();
    agent.until("boots", |vm| vm["phase"] == "starting").await;
    let gone = agent.client.delete("/api/vms/boots?wait=60s").await;
    assert_eq!(gone.status, 200, "{gone:?}");
    agent.until_gone("boots").await;
    assert_eq!(agent.files_of_vms(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_ended_while_no_agent_ran_has_ended_by_itself() {
    let mut agent = TestAgent::start().await;
    let first = agent.create("again", json!({ "restartPolicy": "always" })).await;
    let second = agent.create("once", json!({})).await;
    agent.die().await;
    // What the next life finds of them is no machine any more.
    for vm in [&first, &second] {
        let run_dir = agent.node.config.paths.runs().join(vm["id"].as_str().unwrap());
        std::fs::remove_dir_all(run_dir).unwrap();
    }
    let agent = agent.live_again(Behaviour::default()).await;
    let vm =
        agent.until("again", |vm| vm["phase"] == "running" && vm["guest"]["link"] == "ready").await;
    assert_ne!(vm["startedAt"], first["startedAt"]);
    assert_eq!(vm["generation"], first["generation"]);
    let vm = agent.until("once", |vm| vm["phase"] == "failed").await;
    let cause = vm["failure"]["cause"].as_str().unwrap();
    assert!(cause.contains("while no agent ran"), "{cause}");
}
