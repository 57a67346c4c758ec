//! What VMs have used, by the API.

use std::fs;

use serde_json::{Value, json};

use super::agent::TestAgent;

async fn rows(agent: &TestAgent, query: &str) -> Vec<Value> {
    let usage = agent.client.get(&format!("/api/node/usage{query}")).await.ok();
    usage["items"].as_array().unwrap().clone()
}

async fn row_of(agent: &TestAgent, vm: &str) -> Value {
    let rows = rows(agent, "").await;
    rows.into_iter().find(|row| row["name"] == vm).unwrap_or_default()
}

fn allotted(row: &Value, what: &str) -> f64 {
    row[what]["allotted"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_counted_over_an_agent_s_death_and_a_vm_s_end() {
    let mut agent = TestAgent::start().await;
    let labels = json!({ "labels": { "team": "red" } });
    let id = agent.create("web", labels).await["id"].clone();
    agent.create("other", json!({ "start": false })).await;
    let before = row_of(&agent, "web").await;
    assert_eq!((&before["key"], before["vms"].as_u64()), (&id, Some(1)), "{before}");
    let cpus = allotted(&before, "vcpuSeconds");
    assert!(cpus > 0.0 && allotted(&before, "memoryByteSeconds") > 0.0, "{before}");
    let other = row_of(&agent, "other").await;
    assert!(allotted(&other, "vcpuSeconds") == 0.0, "{other}");

    agent.die().await;
    let agent = agent.live_on().await;
    agent.until("web", |vm| vm["phase"] == "running").await;
    let after = row_of(&agent, "web").await;
    assert!(allotted(&after, "vcpuSeconds") > cpus, "{after}");

    // Paused it holds its memory, and no CPU.
    agent.client.post("/api/vms/web/pause?wait=60s", &Value::Null).await.ok();
    let paused = row_of(&agent, "web").await;
    let later = row_of(&agent, "web").await;
    assert!(
        allotted(&later, "vcpuSeconds").to_bits() == allotted(&paused, "vcpuSeconds").to_bits(),
        "{later}"
    );
    assert!(
        allotted(&later, "memoryByteSeconds") > allotted(&paused, "memoryByteSeconds"),
        "{later}"
    );

    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    let gone = row_of(&agent, "web").await;
    assert!(allotted(&gone, "vcpuSeconds") >= allotted(&later, "vcpuSeconds"), "{gone}");
    let again = row_of(&agent, "web").await;
    assert_eq!(gone, again, "nothing is counted of what is gone");
    let by_team = rows(&agent, "?by=label:team").await;
    let keys: Vec<_> = by_team.iter().map(|row| row["key"].clone()).collect();
    assert_eq!(keys, [Value::Null, json!("red")], "{by_team:?}");
    let all = rows(&agent, "?by=all").await;
    assert_eq!((all.len(), &all[0]["vms"]), (1, &json!(2)), "{all:?}");
    let none = rows(&agent, "?to=2020-01-01T00:00:00Z").await;
    assert_eq!(none, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_changed_is_found() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    // It is written at the agent's end at the latest.
    agent.die().await;
    let agent = agent.live_on().await;
    let check = agent.client.get("/api/node/usage/verify").await.ok();
    assert_eq!((&check["ok"], &check["blocks"]), (&json!(true), &json!(1)), "{check}");
    let head = format!("{}:{}", check["head"]["block"], check["head"]["hash"].as_str().unwrap());
    let known = agent.client.get(&format!("/api/node/usage/verify?head={head}")).await.ok();
    assert_eq!(known["ok"], true, "{known}");
    let other = format!("1:{}", "0".repeat(64));
    let check = agent.client.get(&format!("/api/node/usage/verify?head={other}")).await.ok();
    assert_eq!(check["findings"][0]["line"], 1, "{check}");

    let file = agent.node.config.paths.usage().join("000001.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"vcpus\":1", "\"vcpus\":0")).unwrap();
    let check = agent.client.get("/api/node/usage/verify").await.ok();
    assert_eq!(
        (&check["ok"], &check["findings"][0]["file"]),
        (&json!(false), &json!("000001.jsonl")),
        "{check}"
    );
    for bad in ["by=team", "by=label:", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "x=1"]
    {
        let (status, ..) = agent.client.get(&format!("/api/node/usage?{bad}")).await.problem();
        assert_eq!(status, 400, "{bad}");
    }
    let (status, ..) = agent.client.get("/api/node/usage/verify?head=7").await.problem();
    assert_eq!(status, 400);
}
