//! The host's disk is full at each thing that an agent writes: what was asked
//! for fails with its reason, what is there can be read and ended, and all
//! goes on once there is room.
//!
//! Each test starts itself again in a mount namespace of its own, where small
//! disks are mounted that nobody else sees and that end with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};

use inn_units::Bytes;
use inn_vmm_sim::{Behaviour, SimRuntime};
use serde_json::{Value, json};

use super::agent::{TestAgent, config, request};
use crate::error::{Chain, is_full_disk};
use crate::node::{Node, Parts};

const INSIDE: &str = "INN_TEST_OWN_MOUNTS";

/// Runs the test in a mount namespace of its own.
#[expect(clippy::disallowed_methods, reason = "a test starts itself")]
pub(super) fn with_own_mounts(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        return runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
    }
    let enter = ["--mount", "--propagation", "private", "--"];
    let unshare = |args: &[&std::ffi::OsStr]| {
        std::process::Command::new("unshare").args(enter).args(args).env(INSIDE, "1").output()
    };
    match unshare(&["true".as_ref()]) {
        Ok(output) if output.status.success() => {}
        why => {
            eprintln!("SKIPPED {name}: no mount namespace without root and unshare: {why:?}");
            return;
        }
    }
    let (itself, test) = (std::env::current_exe().unwrap(), format!("tests::{name}"));
    let args = ["--exact", "--nocapture", "--test-threads=1"].map(std::ffi::OsStr::new);
    let done = unshare(&[&[itself.as_os_str(), test.as_ref()], &args[..]].concat()).unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && text.contains("1 passed"), "{text}{errors}");
}

/// A file system of some size, without a byte free or with all.
pub(super) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    pub(super) fn mounted(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=0700")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("inn-test", at, "tmpfs", flags, options.as_c_str()).unwrap();
        Self { at: at.to_owned() }
    }

    pub(super) fn fill(&self) {
        self.fill_but(0);
    }

    /// Leaves so many KiB.
    pub(super) fn fill_but(&self, kib: u64) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let block = vec![0; 4096];
        while ballast.write_all(&block).is_ok() {}
        let length = ballast.metadata().unwrap().len();
        ballast.set_len(length.saturating_sub(kib << 10)).unwrap();
    }

    pub(super) fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut directories = vec![self.at.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else if entry.path() != self.ballast() {
                    found.insert(entry.path());
                }
            }
        }
        found
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the agent may still have files open there.
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

/// With a small disk at this place of its directory.
pub(super) async fn agent_with(disk_at: &str, size: &str) -> (SmallDisk, TestAgent) {
    let mut disk = None;
    let agent = TestAgent::prepared(&[], Behaviour::default(), |dir| {
        disk = Some(SmallDisk::mounted(&dir.join(disk_at), size));
    })
    .await;
    (disk.unwrap(), agent)
}

#[track_caller]
fn refused_for_want_of_space(answer: &super::client::Answer) {
    let (status, code, detail) = answer.problem();
    assert_eq!((status, code.as_str()), (507, "disk-full"), "{detail}");
    assert!(detail.contains("is full") && detail.contains("free some space"), "{detail}");
}

#[test]
fn the_state_database() {
    with_own_mounts("disk_full::the_state_database", async {
        let (disk, agent) = agent_with("data", "24m").await;
        agent.create("runs", json!({})).await;
        for name in ["old", "older"] {
            agent.create(name, json!({ "start": false })).await;
        }
        disk.fill();
        // As often as it is asked: the database never gets into another state.
        for _ in 0..3 {
            let create = agent.client.post("/api/vms", &request("new", json!({}))).await;
            refused_for_want_of_space(&create);
            let start = agent.client.post("/api/vms/old/start", &json!({})).await;
            refused_for_want_of_space(&start);
        }
        let grow = json!({ "diskBytes": 32 << 20 });
        refused_for_want_of_space(&agent.client.post("/api/vms/runs/guest/disk", &grow).await);
        let list = agent.client.get("/api/vms").await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 3, "{list}");
        assert_eq!(agent.vm("runs").await["phase"], "running");
        let echo = "/api/vms/runs/exec?command=echo&command=well&stdout=true";
        assert_eq!(agent.client.exec(echo, "").await.0, "well\n");
        // What makes room is possible all the same.
        let stopped = agent.client.post("/api/vms/runs/stop?wait=60s", &json!({})).await.ok();
        assert_eq!(stopped["phase"], "stopped", "{stopped}");
        agent.client.delete("/api/vms/older?wait=60s").await.ok();
        agent.until_gone("older").await;

        disk.free();
        let vm = agent.client.post("/api/vms/old/start?wait=60s", &json!({})).await.ok();
        assert_eq!((vm["phase"].as_str(), vm["generation"].as_u64()), (Some("running"), Some(2)));
        agent.create("new", json!({})).await;
        let agent = agent.live_again(Behaviour::default()).await;
        for (name, phase) in [("old", "running"), ("new", "running"), ("runs", "stopped")] {
            agent.until(name, |vm| vm["phase"] == phase).await;
        }
        assert_eq!(agent.client.get("/api/vms/older").await.problem().0, 404);
    });
}

async fn a_start_fails_for_want_of_space(agent: &TestAgent, name: &str, step: &str) {
    let start = format!("/api/vms/{name}/start?wait=60s");
    agent.client.post(&start, &json!({})).await;
    let vm = agent.until(name, |vm| vm["phase"] == "failed").await;
    let failure = &vm["failure"];
    assert_eq!(failure["step"], step, "{vm}");
    let text = |key: &str| failure[key].as_str().unwrap().to_owned();
    let cause = text("cause");
    assert!(cause.contains("full") || cause.contains("No space left"), "{cause}");
    assert!(text("next").contains("free some space"), "{vm}");
}

async fn starts(agent: &TestAgent, name: &str) {
    let vm = agent.client.post(&format!("/api/vms/{name}/start?wait=60s"), &json!({})).await.ok();
    assert_eq!(vm["phase"], "running", "{vm}");
    assert!(vm.get("failure").is_none(), "{vm}");
}

#[test]
fn the_disks_and_logs_of_vms() {
    with_own_mounts("disk_full::the_disks_and_logs_of_vms", async {
        let (disk, agent) = agent_with("data/vms", "48m").await;
        let down = json!({ "start": false, "restartPolicy": "no" });
        agent.create("has-a-disk", down.clone()).await;
        starts(&agent, "has-a-disk").await;
        agent.client.post("/api/vms/has-a-disk/stop?wait=60s", &json!({})).await.ok();
        let log = agent.node.vms.find("has-a-disk").unwrap().paths().console_log();
        fs::remove_file(&log).unwrap();
        agent.create("has-none", down).await;
        for kib in [0, 4, 16] {
            disk.fill_but(kib);
            a_start_fails_for_want_of_space(&agent, "has-none", "prepare-disk").await;
        }
        disk.fill();
        a_start_fails_for_want_of_space(&agent, "has-a-disk", "launch").await;
        disk.free();
        for name in ["has-none", "has-a-disk"] {
            starts(&agent, name).await;
        }

        // A log that is over its limit, and no room to keep its end.
        fs::write(&log, vec![b'x'; 256 << 10]).unwrap();
        disk.fill();
        assert!(inn_vmm::bound_log(&log, Bytes::kib(128)).unwrap());
        assert_eq!(fs::metadata(&log).unwrap().len(), 0, "cut, and nothing kept");
        let logs = log.parent().unwrap();
        let half =
            |path: &PathBuf| path.starts_with(logs) && path.to_string_lossy().contains(".log.1");
        assert!(!disk.files().iter().any(half), "{:?}", disk.files());
        agent.client.delete("/api/vms/has-none?wait=60s").await.ok();
        agent.until_gone("has-none").await;
    });
}

#[test]
fn the_run_directory() {
    with_own_mounts("disk_full::the_run_directory", async {
        let (disk, agent) = agent_with("run", "1m").await;
        agent.create("web", json!({ "start": false, "restartPolicy": "no" })).await;
        disk.fill();
        a_start_fails_for_want_of_space(&agent, "web", "launch").await;
        disk.free();
        starts(&agent, "web").await;
        disk.fill();
        agent.client.delete("/api/vms/web?wait=60s").await.ok();
        agent.until_gone("web").await;
    });
}

async fn import(agent: &TestAgent, name: &str) -> Value {
    let layout = agent.dir.path().join(format!("layout-{name}"));
    super::image::write_layout(&layout, &["echo", name]);
    let body = json!({ "path": layout, "name": name });
    let operation = agent.client.post("/api/images/import", &body).await.ok();
    let id = operation["id"].as_str().unwrap();
    let mut operation = operation.clone();
    while operation["state"] == "running" {
        let version = operation["version"].as_u64().unwrap();
        let path = format!("/api/operations/{id}?wait=30s&version={version}");
        operation = agent.client.get(&path).await.ok();
    }
    operation
}

#[test]
fn an_import() {
    with_own_mounts("disk_full::an_import", async {
        let (disk, agent) = agent_with("data/images", "16m").await;
        let before = disk.files();
        let mut failed = 0;
        for kib in (0..).step_by(4) {
            disk.fill_but(kib);
            let operation = import(&agent, "other").await;
            disk.free();
            if operation["state"] == "succeeded" {
                break;
            }
            let problem = &operation["problem"];
            assert_eq!(problem["code"], "disk-full", "with {kib} KiB: {operation}");
            assert_eq!(disk.files(), before, "with {kib} KiB something was left");
            assert!(
                agent.client.get("/api/images").await.ok()["items"].as_array().unwrap().len() == 1
            );
            failed += 1;
        }
        assert!(failed > 3, "{failed}");
        agent.create("web", json!({ "image": "other" })).await;
    });
}

#[test]
fn an_import_has_what_is_unused_make_room() {
    with_own_mounts("disk_full::an_import_has_what_is_unused_make_room", async {
        let (disk, agent) = agent_with("data/images", "16m").await;
        agent.create("web", json!({ "start": false })).await;
        for name in ["old", "older"] {
            assert_eq!(import(&agent, name).await["state"], "succeeded");
        }
        for (name, days) in [("base", 90), ("old", 30), ("older", 60)] {
            super::image_cache::age(&agent, name, days).await;
        }
        disk.fill();
        let names = async || {
            let list = agent.client.get("/api/images").await.ok();
            let items = list["items"].as_array().unwrap().clone();
            items.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        // Nothing is free, and still it succeeds.
        let operation = import(&agent, "new").await;
        assert_eq!(operation["state"], "succeeded", "{operation}");
        let left = names().await;
        assert!(left.iter().any(|name| name.starts_with("base")), "a VM is made from it: {left:?}");
        assert!(!left.iter().any(|name| name.starts_with("older")), "{left:?}");
        agent.until_told("removed from the image cache for an import: ").await;

        // What is in use or was just used does not go, whatever is asked for.
        super::image_cache::age(&agent, "base", 90).await;
        for name in names().await {
            if !name.starts_with("base") && !name.starts_with("new") {
                agent.client.delete(&format!("/api/images/{name}")).await;
            }
        }
        disk.fill();
        let operation = import(&agent, "another").await;
        assert_eq!(operation["problem"]["code"], "disk-full", "{operation}");
        assert_eq!(names().await.len(), 2);
    });
}

#[test]
fn a_vm_s_disk_has_what_is_unused_make_room() {
    with_own_mounts("disk_full::a_vm_s_disk_has_what_is_unused_make_room", async {
        let (disk, agent) = agent_with("data", "48m").await;
        assert_eq!(import(&agent, "old").await["state"], "succeeded");
        // As large as images are.
        let old = agent.client.get("/api/images/old").await.ok();
        let hex = old["id"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let path = agent.node.config.paths.image_cache_dir.join(format!("disks/{hex}.img"));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&vec![7; 8 << 20]).unwrap();
        super::image_cache::age(&agent, "old", 30).await;
        // Enough for the state, and not for a disk: how much that is depends on
        // what the database still has free.
        let mut made = None;
        for kib in [96, 64, 48, 40, 32, 24] {
            agent.create("web", json!({ "start": false, "restartPolicy": "no" })).await;
            disk.fill_but(kib);
            let start = agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await;
            disk.free();
            if agent.client.get("/api/images/old").await.status == 404 {
                made = Some(start.ok());
                break;
            }
            agent.client.delete("/api/vms/web?force=true&wait=60s").await.ok();
            agent.until_gone("web").await;
        }
        assert_eq!(made.expect("room is made")["phase"], "running");
        agent.until_told("removed from the image cache for a VM's disk: 1 image").await;
    });
}

/// As much room as it may be when an agent starts for the first time.
#[test]
fn the_first_start() {
    with_own_mounts("disk_full::the_first_start", async {
        let mut failed = 0;
        for kib in (0..).step_by(12) {
            let dir = tempfile::tempdir().unwrap();
            let disk = SmallDisk::mounted(&dir.path().join("data"), "2m");
            disk.fill_but(kib);
            let config = config(dir.path(), &[]);
            let open = || {
                let parts = Parts { guest_binary: b"" };
                Node::open(config.clone(), parts, SimRuntime::default())
            };
            match open().await {
                Ok(_) => break,
                Err(error) => {
                    failed += 1;
                    let chain = Chain(&error).to_string();
                    assert!(is_full_disk(&error), "with {kib} KiB: {chain}: {error:?}");
                    let at = dir.path().display().to_string();
                    assert!(chain.contains(&at), "it names the place: {chain}");
                }
            }
            disk.free();
            let node = open().await.unwrap_or_else(|error| panic!("{error:?}"));
            let token = fs::read_to_string(node.config.paths.token()).unwrap();
            assert!(
                token.starts_with("inn_") && token.len() > 60,
                "with {kib} KiB before: {token}"
            );
            assert!(!node.config.paths.token().with_extension("new").exists());
        }
        assert!(failed > 5, "{failed}");
    });
}
