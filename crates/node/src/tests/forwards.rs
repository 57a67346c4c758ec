//! Port maps without bridges, by what VMMs forward: simulated ones listen for
//! real, in a network namespace of the test's own.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::{TestAgent, request};
use super::networks::in_namespace;

fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn listens_udp(port: u16) -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}

impl TestAgent {
    async fn map(&self, map: Value) -> Value {
        self.client.post("/api/ports", &map).await.ok()["items"][0].clone()
    }

    /// The map of this name, once it is as wanted.
    async fn until_map(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let listed = self.client.get("/api/ports").await.ok();
            let found = listed["items"].as_array().unwrap().iter().find(|map| map["name"] == name);
            if let Some(map) = found.filter(|map| wanted(map)) {
                return map.clone();
            }
            assert!(start.elapsed() < PATIENCE, "never as wanted: {listed}");
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn without_bridges_ports_lead_into_machines() {
    in_namespace("without_bridges_ports_lead_into_machines", || async {
        let mut agent = TestAgent::start().await;
        let ports = json!([{ "hostPort": 8080, "targetPort": 80 },
            { "hostPort": 5000, "hostPortEnd": 5002, "protocol": "udp", "hostAddress": "127.0.0.1" }]);
        let vm = agent.create("web", json!({ "ports": ports })).await;
        assert_eq!(vm["phase"], "running", "{vm}");
        assert_eq!(vm["ports"][0]["masquerade"], true, "the guest sees nobody else: {vm}");
        let all = || listens(8080) && [5000, 5001, 5002].into_iter().all(listens_udp);
        assert!(all() && !listens_udp(5003));

        // While it runs.
        let more = agent.map(json!({ "hostPort": 9000, "vm": "web" })).await;
        assert!(listens(9000));
        agent.client.delete(&format!("/api/ports/{}", more["id"].as_str().unwrap())).await.ok();
        assert!(!listens(9000) && all());
        let nothing = agent.client.post("/api/ports/restore", &json!({})).await.ok();
        assert_eq!(nothing, json!({ "ports": 2, "mended": [] }));

        // Over the agent's lives and the machine's.
        agent.die().await;
        assert!(all(), "without an agent");
        let agent = agent.live_on().await;
        agent.until("web", |vm| vm["phase"] == "running").await;
        assert!(all());
        agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
        agent.until("web", |vm| vm["phase"] == "running").await;
        assert!(all(), "after its restart");

        // Simulated machines whose process has died have lost theirs.
        let mut agent = agent.live_again(Behaviour::default()).await;
        agent.until("web", |vm| vm["phase"] == "running").await;
        agent.until_map("8080/tcp", |map| map.get("error").is_none()).await;
        let again = json!({ "replace": true, "ports": [{ "hostPort": 8080, "targetPort": 81 }] });
        agent.create("web", again).await;
        agent.until("web", |vm| vm["phase"] == "running").await;
        assert!(listens(8080) && !listens_udp(5000), "the next one's, and only those");
        agent.client.delete("/api/vms/web?force=true&wait=60s").await.ok();
        assert!(!listens(8080));
        assert_eq!(agent.client.get("/api/ports").await.ok()["items"], json!([]));
        agent.die().await;
    });
}

#[test]
fn a_port_that_somebody_took_meanwhile_holds_up_nothing_else() {
    let name = "a_port_that_somebody_took_meanwhile_holds_up_nothing_else";
    in_namespace(name, || async {
        let agent = TestAgent::start().await;
        agent.create("web", json!({ "ports": [{ "hostPort": 8080 }, { "hostPort": 8081 }] })).await;
        agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
        assert!(!listens(8080), "what is stopped listens on nothing");
        let somebody = TcpListener::bind("127.0.0.1:8080").unwrap();
        agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
        agent.until("web", |vm| vm["phase"] == "running").await;
        assert!(listens(8081));
        let map = agent.until_map("8080/tcp", |map| map.get("error").is_some()).await;
        let who = format!("(pid {}) listens on port 8080/tcp at 127.0.0.1", std::process::id());
        assert!(map["error"].as_str().unwrap().contains(&who), "{map}");
        agent.map(json!({ "hostPort": 8082, "vm": "web" })).await;
        assert!(listens(8082));
        let restored = agent.client.post("/api/ports/restore", &json!({})).await.ok();
        assert_eq!(restored["ports"], 2, "{restored}");
        drop(somebody);
        agent.until_map("8080/tcp", |map| map.get("error").is_none()).await;
        assert!(listens(8080), "by itself, once it is free");
    });
}

#[test]
fn what_vmms_cannot_forward_is_said_by_name() {
    in_namespace("what_vmms_cannot_forward_is_said_by_name", || async {
        let agent = TestAgent::start().await;
        agent.create("web", json!({ "ports": [{ "hostPort": 8080 }] })).await;
        let to_web = |port: u16| json!({ "hostPort": port, "vm": "web" });
        let with = |mut map: Value, key: &str, value: Value| {
            map[key] = value;
            map
        };
        let somebody = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = somebody.local_addr().unwrap().port();
        for (map, status, words) in [
            (
                json!({ "hostPort": 9000, "targetAddress": "10.0.0.1" }),
                400,
                "a port map to an address",
            ),
            (with(to_web(9000), "interface", json!("lo")), 400, "a port map for one interface"),
            (with(to_web(9000), "hostAddress", json!("2001:db8::1")), 400, "of an IPv6 address"),
            (with(to_web(9000), "hostAddress", json!("192.0.2.1")), 400, "does not have it"),
            (to_web(80), 400, "net.ipv4.ip_unprivileged_port_start"),
            (with(to_web(9000), "hostPortEnd", json!(9255)), 400, "256 at most"),
            (to_web(8080), 409, "mapped to the VM web already"),
            (to_web(taken), 409, "listens on"),
        ] {
            let (found, _, detail) = agent.client.post("/api/ports", &map).await.problem();
            assert!(found == status && detail.contains(words), "{map}: {found} {detail}");
        }
        let lab = request("x", json!({ "network": "lab", "ports": [{ "hostPort": 9000 }] }));
        let (status, _, detail) = agent.client.post("/api/vms", &lab).await.problem();
        assert!(status == 400 && detail.contains("a named network cannot"), "{detail}");
        let listed = agent.client.get("/api/ports").await.ok();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    });
}
