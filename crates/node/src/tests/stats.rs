use inn_client::{Client, StatsQuery};
use serde_json::json;
use std::time::Duration;

use super::PATIENCE;
use super::agent::TestAgent;
use inn_vmm_sim::Behaviour;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_come_are_kept_and_are_asked_for() {
    let agent = TestAgent::with(&[("telemetry.interval", "20ms")], Behaviour::default()).await;
    let client = Client::unix(agent.node.config.paths.api_socket());
    agent.create("web", json!({})).await;
    let last = StatsQuery { last: Some(Duration::from_secs(600)), fresh: false };
    let several = async {
        loop {
            let stats = client.stats("web", last).await.unwrap();
            if stats.samples.len() > 2 {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    let stats = tokio::time::timeout(PATIENCE, several).await.expect("readings come");
    assert!(stats.samples.is_sorted_by_key(|sample| sample.at), "oldest first");
    let now = stats.now.expect("the latest one");
    assert!(now.memory_total_bytes > 0 && now.cpus > 0, "{now:?}");
    let none = client.stats("web", StatsQuery::default()).await.unwrap();
    assert!(none.samples.is_empty() && none.now.is_some());

    let asked = client.stats("web", StatsQuery { last: None, fresh: true }).await.unwrap();
    assert!(asked.now.expect("an answer").at >= now.at);
    let (from, to) = (stats.samples[0].at, stats.samples[1].at);
    let path = format!("/api/vms/web/stats?from={from}&to={to}");
    let two = agent.client.get(&path).await.ok();
    assert_eq!(two["samples"].as_array().unwrap().len(), 2, "{two}");

    agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
    let stopped = client.stats("web", last).await.unwrap();
    assert!(stopped.now.is_none() && stopped.samples.len() > 2, "those of its last life");
    let (status, code, _) = agent.client.get("/api/vms/web/stats?fresh=true").await.problem();
    assert_eq!((status, code.as_str()), (409, "conflict"));
    for (query, status) in [
        ("last=soon", 400),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 400),
        ("last=1s&from=2026-01-02T00:00:00Z", 400),
        ("to=2026-01-02T00:00:00Z", 400),
    ] {
        let answer = agent.client.get(&format!("/api/vms/web/stats?{query}")).await;
        assert_eq!(answer.problem().0, status, "{query}");
    }
    assert_eq!(agent.client.get("/api/vms/none/stats").await.problem().0, 404);
}
