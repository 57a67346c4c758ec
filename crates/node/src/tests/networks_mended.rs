//! What somebody else does to our tables and links is noticed and undone, by
//! itself; and what a VM's card takes of its start is told.

use std::time::{Duration, Instant};

use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::PATIENCE;
use super::agent::TestAgent;
use super::networks::{BRIDGE, in_namespace, own_table, program};

/// What there is, without what was counted and numbers that a new link has.
fn there(bridge: &str, tap: &str) -> String {
    // They are listed in the order in which they were made.
    let rules = program("nft -s list ruleset");
    let mut rules: Vec<&str> = rules.lines().collect();
    rules.sort_unstable();
    let rules = rules.join("\n");
    let link = |name: &str| {
        let told = program(&format!("ip -o -d link show {name}"));
        let words: Vec<&str> = told.split([' ', ',', '<', '>', '\t']).collect();
        let bridge = words.iter().skip(2).find(|word| word.starts_with("inn-b"));
        // Whether it has a carrier comes later, by itself.
        format!("{} {bridge:?} {}", words.contains(&"UP"), told.contains("isolated on"))
    };
    let addresses = program(&format!("ip -o addr show {bridge} scope global"));
    let addresses: Vec<&str> = addresses
        .split_whitespace()
        .filter(|word| word.contains('/') && word.contains(['.', ':']))
        .collect();
    let known = program(&format!("ip neigh show dev {bridge} nud permanent"));
    let mut known: Vec<&str> = known.lines().filter(|line| !line.starts_with("ff")).collect();
    known.sort_unstable();
    format!("{rules}\n{}\n{}\n{addresses:?}\n{known:?}", link(bridge), link(tap))
}

/// How long it took; nobody has asked for it.
async fn mended(what: &str, before: &str, now: impl Fn() -> Option<String>) -> Duration {
    let start = Instant::now();
    loop {
        let found = now();
        if found.as_deref() == Some(before) {
            return start.elapsed();
        }
        let found = found.unwrap_or_default();
        assert!(start.elapsed() < PATIENCE, "never mended: {what}\n{before}\n{found}");
        tokio::task::yield_now().await;
    }
}

#[test]
fn whatever_others_do_is_mended_without_being_asked_for() {
    in_namespace("whatever_others_do_is_mended_without_being_asked_for", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let vm = agent.create("web", json!({ "ports": [{ "hostPort": 8080 }] })).await;
        let tap = format!("inn-t{}", vm["id"].as_str().unwrap());
        let network = agent.client.get("/api/networks/default").await.ok();
        let bridge = network["bridge"].as_str().unwrap().to_owned();
        // It is asked for what is not there while it is mended.
        let look = || {
            let is_there = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            is_there.contains(&bridge).then(|| there(&bridge, &tap))
        };
        let before = look().unwrap();
        assert!(before.contains("8080"), "{before}");
        let table = own_table();
        for sabotage in [
            "nft flush ruleset".to_owned(),
            format!("nft delete table inet {table}"),
            format!("nft delete table bridge {table}"),
            format!("nft flush map inet {table} any-tcp4"),
            format!("nft insert rule inet {table} forward drop"),
            format!("nft flush chain inet {table} sources"),
            format!("ip link set {bridge} down"),
            format!("ip link set {tap} nomaster"),
            format!("ip addr flush dev {bridge}"),
            format!("ip link del {bridge}"),
        ] {
            program(&sabotage);
            let took = mended(&sabotage, &before, look).await;
            println!("{sabotage}: mended after {} ms", took.as_millis());
        }
    });
}

#[test]
fn a_start_tells_what_its_card_took() {
    in_namespace("a_start_tells_what_its_card_took", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        agent.create("web", json!({})).await;
        agent.create("quiet", json!({ "network": "none" })).await;
        for (name, parts) in
            [("web", &["kernel", "network", "simulate"][..]), ("quiet", &["kernel", "simulate"])]
        {
            let why = agent.client.get(&format!("/api/vms/{name}/why")).await.ok();
            let phases = why["boot"]["phases"].as_array().unwrap();
            let launch = phases.iter().find(|phase| phase["name"] == "launch").unwrap();
            let told: Vec<&str> = launch["parts"]
                .as_array()
                .unwrap()
                .iter()
                .map(|part| part["name"].as_str().unwrap())
                .collect();
            assert_eq!(told, parts, "{name}");
        }
    });
}
