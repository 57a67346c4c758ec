//! Whatever comes in whatever order: in the end the kernel has what is
//! declared, and nothing else.

use std::collections::BTreeSet;

use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::agent::{TestAgent, request};
use super::networks::{BRIDGE, in_namespace, own_table, program};

/// As many steps as there are, each drawn by a number after the one before.
const STEPS: u32 = 200;

/// xorshift (Marsaglia 2003): the same every time.
struct Drawn(u32);

impl Drawn {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % end
    }
}

#[test]
fn two_hundred_steps_in_any_order_end_with_what_is_declared() {
    in_namespace("two_hundred_steps_in_any_order_end_with_what_is_declared", || async {
        let mut agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let mut drawn = Drawn(0x1995_0607);
        for step in 0..STEPS {
            let name = format!("vm-{}", drawn.below(4));
            let port = 8000 + drawn.below(40);
            // What is refused, because it is there or is not, is a step, too.
            match drawn.below(12) {
                0..=2 => {
                    drop(agent.client.post("/api/vms?wait=60s", &request(&name, json!({}))).await)
                }
                3 => {
                    drop(agent.client.delete(&format!("/api/vms/{name}?force=true&wait=60s")).await)
                }
                4 => drop(
                    agent
                        .client
                        .post(&format!("/api/vms/{name}/restart?force=true&wait=60s"), &json!({}))
                        .await,
                ),
                5..=7 => {
                    let map = json!({ "hostPort": port, "vm": name, "targetPort": 80 });
                    drop(agent.client.post("/api/ports", &map).await);
                }
                8 => {
                    let all = agent.client.get("/api/ports").await.ok();
                    let all = all["items"].as_array().unwrap();
                    if let Some(map) = all.get(drawn.below(40) as usize) {
                        let id = map["id"].as_str().unwrap();
                        agent.client.delete(&format!("/api/ports/{id}")).await.ok();
                    }
                }
                9 => {
                    let mode = if drawn.below(2) == 0 { "none" } else { "allow_all" };
                    let policy = json!({ "mode": mode });
                    drop(agent.client.put(&format!("/api/vms/{name}/policy"), &policy).await);
                }
                10 => {
                    agent.die().await;
                    agent = agent.live_on().await;
                }
                _ => match drawn.below(3) {
                    0 => drop(program("nft flush ruleset")),
                    1 => {
                        // It may be gone already.
                        let table = own_table();
                        program(&format!("nft add table inet {table}"));
                        program(&format!("nft delete table inet {table}"));
                    }
                    _ => {
                        let listed = agent.client.get("/api/networks/default").await.ok();
                        let bridge = listed["bridge"].as_str().unwrap();
                        program(&format!("ip link set {bridge} down"));
                    }
                },
            }
            if step % 50 == 49 {
                settled(&agent).await;
            }
        }
        settled(&agent).await;
        for name in 0..4 {
            drop(agent.client.delete(&format!("/api/vms/vm-{name}?force=true&wait=60s")).await);
        }
        settled(&agent).await;
        let left: BTreeSet<String> = program("ip -br link")
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with("inn-t"))
            .map(str::to_owned)
            .collect();
        assert!(left.is_empty(), "taps are left: {left:?}");
    });
}

/// Nothing is left to be done, and what is there is what a look from without
/// finds.
async fn settled(agent: &TestAgent) {
    agent.client.post("/api/ports/restore", &json!({})).await.ok();
    let again = agent.client.post("/api/ports/restore", &json!({})).await.ok();
    assert_eq!(again["mended"], json!([]), "{again}");
    let declared = agent.node.networks.declared_now();
    let wanted = inn_net::table::tables(&declared);
    let instance = declared.instance.clone();
    tokio::task::spawn_blocking(move || {
        let mut kernel = inn_net::nft::Kernel::open(instance).unwrap();
        let left = inn_net::nft::plan(&wanted, kernel.read().unwrap());
        assert!(left.is_empty(), "{left}");
        let mut links = inn_net::link::Links::open().unwrap();
        let observed = links.read(&declared).unwrap();
        let left = inn_net::link::plan(&declared, &observed);
        assert!(left.is_empty(), "{left}");
    })
    .await
    .unwrap();
}
