//! Why a VM is as it is, over the API, with machines that misbehave.

use std::time::Duration;

use inn_client::Client;
use inn_client::api::{self, PhaseResult, Verdict, VmWhy};
use inn_vmm::MachineEnd;
use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::agent::TestAgent;

async fn why(agent: &TestAgent, vm: &str) -> VmWhy {
    Client::unix(agent.node.config.paths.api_socket()).why_vm(vm).await.unwrap()
}

fn phases(boot: &Option<api::Boot>) -> Vec<(&str, PhaseResult)> {
    boot.iter().flat_map(|boot| &boot.phases).map(|p| (p.name.as_str(), p.result)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_is_fine_has_its_timeline_also_in_the_next_life() {
    use PhaseResult::Done;
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let first = why(&agent, "web").await;
    assert_eq!(first.verdict, Verdict::Fine, "{first:?}");
    assert!(first.next.is_none() && first.plan.is_empty() && first.causes.is_empty());
    let all = ["prepare-disk", "launch", "handshake", "configure", "start-workload"];
    assert_eq!(phases(&first.boot), all.map(|name| (name, Done)));
    let boot = first.boot.clone().unwrap();
    let launch: Vec<_> = boot.phases[1].parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(launch, ["kernel", "simulate"]);
    for (one, next) in boot.phases.iter().zip(&boot.phases[1..]) {
        assert!(one.start_ms + one.took_ms <= next.start_ms + 0.002, "{boot:?}");
    }
    assert_eq!(first.console, ["a simulated guest, 256MiB of memory"]);

    agent.die().await;
    let agent = agent.live_on().await;
    agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
    let again = why(&agent, "web").await;
    assert_eq!(again.boot, first.boot, "a restart of the agent is no boot");
    assert_eq!(again.verdict, Verdict::Fine, "{again:?}");

    // A restart of the VM begins another one, whose console is its own.
    agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
    let other = why(&agent, "web").await;
    assert_eq!(phases(&other.boot), all[1..].iter().map(|name| (*name, Done)).collect::<Vec<_>>());
    assert_ne!(other.boot.unwrap().at, boot.at);
    assert_eq!(other.console.len(), 1, "{:?}", other.console);
    assert!(other.failed_boot.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_never_answers() {
    use PhaseResult::{Done, Failed};
    let silent = Behaviour { answers_after: None, ..Behaviour::default() };
    let mut agent = TestAgent::with(&[("start_deadline", "1s")], silent).await;
    let request = super::agent::request("mute", json!({}));
    agent.client.post("/api/vms", &request).await.ok();
    agent.until("mute", |vm| vm["guest"]["link"] == "connecting").await;
    let meanwhile = why(&agent, "mute").await;
    if meanwhile.verdict == Verdict::Underway {
        let step = meanwhile.step.as_ref().unwrap();
        assert!(!step.failed && step.deadline.is_some(), "{meanwhile:?}");
        assert!(meanwhile.plan.last().unwrap().contains("start-workload"), "{meanwhile:?}");
    }
    agent.until("mute", |vm| vm["phase"] == "failed").await;
    let failed = why(&agent, "mute").await;
    assert_eq!(failed.verdict, Verdict::Failed, "{failed:?}");
    assert!(failed.summary.contains("handshake: the guest agent did not answer within 1.00 s"));
    assert_eq!(failed.step.as_ref().unwrap().name, "handshake");
    let shown = [("prepare-disk", Done), ("launch", Done), ("handshake", Failed)];
    assert_eq!(phases(&failed.boot), shown);
    assert_eq!(failed.next.unwrap().command.unwrap(), "inn vm logs mute --source console");
    assert_eq!(failed.last_end.unwrap().reason.unwrap(), "it did not come up");

    // It survives the agent, and stays known when a later start succeeds.
    agent.die().await;
    let agent = agent.live_again(Behaviour::default()).await;
    let next_life = why(&agent, "mute").await;
    assert_eq!((next_life.verdict, next_life.summary), (Verdict::Failed, failed.summary));
    assert_eq!(phases(&next_life.boot), shown);
    agent.client.post("/api/vms/mute/start?wait=60s", &json!({})).await.ok();
    let up = why(&agent, "mute").await;
    assert_eq!(up.verdict, Verdict::Fine, "{up:?}");
    assert_eq!(phases(&up.failed_boot), shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_fails_and_an_image_that_is_gone() {
    let fails = Behaviour { launch_fails: Some("no luck".to_owned()), ..Behaviour::default() };
    let agent = TestAgent::with(&[], fails).await;
    agent.create("unlucky", json!({})).await;
    let failed = why(&agent, "unlucky").await;
    assert_eq!(phases(&failed.boot).last(), Some(&("launch", PhaseResult::Failed)));
    assert_eq!(failed.causes, ["the simulation did not start: no luck"]);
    assert_eq!(failed.next.unwrap().command.unwrap(), "inn vm logs unlucky --source vmm");

    let handle = agent.node.vms.find("unlucky").unwrap();
    std::fs::remove_file(&handle.spec().image().unwrap().root_disk).unwrap();
    agent.client.post("/api/vms/unlucky/start?wait=60s", &json!({})).await.ok();
    let failed = why(&agent, "unlucky").await;
    assert!(failed.causes[0].contains("image base is gone"), "{failed:?}");
    assert_eq!(
        failed.next.unwrap().command.unwrap(),
        "inn image import PATH --name base && inn vm start unlucky"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_dies_again_and_again_waits_and_says_so() {
    let end = MachineEnd::Died("killed by somebody".to_owned());
    let crashes =
        Behaviour { ends_after: Some((Duration::from_millis(100), end)), ..Behaviour::default() };
    let agent = TestAgent::with(&[], crashes).await;
    let request = super::agent::request("crashes", json!({ "restartPolicy": "on-failure" }));
    agent.client.post("/api/vms", &request).await.ok();
    // From the third end on it waits for four seconds.
    for _ in 0..3 {
        agent.until("crashes", |vm| vm["phase"] == "running").await;
        agent.until("crashes", |vm| vm["phase"] == "failed").await;
    }
    let mut waits = why(&agent, "crashes").await;
    while waits.verdict != Verdict::Waiting {
        tokio::task::yield_now().await;
        waits = why(&agent, "crashes").await;
    }
    assert!(waits.failures >= 3 && waits.next_try.is_some(), "{waits:?}");
    assert!(waits.summary.contains("in a row and starts again in"), "{}", waits.summary);
    assert_eq!(waits.causes, ["killed by somebody"]);
    assert!(waits.plan[0].contains("wait"), "{:?}", waits.plan);
    assert_eq!(waits.next.unwrap().command.unwrap(), "inn vm start crashes");
    assert_eq!(waits.last_end.unwrap().reason.unwrap(), "killed by somebody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_ends_at_once_and_one_that_is_not_there() {
    let agent = TestAgent::start().await;
    agent.create("ends", json!({ "command": ["exit", "3"] })).await;
    agent.until("ends", |vm| vm["workload"]["running"] == false).await;
    let ends = why(&agent, "ends").await;
    assert_eq!(ends.verdict, Verdict::Impaired, "{ends:?}");
    assert_eq!(ends.causes, ["it ended with 3"]);
    assert_eq!(ends.next.unwrap().command.unwrap(), "inn vm logs ends --tail 20");

    agent.create("none", json!({ "command": ["no-such-program"] })).await;
    agent.until("none", |vm| vm["workload"]["running"] == false).await;
    let none = why(&agent, "none").await;
    assert_eq!(none.verdict, Verdict::Impaired, "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_takes_its_time() {
    let stubborn = Behaviour { ignores_shutdown: true, ..Behaviour::default() };
    let agent = TestAgent::with(&[("stop_timeout", "10m")], stubborn).await;
    agent.create("stays", json!({})).await;
    agent.client.delete("/api/vms/stays").await.ok();
    let mut hangs = why(&agent, "stays").await;
    while hangs.step.as_ref().is_none_or(|step| step.name != "shutdown") {
        tokio::task::yield_now().await;
        hangs = why(&agent, "stays").await;
    }
    assert_eq!(hangs.verdict, Verdict::Underway, "{hangs:?}");
    assert!(hangs.summary.contains("being deleted: at shutdown"), "{}", hangs.summary);
    assert!(hangs.step.unwrap().deadline.is_some());
    assert_eq!(hangs.plan.last().unwrap(), "forget");
    assert_eq!(hangs.next.unwrap().command.unwrap(), "inn vm delete stays --force");
    agent.client.delete("/api/vms/stays?force=true&wait=60s").await.ok();
    agent.until_gone("stays").await;
    let client = Client::unix(agent.node.config.paths.api_socket());
    assert!(client.why_vm("stays").await.unwrap_err().is_not_found());
}
