//! Admission: what VMs reserve of the node, over the real API.

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::{TestAgent, request};

const MIB: u64 = 1 << 20;

/// Room for four VMs of 64 MiB, or what `more` says, whatever this host has.
async fn small(more: &[(&str, &str)]) -> TestAgent {
    let mut flags = vec![("sim.reserves", "true"), ("admission.cpu_overcommit", "10000")];
    flags.extend_from_slice(more);
    TestAgent::with(&flags, Behaviour::default()).await
}

/// Leaves `mib` of the host's memory to VMs.
fn host_memory_but(mib: u64) -> String {
    let info = rustix::system::sysinfo();
    (u64::from(info.mem_unit) * info.totalram - mib * MIB).to_string()
}

fn vm(name: &str, more: Value) -> Value {
    let mut vm = request(name, json!({ "memoryBytes": 64 * MIB }));
    vm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_creates_at_once_never_overshoot() {
    let kept = host_memory_but(4 * 64);
    let agent = small(&[("admission.host_memory", &kept)]).await;
    let creates = (0..32).map(|n| {
        let client = agent.client.clone();
        let request = vm(&format!("vm-{n}"), json!({}));
        tokio::spawn(async move { client.post("/api/vms", &request).await })
    });
    let mut refused = 0;
    for create in creates.collect::<Vec<_>>() {
        let answer = create.await.unwrap();
        if answer.status != 202 {
            let (status, code, detail) = answer.problem();
            assert_eq!((status, code.as_str()), (507, "insufficient-resources"), "{detail}");
            for word in ["64MiB are asked for", "of 256MiB are free", "admission.memory_overcommit"]
            {
                assert!(detail.contains(word), "{detail}");
            }
            refused += 1;
        }
    }
    assert_eq!((refused, agent.node.vms.len()), (28, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_vm_gives_its_memory_back_and_asks_again_at_its_start() {
    let kept = host_memory_but(64);
    let agent = small(&[("admission.host_memory", &kept)]).await;
    let post = |path: &str| {
        let (client, path) = (agent.client.clone(), format!("/api/vms/{path}?wait=60s"));
        async move { client.post(&path, &json!({})).await }
    };
    agent.client.post("/api/vms?wait=60s", &vm("a", json!({}))).await.ok();
    agent.client.post("/api/vms?wait=60s", &vm("b", json!({ "start": false }))).await.ok();
    for verb in ["b/start", "b/restart"] {
        let (status, code, detail) = post(verb).await.problem();
        assert_eq!((status, code.as_str()), (507, "insufficient-resources"), "{detail}");
        assert!(detail.contains("VM b") && detail.contains("0B of 64MiB"), "{detail}");
    }
    // What runs needs no more to go on, to be started twice or anew.
    for verb in ["a/start", "a/restart"] {
        assert_eq!(post(verb).await.ok()["phase"], "running", "{verb}");
    }
    post("a/stop").await.ok();
    assert_eq!(post("b/start").await.ok()["phase"], "running");
    assert_eq!(post("a/start").await.status, 507);
    // A VM that is replaced makes room for the one in its place.
    let again = vm("b", json!({ "replace": true }));
    assert_eq!(agent.client.post("/api/vms?wait=60s", &again).await.ok()["phase"], "running");
    let larger = vm("b", json!({ "replace": true, "memoryBytes": 65 * MIB }));
    assert_eq!(agent.client.post("/api/vms", &larger).await.status, 507);
    assert_eq!(agent.vm("b").await["phase"], "running", "what is refused replaces nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_agent_evicts_nobody() {
    let mut agent = small(&[]).await;
    for name in ["a", "b", "c"] {
        agent.client.post("/api/vms?wait=60s", &vm(name, json!({}))).await.ok();
    }
    let kept = host_memory_but(64);
    agent.set("admission.host_memory", &kept);
    agent.set("admission.max_vms", "1");
    agent.die().await;
    let agent = agent.live_on().await;
    for name in ["a", "b", "c"] {
        let vm = agent.until(name, |vm| vm["guest"]["link"] == "ready").await;
        assert_eq!(vm["phase"], "running");
    }
    let (status, _, detail) = agent.client.post("/api/vms", &vm("d", json!({}))).await.problem();
    assert_eq!(status, 507);
    assert!(detail.contains("admission.max_vms"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_are_reserved_stopped_or_not_and_cpus_by_those_that_run() {
    let agent =
        small(&[("admission.cpu_overcommit", "4"), ("admission.disk_overcommit", "0.01")]).await;
    let cpus = std::thread::available_parallelism().unwrap().get() * 4;
    let (status, _, detail) =
        agent.client.post("/api/vms", &vm("a", json!({ "vcpus": cpus + 1 }))).await.problem();
    assert_eq!(status, 507);
    assert!(detail.contains("admission.cpu_overcommit"), "{detail}");
    let stopped = json!({ "vcpus": cpus + 1, "start": false });
    agent.client.post("/api/vms?wait=60s", &vm("a", stopped)).await.ok();
    assert_eq!(agent.client.post("/api/vms/a/start", &json!({})).await.status, 507);

    let stat = rustix::fs::statvfs(&agent.node.config.paths.data_dir).unwrap();
    let total = stat.f_blocks * stat.f_frsize / 100 / MIB * MIB;
    let large = json!({ "diskBytes": total - 8 * MIB, "start": false });
    let (status, _, detail) = agent.client.post("/api/vms", &vm("b", large)).await.problem();
    assert_eq!(status, 507, "{detail}");
    assert!(detail.contains("admission.disk_overcommit"), "{detail}");
    agent.client.post("/api/vms?wait=60s", &vm("c", json!({}))).await.ok();
    let grow = json!({ "diskBytes": total });
    let (status, _, detail) = agent.client.post("/api/vms/c/guest/disk", &grow).await.problem();
    assert_eq!(status, 507, "{detail}");
}
