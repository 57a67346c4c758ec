use serde_json::json;

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_kept_changed_and_told() {
    let agent = TestAgent::start().await;
    let asked = json!({ "limits": { "cpuQuotaPercent": 150, "pids": 200, "ioReadBps": 1 << 20 } });
    let vm = agent.create("web", asked).await;
    assert_eq!(vm["limits"]["cpuQuotaPercent"], 150);
    assert_eq!(vm["limits"]["ioReadBps"], 1 << 20);
    let layout = vm["limits"]["layout"].as_str().unwrap();
    assert!(["v1", "v2", "hybrid", "none"].contains(&layout), "{layout}");
    // A simulated machine has nothing that could be limited, and that is told.
    assert_eq!(vm["limits"]["applied"], json!([]));

    let change = json!({ "cpuQuotaPercent": null, "cpuWeight": 300 });
    let limits = agent.client.patch("/api/vms/web/limits", &change).await.ok();
    assert_eq!((&limits["cpuWeight"], &limits["pids"]), (&json!(300), &json!(200)));
    assert!(limits.get("cpuQuotaPercent").is_none(), "{limits}");
    let vm = agent.client.get("/api/vms/web").await.ok();
    assert_eq!(vm["limits"], limits);
    assert_eq!(vm["generation"], 1, "what is desired has not changed");

    for (change, words) in [
        (json!({ "memoryBytes": 1 }), "too small"),
        (json!({ "cpuWeight": 10_001 }), "1 to 10000"),
        (json!({ "cpuQuotaPercent": 1 }), "5 %"),
        (json!({ "pids": 3 }), "threads"),
        (json!({ "ioWriteIops": 0 }), "at least"),
        (json!({ "cpu": 3 }), "cpu"),
    ] {
        let refused = agent.client.patch("/api/vms/web/limits", &change).await;
        let (status, _, detail) = refused.problem();
        assert!(status == 400 && detail.contains(words), "{change}: {status} {detail}");
    }
    let nobody = agent.client.patch("/api/vms/none/limits", &json!({})).await;
    assert_eq!(nobody.problem().0, 404);
    let request = super::agent::request("tiny", json!({ "limits": { "pids": 1 } }));
    assert_eq!(agent.client.post("/api/vms", &request).await.problem().0, 400);
    assert_eq!(agent.client.get("/api/vms/web").await.ok()["limits"], limits);
}
