//! What befalls an agent's own files, and the way out of it.

use std::fs;
use std::os::unix::fs::{FileExt, chown};
use std::path::Path;

use inn_vmm_sim::{Behaviour, SimRuntime};
use serde_json::json;

use super::agent::{TestAgent, config};
use super::disk_full::{SmallDisk, with_own_mounts};
use crate::error::{AgentError, Chain};
use crate::node::{Node, Parts};

/// Why an agent does not start on these files.
async fn refusal(config: &crate::Config) -> AgentError {
    let parts = Parts { guest_binary: b"" };
    Node::open(config.clone(), parts, SimRuntime::default()).await.expect_err("it is refused")
}

fn copy_state(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("state.db") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn remove_state(from: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("state.db") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_state_is_refused_its_vms_run_on_and_a_backup_brings_them_back() {
    let mut agent = TestAgent::start().await;
    let before = agent.create("web", json!({})).await;
    agent.die().await;
    let (config, paths) = (agent.node.config.latest(), agent.node.config.paths.clone());
    let (data, backup) = (paths.data_dir.clone(), agent.dir.path().join("backup"));
    let database = data.join("state.db");
    // The lock goes with the last who has it; the files are those of a crash.
    let agent = agent.at_rest().await;
    copy_state(&data, &backup);
    let run_files = || fs::read_dir(paths.runs()).unwrap().count();
    assert_eq!(run_files(), 1);

    for damage in ["overwritten", "torn", "emptied of sense"] {
        remove_state(&data);
        copy_state(&backup, &data);
        match damage {
            "overwritten" => fs::write(&database, "what is this").unwrap(),
            "torn" => {
                fs::OpenOptions::new().write(true).open(&database).unwrap().set_len(5_000).unwrap()
            }
            _ => {
                let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
                file.write_all_at(&[0xff; 3_000], 100).unwrap();
            }
        }
        let _ = fs::remove_file(data.join("state.db-wal"));
        let text = refusal(&config).await.to_string();
        let shown = database.display().to_string();
        for part in [shown.as_str(), "is damaged", "run on", "backup", "move it away"] {
            assert!(text.contains(part), "{damage}: {part}: {text}");
        }
        assert_eq!(run_files(), 1, "{damage}: its machine is let be");
    }

    remove_state(&data);
    copy_state(&backup, &data);
    let agent = agent.live_on().await;
    let after = agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
    assert_eq!((&after["id"], &after["startedAt"]), (&before["id"], &before["startedAt"]));

    // The other way out: no VMs, and nothing of them stays.
    let agent = agent.at_rest().await;
    remove_state(&data);
    let agent = agent.live_again(Behaviour::default()).await;
    assert_eq!(agent.node.vms.len(), 0);
    assert_eq!(agent.files_of_vms(), Vec::<String>::new());
    agent.create("web", json!({})).await;
}

#[tokio::test]
async fn files_of_another_user_are_refused_by_name() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!(
            "SKIPPED files_of_another_user_are_refused_by_name: only root gives away"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &[]);
    let parts = Parts { guest_binary: b"" };
    drop(Node::open(config.clone(), parts, SimRuntime::default()).await.unwrap());
    for (file, words) in [
        ("data/state.db", "chown"),
        ("data/agent.lock", "chown"),
        ("data/token", "chown"),
        ("data", "set data_dir"),
        ("run", "set runtime_dir"),
    ] {
        let path = dir.path().join(file);
        chown(&path, Some(12_345), None).unwrap();
        let text = refusal(&config).await.to_string();
        chown(&path, Some(0), None).unwrap();
        for part in [&*path.to_string_lossy(), "another user (uid 12345)", words] {
            assert!(text.contains(part), "{file}: {part}: {text}");
        }
    }
    Node::open(config, parts, SimRuntime::default()).await.unwrap();
}

#[test]
fn a_data_directory_that_cannot_be_written_to() {
    with_own_mounts("mishaps::a_data_directory_that_cannot_be_written_to", async {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let _disk = SmallDisk::mounted(&data, "8m");
        let config = config(dir.path(), &[]);
        let parts = Parts { guest_binary: b"" };
        let remount = |flags| rustix::mount::mount_remount(&data, flags, c"").unwrap();
        remount(rustix::mount::MountFlags::RDONLY);
        let error = refusal(&config).await;
        let text = Chain(&error).to_string();
        for part in [&*data.to_string_lossy(), "read-only", "data_dir"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        remount(rustix::mount::MountFlags::empty());
        Node::open(config, parts, SimRuntime::default()).await.unwrap();
    });
}

/// Deeper than a socket's name may be long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_directory_however_deep_has_working_sockets() {
    let deep = tempfile::tempdir().unwrap();
    let run = deep.path().join("d".repeat(120)).join("e".repeat(120));
    let flags = [("runtime_dir", run.to_str().unwrap())];
    let mut agent = TestAgent::with(&flags, Behaviour::default()).await;
    assert!(agent.node.config.paths.api_socket().as_os_str().len() > 240);
    agent.create("web", json!({})).await;
    agent.die().await;
    let agent = agent.live_on().await;
    agent.until("web", |vm| vm["guest"]["link"] == "ready").await;
    let client = inn_client::Client::unix(agent.node.config.paths.api_socket());
    assert_eq!(client.vms().await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_import_left_when_it_died_goes_at_the_start() {
    let agent = TestAgent::start().await;
    let images = agent.node.config.paths.image_cache_dir.clone();
    let rest = agent.at_rest().await;
    let left = [
        images.join("blobs/sha256").join("ab".repeat(32)),
        images.join("disks").join(format!("{}.img", "ab".repeat(32))),
    ];
    for path in &left {
        fs::write(path, "half an image").unwrap();
    }
    let agent = rest.live_again(Behaviour::default()).await;
    let swept = async {
        while left.iter().any(|path| path.exists()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::PATIENCE, swept).await.expect("they go");
    agent.create("web", json!({})).await;
}

/// A fresh disk is not synced: a crash of the host may leave it without a byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_a_crash_of_the_host_has_emptied_is_made_again() {
    let agent = TestAgent::start().await;
    let mut disks = Vec::new();
    for name in ["emptied", "cut", "whole"] {
        agent.create(name, json!({})).await;
        agent.client.post(&format!("/api/vms/{name}/stop?wait=60s"), &json!({})).await.ok();
        disks.push(agent.node.vms.find(name).unwrap().paths().disk());
    }
    let data = agent.node.config.paths.data_dir.clone();
    let change = |disk: &Path, bytes: &[u8], at: u64| {
        let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    let magic = |disk: &Path| {
        let mut bytes = [0; 2];
        fs::File::open(disk).unwrap().read_exact_at(&mut bytes, 1080).unwrap();
        bytes
    };
    let rest = agent.at_rest().await;
    change(&disks[0], &[0; 4096], 0);
    fs::write(&disks[1], "").unwrap();
    change(&disks[2], b"a guest's", 8 << 20);
    // In the same boot of the host nobody looks: a guest may do as it likes.
    let agent = rest.live_again(Behaviour::default()).await;
    let rest = agent.at_rest().await;
    assert_eq!(magic(&disks[0]), [0, 0]);

    let store = inn_store::Store::open(&data).unwrap();
    store.set_node_value("host_boot", "an earlier one".into()).await.unwrap();
    store.close();
    let agent = rest.live_again(Behaviour::default()).await;
    for (name, disk) in ["emptied", "cut", "whole"].into_iter().zip(&disks) {
        let start = format!("/api/vms/{name}/start?wait=60s");
        assert_eq!(agent.client.post(&start, &json!({})).await.ok()["phase"], "running");
        assert_eq!(magic(disk), [0x53, 0xef], "{name}");
    }
    let mut kept = [0; 9];
    fs::File::open(&disks[2]).unwrap().read_exact_at(&mut kept, 8 << 20).unwrap();
    assert_eq!(&kept, b"a guest's");

    // One that is gone altogether is said to be, and not replaced.
    agent.client.post("/api/vms/whole/stop?wait=60s", &json!({})).await.ok();
    fs::remove_file(&disks[2]).unwrap();
    agent.client.post("/api/vms/whole/start?wait=60s", &json!({})).await;
    let vm = agent.until("whole", |vm| vm["phase"] == "failed").await;
    assert!(vm["failure"]["cause"].as_str().unwrap().contains("is gone"), "{vm}");
}
