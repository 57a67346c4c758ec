//! What Prometheus is told.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::agent::TestAgent;

/// Samples by name and labels, as text.
async fn scrape(agent: &TestAgent) -> BTreeMap<String, f64> {
    let response = agent.client.get("/metrics").await;
    assert_eq!(response.status, 200);
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vms_are_told_while_they_are_there() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    agent.create("idle", json!({ "start": false })).await;
    let told = scrape(&agent).await;
    for (name, value) in [
        ("inn_vms{phase=\"running\"}", 1.0),
        ("inn_vms{phase=\"stopped\"}", 1.0),
        ("inn_vms{phase=\"failed\"}", 0.0),
        ("inn_vms_unsettled", 0.0),
        ("inn_guest_links{link=\"ready\"}", 1.0),
        ("inn_vm_up{vm=\"web\"}", 1.0),
        ("inn_vm_up{vm=\"idle\"}", 0.0),
        ("inn_vm_vcpus{vm=\"web\"}", 1.0),
        ("inn_vm_start_duration_seconds_count{from=\"boot\"}", 1.0),
        ("inn_images", 1.0),
        ("inn_agent_adopted", 1.0),
        ("inn_events_total{kind=\"vm-accepted\"}", 2.0),
        ("inn_api_requests_total{method=\"POST\",route=\"/api/vms\",status=\"201\"}", 2.0),
    ] {
        assert!(told.get(name).is_some_and(|is| (is - value).abs() < 1e-9), "{name}: {told:#?}");
    }
    let id = agent.vm("web").await["id"].as_str().unwrap().to_owned();
    let info = told.keys().find(|name| name.starts_with("inn_vm_info{vm=\"web\"")).unwrap();
    assert!(info.contains(&id) && info.contains("runtime=\"sim\""), "{info}");

    // Whatever is asked for, there are only as many routes as there are.
    for path in ["/nowhere", "/api/vms/none", "/api/vms/nobody"] {
        agent.client.get(path).await.problem();
    }
    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    agent.client.post("/api/vms/idle/start?wait=60s", &Value::Null).await.ok();
    let told = scrape(&agent).await;
    assert!(!told.keys().any(|name| name.contains("vm=\"web\"")), "{told:#?}");
    assert!((told["inn_vm_up{vm=\"idle\"}"] - 1.0).abs() < 1e-9);
    let missed = "inn_api_requests_total{method=\"GET\",route=\"/api/vms/{vm}\",status=\"404\"}";
    assert!(told.get(missed).is_some_and(|is| (is - 2.0).abs() < 1e-9), "{told:#?}");
    assert!(!told.keys().any(|name| name.contains("nowhere")), "{told:#?}");
}
