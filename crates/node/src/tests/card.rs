//! The rates of a policy, as a VMM has them that keeps them itself.

use inn_vmm::{CardLimits, Flow};
use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::PATIENCE;
use super::agent::TestAgent;
use super::networks::{BRIDGE, in_namespace};

/// In bytes a second, each way, once its VMM has been told so.
async fn until_held_to(agent: &TestAgent, vm: &str, rates: [Option<u64>; 2]) {
    let id = agent.node.vms.find(vm).expect("the VM is there").id();
    let rate = |flow: Flow| flow.bytes.map(|bucket| bucket.per_second);
    let held = |limits: CardLimits| [rate(limits.from_guest), rate(limits.to_guest)] == rates;
    let told = async {
        while !agent.sim.card_limits(id).is_some_and(held) {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await;
    assert!(told.is_ok(), "never {rates:?}: {:?}", agent.sim.card_limits(id));
}

#[test]
fn a_vmm_has_the_rates_of_its_vm_s_policy_and_follows_it() {
    in_namespace("a_vmm_has_the_rates_of_its_vm_s_policy_and_follows_it", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let policy = |rates| json!({ "mode": "rules", "rules": [], "rates": rates });
        let rates = policy(json!({ "egressBps": 1 << 20 }));
        let vm = agent.create("web", json!({ "policy": rates })).await;
        agent.create("other", json!({})).await;
        let id = vm["id"].as_str().unwrap().parse().unwrap();
        let launched = agent.sim.card_limits(id).expect("it was launched with some");
        assert_eq!(launched.from_guest.bytes.unwrap().per_second, 1 << 20);
        assert!(launched.from_guest.packets.is_none() && launched.to_guest == Flow::default());

        let rates = policy(json!({ "egressBps": 1 << 21, "ingressBps": 8000 }));
        agent.client.put("/api/vms/web/policy", &rates).await.ok();
        until_held_to(&agent, "web", [Some(1 << 21), Some(9001)]).await;
        // Another life does not know what a machine was told, and tells it.
        let agent = agent.live_again(Behaviour::default()).await;
        until_held_to(&agent, "web", [Some(1 << 21), Some(9001)]).await;
        until_held_to(&agent, "other", [None, None]).await;
        agent.client.put("/api/vms/web/policy", &json!({ "mode": "allow_all" })).await.ok();
        until_held_to(&agent, "web", [None, None]).await;
        // Started anew it has what it had asked for.
        agent.client.put("/api/vms/web/policy", &rates).await.ok();
        agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
        until_held_to(&agent, "web", [Some(1 << 21), Some(9001)]).await;
    });
}
