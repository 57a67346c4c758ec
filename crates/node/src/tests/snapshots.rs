//! Snapshots, forks, and the VMs that begin from them.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use inn_vmm_sim::Behaviour;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use super::agent::TestAgent;
use super::disk_full::{agent_with, with_own_mounts};

async fn take(agent: &TestAgent, vm: &str, name: &str) -> Value {
    let path = format!("/api/vms/{vm}/snapshot?wait=60s");
    agent.client.post(&path, &json!({ "name": name })).await.ok()
}

async fn taken(agent: &TestAgent, vm: &str, name: &str) -> String {
    let operation = take(agent, vm, name).await;
    assert_eq!(operation["state"], "succeeded", "{operation}");
    operation["result"].as_str().unwrap().to_owned()
}

fn directory(agent: &TestAgent) -> PathBuf {
    agent.node.config.paths.snapshots()
}

fn entries(agent: &TestAgent) -> Vec<String> {
    let entries = std::fs::read_dir(directory(agent)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn is_up(agent: &TestAgent, vm: &str) -> Value {
    let up = |vm: &Value| vm["phase"] == "running" && vm["guest"]["link"] == "ready";
    agent.until(vm, up).await
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_saved_and_others_begin_from_it() {
    let agent = TestAgent::start().await;
    let before = agent.create("web", json!({ "labels": { "tier": "front" } })).await;
    let disk = agent.node.vms.find("web").unwrap().paths().disk();
    let disk = std::fs::OpenOptions::new().write(true).open(disk).unwrap();
    disk.write_all_at(b"written before", 8 << 20).unwrap();
    let id = taken(&agent, "web", "golden").await;

    // The parent runs on, undisturbed.
    let after = agent.vm("web").await;
    assert_eq!(after["phase"], "running", "{after}");
    assert_eq!(after["guest"], before["guest"], "its session is the same");
    disk.write_all_at(b"written after!", 8 << 20).unwrap();

    let shown = agent.client.get("/api/snapshots/golden").await.ok();
    assert_eq!((&shown["id"], &shown["vm"]), (&json!(id), &json!("web")));
    assert_eq!(shown["madeBy"]["runtime"], "sim");
    let parts: BTreeSet<&str> =
        shown["parts"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(parts.is_superset(&["state", "disk"].into()), "{parts:?}");
    for entry in std::fs::read_dir(directory(&agent).join(&id)).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "nobody else reads it");
    }
    let again = agent.client.post("/api/vms/web/snapshot", &json!({ "name": "golden" })).await;
    assert_eq!(again.problem().1, "name-in-use");

    let fork = json!({ "count": 2, "namePrefix": "clone" });
    let made = agent.client.post("/api/snapshots/golden/fork?wait=60s", &fork).await.ok();
    let names: Vec<&str> =
        made["items"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["clone-1", "clone-2"]);
    for name in names {
        let vm = is_up(&agent, name).await;
        assert_eq!(vm["labels"]["tier"], "front", "{vm}");
        assert_eq!(vm["receipt"]["origin"], "golden", "{vm}");
        let steps = vm["receipt"]["steps"].as_array().unwrap();
        let of = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
        assert_eq!(of("channel")["result"], "done");
        assert_eq!(of("entropy")["result"], "done");
        assert_eq!(of("connections")["result"], "skipped");
        let disk = agent.node.vms.find(name).unwrap().paths().disk();
        let mut content = [0; 14];
        std::fs::File::open(disk).unwrap().read_exact_at(&mut content, 8 << 20).unwrap();
        assert_eq!(&content, b"written before");
    }

    // Its receipt is the node's word.
    let signed = agent.client.get("/api/vms/clone-1/receipt").await.ok();
    let public = bytes_of(signed["publicKey"].as_str().unwrap());
    let signature = bytes_of(signed["signature"].as_str().unwrap());
    let statement = signed["statement"].as_str().unwrap();
    UnparsedPublicKey::new(&ED25519, public).verify(statement.as_bytes(), &signature).unwrap();
    let statement: Value = serde_json::from_str(statement).unwrap();
    assert_eq!(statement["vm"], "clone-1");
    assert_eq!(agent.client.get("/api/vms/web/receipt").await.problem().0, 404);

    // It is needed by none of them any more.
    agent.client.delete("/api/snapshots/golden").await;
    assert_eq!(agent.client.get("/api/snapshots").await.ok()["items"], json!([]));
    assert_eq!(entries(&agent), [""; 0]);
    agent.client.post("/api/vms/clone-1/restart?wait=60s", &Value::Null).await.ok();
    let booted = is_up(&agent, "clone-1").await;
    assert_eq!(booted["receipt"], Value::Null, "it has booted since: {booted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_vm_is_forked_and_nothing_of_it_stays() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let made = agent.client.post("/api/vms/web/fork?wait=60s", &json!({ "count": 3 })).await.ok();
    assert_eq!(made["items"].as_array().unwrap().len(), 3, "{made}");
    let mut boots = BTreeSet::new();
    for name in ["web", "web-1", "web-2", "web-3"] {
        boots.insert(is_up(&agent, name).await["guest"]["bootId"].to_string());
    }
    assert_eq!(entries(&agent), [""; 0], "the copy of its disk is gone");
    // All of them or none.
    let names = json!({ "names": ["other", "web-2"] });
    let (status, code, _) = agent.client.post("/api/vms/web/fork", &names).await.problem();
    assert_eq!((status, code.as_str()), (409, "name-in-use"));
    agent.until_gone("other").await;
    for wrong in [json!({ "count": 0 }), json!({ "count": 65 }), json!({ "namePrefix": "X" })] {
        assert_eq!(agent.client.post("/api/vms/web/fork", &wrong).await.problem().0, 400);
    }
    // A paused one stays so.
    agent.client.post("/api/vms/web/pause?wait=60s", &Value::Null).await.ok();
    agent.client.post("/api/vms/web/fork", &json!({ "names": ["late"] })).await.ok();
    is_up(&agent, "late").await;
    assert_eq!(agent.vm("web").await["phase"], "paused");
    agent.client.post("/api/vms/web/stop?wait=60s", &Value::Null).await.ok();
    let (status, _, why) = agent.client.post("/api/vms/web/fork", &json!({})).await.problem();
    assert_eq!(status, 409);
    assert!(why.contains("it is stopped"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_refused_before_a_vm_sees_it() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let id = taken(&agent, "web", "golden").await;
    let directory = directory(&agent).join(id);
    let refused = |word: &'static str| {
        let agent = &agent;
        async move {
            let fork = agent.client.post("/api/snapshots/golden/fork", &json!({})).await;
            let (status, _, why) = fork.problem();
            assert_eq!(status, 409, "{why}");
            assert!(why.contains("the snapshot golden") && why.contains(word), "{why}");
            assert_eq!(
                agent.client.get("/api/vms").await.ok()["items"].as_array().unwrap().len(),
                1
            );
        }
    };
    let disk = std::fs::OpenOptions::new().write(true).open(directory.join("disk")).unwrap();
    disk.write_all_at(b"!", 5 << 20).unwrap();
    refused("its disk is damaged").await;
    disk.write_all_at(&[0], 5 << 20).unwrap();
    let state = directory.join("state");
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    refused("its state has").await;
    std::fs::remove_file(&state).unwrap();
    refused("its state is missing").await;
    std::fs::write(&state, whole).unwrap();
    agent.client.post("/api/snapshots/golden/fork?wait=60s", &json!({})).await.ok();
    is_up(&agent, "golden-1").await;
}

/// The parent is let go on, and what was half made is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_outlive_the_agent_and_half_ones_do_not() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let id = taken(&agent, "web", "golden").await;
    let made = directory(&agent);
    for leftover in [".0123456789abcdef.new", "0123456789abcdef", ".0123456789abcdef.fork"] {
        std::fs::create_dir(made.join(leftover)).unwrap();
        std::fs::write(made.join(leftover).join("disk"), "half").unwrap();
    }
    agent.die().await;
    let agent = agent.live_on().await;
    assert_eq!(entries(&agent), [id]);
    is_up(&agent, "web").await;
    agent.client.post("/api/snapshots/golden/fork?wait=60s", &json!({})).await.ok();
    let receipt = is_up(&agent, "golden-1").await["receipt"].clone();
    let agent = agent.live_on().await;
    assert_eq!(is_up(&agent, "golden-1").await["receipt"], receipt, "it is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_never_confirms_is_not_handed_out() {
    let agent = TestAgent::with(&[], Behaviour::default()).await;
    agent.create("web", json!({})).await;
    taken(&agent, "web", "golden").await;
    let deaf = Behaviour { deaf: true, ..Behaviour::default() };
    let mut agent = agent;
    agent.set("start_deadline", "1s");
    let agent = agent.live_again(deaf).await;
    agent.client.post("/api/snapshots/golden/fork", &json!({})).await.ok();
    let vm = agent.until("golden-1", |vm| vm["phase"] == "failed").await;
    assert_eq!(vm["failure"]["step"], "configure", "{vm}");
    assert!(vm.get("receipt").is_none(), "{vm}");
    let exec = json!({ "command": ["true"] });
    let refused = agent.client.post("/api/vms/golden-1/execs", &exec).await;
    assert_eq!(refused.problem().0, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_saved_says_why_and_images_of_snapshots_stay() {
    let agent = TestAgent::start().await;
    agent.create("vsock", json!({ "channel": "vsock" })).await;
    let operation = take(&agent, "vsock", "golden").await;
    let why = operation["problem"]["detail"].as_str().unwrap();
    assert!(why.contains("--channel serial"), "{why}");
    assert_eq!(agent.vm("vsock").await["phase"], "running");
    assert_eq!(entries(&agent), [""; 0]);

    agent.create("web", json!({})).await;
    taken(&agent, "web", "golden").await;
    for name in ["vsock", "web"] {
        agent.client.delete(&format!("/api/vms/{name}?force=true&wait=60s")).await.ok();
    }
    let (status, code, why) = agent.client.delete("/api/images/base").await.problem();
    assert_eq!((status, code.as_str()), (409, "in-use"));
    assert!(why.contains("snapshot golden"), "{why}");
}

#[test]
fn a_full_disk_leaves_no_half_and_the_vm_running() {
    with_own_mounts("snapshots::a_full_disk_leaves_no_half_and_the_vm_running", async {
        let (_small, agent) = agent_with("data/snapshots", "32k").await;
        agent.create("web", json!({})).await;
        let disk = agent.node.vms.find("web").unwrap().paths().disk();
        let disk = std::fs::OpenOptions::new().write(true).open(disk).unwrap();
        disk.write_all_at(&[7; 1 << 20], 8 << 20).unwrap();
        let operation = take(&agent, "web", "golden").await;
        assert_eq!(operation["state"], "failed", "{operation}");
        assert_eq!(operation["problem"]["code"], "insufficient-resources", "{operation}");
        let (status, code, why) =
            agent.client.post("/api/vms/web/fork", &json!({})).await.problem();
        assert_eq!((status, code.as_str()), (507, "insufficient-resources"), "{why}");
        assert_eq!(entries(&agent), [""; 0]);
        assert_eq!(agent.client.get("/api/snapshots").await.ok()["items"], json!([]));
        let vm = is_up(&agent, "web").await;
        assert!(vm.get("paused").is_none(), "{vm}");
    });
}

/// At whichever of its writes the disk is full.
#[test]
fn wherever_the_room_ends_nothing_of_a_snapshot_stays() {
    with_own_mounts("snapshots::wherever_the_room_ends_nothing_of_a_snapshot_stays", async {
        let (small, agent) = agent_with("data/snapshots", "8m").await;
        agent.create("web", json!({})).await;
        taken(&agent, "web", "fits").await;
        let needed = agent.client.get("/api/snapshots/fits").await.ok();
        let export = agent.client.get("/api/snapshots/fits/export").await;
        let path = agent.dir.path().join("fits.snapshot");
        std::fs::write(&path, &export.body).unwrap();
        assert_eq!(agent.client.delete("/api/snapshots/fits").await.status, 204);
        let import = json!({ "path": path, "name": "golden" });
        let import =
            async || agent.client.post("/api/snapshots/import?wait=60s", &import).await.ok();
        let (mut room, mut refused) = (0, 0);
        // The disk's parts, the state, the manifest: each comes to its turn.
        loop {
            small.fill_but(room);
            let operations = [take(&agent, "web", "golden").await, import().await];
            if operations.iter().any(|operation| operation["state"] == "succeeded") {
                break;
            }
            for operation in operations {
                assert_eq!(operation["problem"]["code"], "insufficient-resources", "{operation}");
            }
            refused += 1;
            assert_eq!(entries(&agent), ["ballast"], "with {room} KiB of room");
            small.free();
            room += 16;
        }
        assert!(refused > 3, "{refused} times there was no room, and {needed} is needed");
        assert_eq!(
            agent.client.get("/api/snapshots").await.ok()["items"].as_array().unwrap().len(),
            1
        );
        let vm = is_up(&agent, "web").await;
        assert!(vm.get("paused").is_none(), "{vm}");
        agent.until_told("the snapshot golden was not taken: ").await;
        agent.until_told("the snapshot golden was not imported: ").await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_leaves_nothing() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let vm = agent.node.vms.find("web").unwrap();
    let given_up = tokio_util::sync::CancellationToken::new();
    given_up.cancel();
    let name = "golden".parse().unwrap();
    crate::snapshots::take(&agent.node, &vm, &name, given_up.clone()).await.unwrap_err();
    assert_eq!(entries(&agent), [""; 0]);
    is_up(&agent, "web").await;
    taken(&agent, "web", "golden").await;
    let exported = agent.client.get("/api/snapshots/golden/export").await;
    let path = agent.dir.path().join("golden.snapshot");
    std::fs::write(&path, &exported.body).unwrap();
    let before = entries(&agent);
    let name = Some("other".parse().unwrap());
    crate::snapshots::import(&agent.node, &path, name, given_up).await.unwrap_err();
    assert_eq!(entries(&agent), before);
}

/// A fork that was not up when its agent died has lost what it was to begin
/// from, which is memory, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_whose_agent_died_says_that_it_cannot_begin() {
    let mut agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let vm = agent.node.vms.find("web").unwrap();
    let (held, spec) = crate::snapshots::held_of(&agent.node, &vm).await.unwrap();
    let from = Some(inn_domain::Origin { snapshot: held.id, name: "web".to_owned() });
    let new = crate::vm::NewVm {
        spec: inn_domain::VmSpec { name: "late".parse().unwrap(), from, ..spec },
        start: false,
        replace: false,
        ttl: None,
        on_idle: None,
        ports: Vec::new(),
        held: Some(held),
        cold: false,
        mark: None,
    };
    agent.node.vms.create(&agent.node, new).await.unwrap();
    drop(vm);
    agent.die().await;
    let agent = agent.live_on().await;
    assert_eq!(entries(&agent), [""; 0]);
    agent.client.post("/api/vms/late/start", &Value::Null).await.ok();
    let late = agent.until("late", |vm| vm["phase"] == "failed").await;
    assert_eq!(late["failure"]["step"], "prepare-disk", "{late}");
    assert!(late["failure"]["cause"].as_str().unwrap().contains("is gone"), "{late}");
}

/// An export is taken in by another node that has the image, and by no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_travels_to_another_node() {
    let (one, other) = (TestAgent::start().await, TestAgent::start().await);
    one.create("web", json!({})).await;
    let disk = one.node.vms.find("web").unwrap().paths().disk();
    let disk = std::fs::OpenOptions::new().write(true).open(disk).unwrap();
    disk.write_all_at(b"taken along", 8 << 20).unwrap();
    taken(&one, "web", "golden").await;
    let exported = one.client.get("/api/snapshots/golden/export").await;
    assert_eq!(exported.status, 200);
    let path = other.dir.path().join("golden.snapshot");
    std::fs::write(&path, &exported.body).unwrap();
    let import = |agent: &TestAgent, name: &str| {
        let body = json!({ "path": path, "name": name });
        let client = agent.client.clone();
        async move { client.post("/api/snapshots/import?wait=60s", &body).await.ok() }
    };
    let done = import(&other, "from-one").await;
    assert_eq!(done["state"], "succeeded", "{done}");
    one.until_told("the snapshot golden was taken").await;
    other.until_told("the snapshot from-one was imported").await;
    other.client.post("/api/snapshots/from-one/fork?wait=60s", &json!({})).await.ok();
    is_up(&other, "from-one-1").await;
    let copy = other.node.vms.find("from-one-1").unwrap().paths().disk();
    let mut content = [0; 11];
    std::fs::File::open(copy).unwrap().read_exact_at(&mut content, 8 << 20).unwrap();
    assert_eq!(&content, b"taken along");

    // Cut anywhere, or with another byte, it is refused, and leaves nothing.
    let before = entries(&other);
    for length in [0, 10, 30, 500, exported.body.len() / 2, exported.body.len() - 3] {
        std::fs::write(&path, &exported.body[..length]).unwrap();
        let done = import(&other, "bad").await;
        assert_eq!(done["state"], "failed", "{length}: {done}");
    }
    let mut wrong = exported.body.to_vec();
    let at = wrong.len() - 100;
    wrong[at] ^= 1;
    std::fs::write(&path, &wrong).unwrap();
    assert_eq!(import(&other, "bad").await["state"], "failed");
    assert_eq!(entries(&other), before);
    other.until_told("the snapshot bad was not imported: ").await;
    other.until_told("from-one was forked into from-one-1").await;
    assert_eq!(other.client.delete("/api/snapshots/from-one").await.status, 204);
    other.until_told("the snapshot from-one was deleted").await;
}

/// A disk image's VM is saved, forked and carried to another node like an image's; its
/// clones are handed out once their agent has confirmed, and boot on their own after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_vm_is_saved_and_others_begin_from_it() {
    let resident = || Behaviour { resident: true, ..Behaviour::default() };
    let mut agent = TestAgent::with(&[], resident()).await;
    let path = agent.dir.path().join("disk.img");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let url = format!("file://{}", path.display());
    let body = json!({ "image": null, "diskImage": { "url": url } });
    agent.create("web", body).await;
    is_up(&agent, "web").await;
    // The clones have the VM's disk, not the image's.
    std::fs::remove_file(&path).unwrap();
    let disk = agent.node.vms.find("web").unwrap().paths().disk();
    let disk = std::fs::OpenOptions::new().write(true).open(disk).unwrap();
    disk.write_all_at(b"of the VM", 1 << 16).unwrap();
    taken(&agent, "web", "golden").await;
    let made = agent.client.post("/api/vms/web/fork?wait=60s", &json!({ "count": 2 })).await.ok();
    assert_eq!(made["items"].as_array().unwrap().len(), 2, "{made}");
    agent.die().await;
    let agent = agent.live_on().await;
    agent.client.post("/api/snapshots/golden/fork?wait=60s", &json!({})).await.ok();
    for name in ["web-1", "web-2", "golden-1"] {
        let vm = is_up(&agent, name).await;
        assert_eq!(vm["guest"]["isInit"], false, "{vm}");
        let steps = vm["receipt"]["steps"].as_array().unwrap();
        let of = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
        assert_eq!(of("machine-id")["result"], "done", "{vm}");
        assert_eq!(of("ssh-host-keys")["result"], "skipped", "{vm}");
        assert_eq!(of("generation-id")["why"], "its machine was made without one", "{vm}");
        let mut content = [0; 9];
        let disk = agent.node.vms.find(name).unwrap().paths().disk();
        std::fs::File::open(disk).unwrap().read_exact_at(&mut content, 1 << 16).unwrap();
        assert_eq!(&content, b"of the VM");
    }
    agent.client.post("/api/vms/web-1/restart?wait=60s", &Value::Null).await.ok();
    assert_eq!(is_up(&agent, "web-1").await["receipt"], Value::Null);

    let other = TestAgent::with(&[], resident()).await;
    let exported = agent.client.get("/api/snapshots/golden/export").await;
    let path = other.dir.path().join("golden.snapshot");
    std::fs::write(&path, &exported.body).unwrap();
    let done = other.client.post("/api/snapshots/import?wait=60s", &json!({ "path": path })).await;
    assert_eq!(done.ok()["state"], "succeeded");
    other.client.post("/api/snapshots/golden/fork?wait=60s", &json!({})).await.ok();
    is_up(&other, "golden-1").await;
}

/// One whose agent does not answer has nobody who would make its clones themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_vm_without_an_agent_is_not_saved() {
    let mute = Behaviour { resident: true, answers_after: None, ..Behaviour::default() };
    let agent = TestAgent::with(&[("start_deadline", "1s")], mute).await;
    let path = agent.dir.path().join("disk.img");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let url = format!("file://{}", path.display());
    agent.create("mute", json!({ "image": null, "diskImage": { "url": url } })).await;
    agent.until("mute", |vm| vm["guest"]["link"] == "absent").await;
    agent.client.post("/api/vms/mute/pause?wait=60s", &Value::Null).await.ok();
    let (status, _, why) = agent.client.post("/api/vms/mute/fork", &json!({})).await.problem();
    assert_eq!(status, 409, "{why}");
    assert!(why.contains("no guest agent"), "{why}");
}

/// What is at /persist is of the same moment as all else, and each has its own: by its
/// name, and never in place of what is there of that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_at_persist_is_saved_and_copied_too() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "persist": true })).await;
    let persist = |name: &str| agent.node.config.paths.persist_disk(&name.parse().unwrap());
    let open = |name: &str| {
        std::fs::OpenOptions::new().read(true).write(true).open(persist(name)).unwrap()
    };
    open("web").write_all_at(b"before", 1 << 20).unwrap();
    taken(&agent, "web", "golden").await;
    open("web").write_all_at(b"after!", 1 << 20).unwrap();
    // Of a VM that there was.
    std::fs::write(persist("web-1"), "somebody's").unwrap();
    std::fs::write(persist("taken"), "somebody's").unwrap();
    agent.client.post("/api/vms/web/fork?wait=60s", &json!({})).await.ok();
    agent.client.post("/api/snapshots/golden/fork?wait=60s", &json!({})).await.ok();
    for (name, wanted) in [("web-2", b"after!"), ("golden-1", b"before")] {
        is_up(&agent, name).await;
        let mut content = [0; 6];
        open(name).read_exact_at(&mut content, 1 << 20).unwrap();
        assert_eq!(&content, wanted, "{name}");
        open(name).write_all_at(b"itsown", 1 << 20).unwrap();
    }
    let mut content = [0; 6];
    open("web").read_exact_at(&mut content, 1 << 20).unwrap();
    assert_eq!(&content, b"after!");
    let asked = json!({ "names": ["fine", "taken"] });
    let (status, code, why) = agent.client.post("/api/vms/web/fork", &asked).await.problem();
    assert_eq!((status, code.as_str()), (409, "name-in-use"), "{why}");
    assert!(why.contains("/persist") && why.contains("taken"), "{why}");
    assert_eq!(std::fs::read(persist("taken")).unwrap(), b"somebody's");
    assert!(agent.node.vms.find("fine").is_none() && !persist("fine").exists());
    let shown = agent.client.get("/api/snapshots/golden").await.ok();
    let parts: Vec<&str> =
        shown["parts"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(parts.contains(&"persist"), "{parts:?}");
    assert_eq!(entries(&agent).len(), 1, "the fork's copies are gone");
}
