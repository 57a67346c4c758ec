//! Others' firewalls beside the agent's tables, as their own programs make
//! them, in a network namespace of the test's own.

use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::agent::TestAgent;
use super::networks::{BRIDGE, in_namespace, ip, program};

/// As Docker 28 lays its filter table out (docs.docker.com, "Packet filtering
/// and firewalls").
const DOCKER: &[&str] = &[
    "-N DOCKER-USER",
    "-N DOCKER-FORWARD",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -j DOCKER-FORWARD",
    "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
    "-P FORWARD DROP",
];

fn iptables(arguments: &str) -> String {
    program(&format!("iptables-nft {arguments}"))
}

/// Or says that there is none.
#[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
fn docker(test: &str) -> bool {
    if std::process::Command::new("iptables-nft").arg("--version").output().is_err() {
        println!("SKIPPED {test}: no iptables-nft");
        return false;
    }
    for arguments in DOCKER {
        iptables(arguments);
    }
    true
}

/// What doctor says of others' rules.
async fn firewall(agent: &TestAgent) -> serde_json::Value {
    let told = agent.client.get("/api/node/doctor").await.ok();
    let findings = told["findings"].as_array().unwrap();
    let of = findings.iter().filter(|finding| finding["check"] == "network.firewall");
    let all: Vec<_> = of.cloned().collect();
    let [one] = &all[..] else { panic!("{told}") };
    one.clone()
}

#[test]
fn what_another_firewall_drops_is_why() {
    let name = "what_another_firewall_drops_is_why";
    in_namespace(name, move || async move {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        agent.create("web", json!({ "ports": [{ "hostPort": 8080 }] })).await;
        agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
        let why = agent.client.get("/api/vms/web/why").await.ok();
        assert_eq!(why["verdict"], "fine", "{why}");
        let network = &why["network"];
        assert_eq!(
            (&network["attached"], network["ports"].as_array().unwrap().len()),
            (&json!(true), 1)
        );
        assert_eq!(network["addresses"], agent.vm("web").await["addresses"]);
        if !docker(name) {
            return;
        }
        agent.client.post("/api/ports/restore", &json!({})).await.ok();
        let why = agent.client.get("/api/vms/web/why").await.ok();
        assert_eq!(why["verdict"], "impaired", "{why}");
        let summary = why["summary"].as_str().unwrap();
        assert!(summary.contains("Docker's chain FORWARD of table ip filter drops"), "{summary}");
        assert!(summary.contains("network.foreign"), "{summary}");
        assert_eq!(why["network"]["blocked"].as_array().unwrap().len(), 1, "{why}");
        assert!(!iptables("-S").contains("inn-b"), "nobody has asked for more");
        let finding = firewall(&agent).await;
        assert_eq!(finding["state"], "degraded", "{finding}");
        let found = finding["found"].as_str().unwrap();
        assert!(found.contains("Docker's chain FORWARD of table ip filter drops"), "{finding}");
        let command = finding["command"].as_str().unwrap();
        assert!(finding["instruction"].as_str().unwrap().contains("docker-user"), "{finding}");
        for call in command.split(" && ") {
            iptables(call.strip_prefix("iptables ").unwrap());
        }
        agent.client.post("/api/ports/restore", &json!({})).await.ok();
        assert_eq!(firewall(&agent).await["state"], "ok", "{command}");
        assert_eq!(agent.client.get("/api/vms/web/why").await.ok()["verdict"], "fine");
    });
}

#[test]
fn dockers_own_chain_is_used_where_that_is_wanted() {
    let name = "dockers_own_chain_is_used_where_that_is_wanted";
    in_namespace(name, move || async move {
        if !docker(name) {
            return;
        }
        ip("link add docker0 type bridge");
        let before = iptables("-S");
        let flags = [BRIDGE, ("network.foreign", "docker-user")];
        let mut agent = TestAgent::with(&flags, Behaviour::default()).await;
        agent.create("web", json!({})).await;
        agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
        let own = agent.client.get("/api/networks/default").await.ok();
        let lab = agent.client.post("/api/networks", &json!({ "name": "lab" })).await.ok();
        let rules = || iptables("-S DOCKER-USER");
        let has = |network: &serde_json::Value| {
            let bridge = network["bridge"].as_str().unwrap();
            let rules = rules();
            ["-i", "-o"]
                .iter()
                .all(|way| rules.contains(&format!("-A DOCKER-USER {way} {bridge} ")))
        };
        assert!(has(&own) && has(&lab), "{}", rules());
        let why = agent.client.get("/api/vms/web/why").await.ok();
        assert_eq!(why["verdict"], "fine", "{why}");

        // Its program's reload takes them along, and the agent notices.
        iptables("-F DOCKER-USER");
        let start = std::time::Instant::now();
        while !(has(&own) && has(&lab)) {
            assert!(start.elapsed() < super::PATIENCE, "never again: {}", rules());
        }
        agent.client.delete("/api/networks/lab").await.ok();
        assert!(has(&own) && !has(&lab), "{}", rules());
        // An agent that is told otherwise takes its rules back.
        agent.die().await;
        let agent = agent.told(&[BRIDGE]).live_on().await;
        assert_eq!(iptables("-S"), before);
        drop(agent);
    });
}
