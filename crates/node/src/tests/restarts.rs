//! A restart policy's waits, over restarts of the agent too.

use std::time::Duration;

use inn_vmm::MachineEnd;
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::{TestAgent, request};

fn crashing() -> Behaviour {
    let end = MachineEnd::Died("killed by somebody".to_owned());
    Behaviour { ends_after: Some((Duration::from_millis(500), end)), ..Behaviour::default() }
}

async fn why(agent: &TestAgent) -> Value {
    agent.client.get("/api/vms/loops/why").await.ok()
}

/// How long it waits yet, once it does after so many ends in a row.
async fn waits_after(agent: &TestAgent, failures: u64) -> f64 {
    let waits = async {
        loop {
            let why = why(agent).await;
            if why["verdict"] == "waiting" && why["failures"] == failures {
                let next: jiff::Timestamp = why["nextTry"].as_str().unwrap().parse().unwrap();
                return next.duration_since(jiff::Timestamp::now()).as_secs_f64();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::PATIENCE, waits).await.expect("it waits")
}

async fn loops(policy: &str) -> TestAgent {
    let agent = TestAgent::with(&[], crashing()).await;
    let body = request("loops", json!({ "restartPolicy": policy }));
    agent.client.post("/api/vms", &body).await.ok();
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_is_one_over_restarts_of_the_agent() {
    let mut agent = loops("on-failure").await;
    let first = waits_after(&agent, 1).await;
    assert!(first > 0.0 && first <= 1.0, "{first}");
    let second = waits_after(&agent, 2).await;
    assert!(second > 1.0 && second <= 2.0, "it doubles: {second}");

    // In the middle of a wait: the next life waits on, and neither starts it
    // at once nor never.
    agent.die().await;
    let agent = agent.live_again(crashing()).await;
    let left = waits_after(&agent, 2).await;
    assert!(left <= second, "{left} of {second}");
    assert!(agent.vm("loops").await.get("pid").is_none());
    // What comes next counts on from there.
    let third = waits_after(&agent, 3).await;
    assert!(third > 2.0 && third <= 4.0, "{third}");

    // Once more, and no longer than before.
    let agent = agent.at_rest().await;
    let agent = agent.live_again(crashing()).await;
    assert!(waits_after(&agent, 3).await <= 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_over_meanwhile_is_waited_for_no_more() {
    let mut agent = loops("always").await;
    waits_after(&agent, 1).await;
    agent.die().await;
    let id = agent.node.vms.find("loops").unwrap().id();
    let (_, mut seen) = agent.node.store.vms().await.unwrap().swap_remove(0);
    let past = jiff::Timestamp::now() - Duration::from_secs(3600);
    seen.backoff.as_mut().unwrap().not_before = Some(past);
    seen.backoff.as_mut().unwrap().failures = 20;
    agent.node.store.set_observed(id, seen).await.unwrap();
    let agent = agent.live_again(crashing()).await;
    // It starts at once, and the wait after that is as long as they get.
    let longest = waits_after(&agent, 21).await;
    assert!(longest > 290.0 && longest <= 300.0, "{longest}");
}
