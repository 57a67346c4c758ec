//! Which kernel VMs boot, over the API.

use std::fs;
use std::path::Path;

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;

/// As much of an ELF as a vmlinux is known by: one note, where a PVH loader
/// enters (xen/include/public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).
fn vmlinux() -> Vec<u8> {
    let mut elf = vec![0; 140];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(18, &62u16.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    put(64, &4u32.to_le_bytes());
    put(72, &120u64.to_le_bytes());
    put(96, &20u64.to_le_bytes());
    for (at, n) in [(120, 4u32), (124, 4), (128, 18)] {
        put(at, &n.to_le_bytes());
    }
    put(132, b"Xen\0");
    put(136, &[0, 0, 0, 1]);
    elf
}

fn write(dir: &Path, name: &str, content: &[u8]) {
    let dir = dir.join("data/kernels").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("vmlinux"), content).unwrap();
    fs::write(dir.join("built"), format!("{name}\n")).unwrap();
}

fn default(list: &Value) -> Option<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().find(|one| one["default"] == true).map(|one| one["name"].as_str().unwrap())
}

async fn choose(agent: &TestAgent, body: &Value) -> super::client::Answer {
    agent.client.put("/api/kernels/default", body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_is_chosen_for_good() {
    let agent = TestAgent::prepared(&[], Behaviour::default(), |dir| {
        write(dir, "6.12.1-innkeeper", &vmlinux());
        write(dir, "6.13.2-innkeeper", &vmlinux());
        write(dir, "damaged", b"no kernel");
    })
    .await;
    let list = agent.client.get("/api/kernels").await.ok();
    let named = |name: &str| {
        let items = list["items"].as_array().unwrap().clone();
        items.into_iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{list}"))
    };
    let one = named("6.12.1-innkeeper");
    assert_eq!((&one["version"], &one["origin"]), (&json!("6.12.1-innkeeper"), &json!("built")));
    assert_eq!(one["bytes"], 140);
    assert!(list["directory"].as_str().unwrap().ends_with("data/kernels"), "{list}");

    let chosen = choose(&agent, &json!({ "name": "6.12.1-innkeeper" })).await.ok();
    assert_eq!(default(&chosen), Some("6.12.1-innkeeper"));
    let (status, _, detail) = choose(&agent, &json!({ "name": "6.12.1-inkeeper" })).await.problem();
    assert_eq!(status, 404);
    assert!(detail.contains("did you mean 6.12.1-innkeeper?"), "{detail}");
    let (status, _, detail) = choose(&agent, &json!({ "name": "damaged" })).await.problem();
    assert_eq!(status, 404);
    assert!(detail.contains("neither a bzImage"), "{detail}");

    // Another agent knows.
    let agent = agent.live_again(Behaviour::default()).await;
    let list = agent.client.get("/api/kernels").await.ok();
    assert_eq!(default(&list), Some("6.12.1-innkeeper"));
    // It is gone: nothing else is taken in its place, and VMs say so.
    fs::remove_dir_all(agent.dir.path().join("data/kernels/6.12.1-innkeeper")).unwrap();
    let list = agent.client.get("/api/kernels").await.ok();
    assert_eq!(default(&list), None, "{list}");
    let error = agent.node.kernels.boot_files(None, inn_vmm_qemu::MachineType::Microvm).await;
    let sentence = error.unwrap_err().to_string();
    assert!(sentence.contains("6.12.1-innkeeper, which is gone"), "{sentence}");
    let newest = choose(&agent, &json!({})).await.ok();
    assert_ne!(default(&newest), None, "{newest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_leaves_no_choice() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "own", &vmlinux());
    let path = dir.path().join("data/kernels/own/vmlinux");
    let flags = [("kernel.path", path.to_str().unwrap())];
    let agent = TestAgent::with(&flags, Behaviour::default()).await;
    let list = agent.client.get("/api/kernels").await.ok();
    assert_eq!(default(&list), Some("configured"));
    let (status, _, detail) = choose(&agent, &json!({})).await.problem();
    assert_eq!(status, 409);
    assert!(detail.contains("kernel.path"), "{detail}");
}
