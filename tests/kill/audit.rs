//! What may be there once an agent has put things in order, and what is
//! nobody's. Looked for in the kernel and the file system, not at the agent.

use std::collections::BTreeSet;
use std::path::Path;

use inn_tests::leftovers;
use serde_json::Value;

use crate::ground::Ground;

/// Of a VM's directory.
const OF_A_VM: [&str; 2] = ["rw.img", "logs"];

/// Where a cgroup's name could have a VM's id, and how deep it is looked for.
const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP_DEPTH: usize = 6;

/// Everything that has no owner. `seen`: the ids of all VMs that there have
/// ever been on this host.
pub(crate) fn orphans(ground: &Ground, seen: &BTreeSet<String>) -> Vec<String> {
    let vms = ground.vms();
    let mut found = Vec::new();
    processes(ground, &vms, &mut found);
    files(ground, &vms, &mut found);
    images(ground, &vms, &mut found);
    if let Some(libvirtd) = &ground.libvirtd {
        domains(&libvirtd.domains(), &vms, &mut found);
    }
    let ids = ids(&vms);
    found
        .extend(leftovers::mounts_of(ground.host.path()).into_iter().map(|m| format!("mount {m}")));
    for id in seen.difference(&ids) {
        named(id, &mut found);
    }
    found
}

pub(crate) fn ids(vms: &[Value]) -> BTreeSet<String> {
    vms.iter().filter_map(|vm| vm["id"].as_str()).map(str::to_owned).collect()
}

/// Every id that a file of this host names.
pub(crate) fn ids_of_files(ground: &Ground) -> BTreeSet<String> {
    let dirs = [ground.host.data().join("vms"), ground.host.run_dir().join("vms")];
    dirs.iter().flat_map(|dir| leftovers::entries_of(dir)).collect()
}

fn has_machine(vm: &Value) -> bool {
    vm["phase"] == "running" || vm["phase"] == "paused"
}

fn processes(ground: &Ground, vms: &[Value], found: &mut Vec<String>) {
    let agent = ground.host.agent_pid();
    let running: Vec<&Value> = vms.iter().filter(|vm| has_machine(vm)).collect();
    let machines: BTreeSet<u64> = running.iter().filter_map(|vm| vm["pid"].as_u64()).collect();
    // Each has one too, which ends by itself a moment after it.
    let mut writers = 0;
    let bridged = running.iter().filter(|vm| vm["channel"] == "vsock").count();
    let mut bridges = Vec::new();
    for process in leftovers::processes_of(ground.host.path()) {
        if process.pid == agent || machines.contains(&u64::from(process.pid)) {
            continue;
        }
        // Below its keeper Firecracker has a jail, or is itself; so is libkrun.
        let is_kept = |vm: &&Value| {
            let id = vm["id"].as_str().unwrap_or_default();
            process.cmdline.split(' ').any(|word| word.strip_prefix("inn-") == Some(id))
        };
        let has_keeper = |vm: &&&Value| vm["runtime"] == "firecracker" || vm["runtime"] == "krun";
        if running.iter().filter(has_keeper).any(is_kept) {
            continue;
        }
        let program = process.cmdline.split(' ').next().unwrap_or_default();
        if program.ends_with("vhost-device-vsock") {
            bridges.push(process);
        } else if process.cmdline.split(' ').nth(1) == Some("log-writer") {
            writers += 1;
        } else {
            found.push(format!("process {process:?}"));
        }
    }
    if writers > machines.len() {
        found.push(format!("{writers} log writers for {} machines", machines.len()));
    }
    if bridges.len() > bridged {
        found.push(format!("{} bridges for {bridged} machines: {bridges:?}", bridges.len()));
    }
}

/// What libvirt has that no VM is in.
fn domains(names: &str, vms: &[Value], found: &mut Vec<String>) {
    let is_a_vms = |name: &str| {
        let id = name.strip_prefix("inn-");
        vms.iter()
            .any(|vm| vm["runtime"] == "libvirt" && has_machine(vm) && vm["id"].as_str() == id)
    };
    found.extend(names.lines().filter(|name| !is_a_vms(name)).map(|name| format!("domain {name}")));
}

fn files(ground: &Ground, vms: &[Value], found: &mut Vec<String>) {
    let ids = ids(vms);
    let data = ground.host.data();
    let runs = ground.host.run_dir().join("vms");
    for (dir, what) in [(data.join("vms"), "directory"), (runs.clone(), "run directory")] {
        let strange = leftovers::entries_of(&dir).into_iter().filter(|name| !ids.contains(name));
        found.extend(strange.map(|name| format!("{what} of {name}")));
    }
    for id in &ids {
        let names = leftovers::entries_of(&data.join("vms").join(id));
        let asleep = vms.iter().any(|vm| vm["id"] == **id && vm["rest"]["action"] == "snapshot");
        let known = |name: &str| OF_A_VM.contains(&name) || asleep && name == "asleep";
        let strange = names.into_iter().filter(|name| !known(name));
        found.extend(strange.map(|name| format!("{name} of {id}")));
    }
    for vm in vms {
        let dir = runs.join(vm["id"].as_str().unwrap_or_default());
        let alive = |name: &String| name.ends_with(".sock") || name.starts_with("sim.state");
        let live = leftovers::entries_of(&dir).into_iter().filter(alive);
        if !has_machine(vm) {
            found
                .extend(live.map(|name| format!("{name} of {}, which has no machine", vm["name"])));
        } else if vm["runtime"] == "sim" && live.collect::<Vec<_>>() != ["sim.state"] {
            found.push(format!("{} runs without its machine", vm["name"]));
        }
    }
    let unfinished = |name: &String| name.starts_with('.') || name.ends_with(".new");
    for dir in [data.clone(), data.join("persist"), data.join("kept"), data.join("snapshots")] {
        let names = leftovers::entries_of(&dir).into_iter().filter(unfinished);
        found.extend(names.map(|name| format!("unfinished {}/{name}", dir.display())));
    }
    let temporary = leftovers::files_below(&ground.host.tmp());
    found.extend(temporary.into_iter().map(|path| format!("temporary {}", path.display())));
}

/// What of the image cache no record and no VM leads to.
fn images(ground: &Ground, vms: &[Value], found: &mut Vec<String>) {
    let cache = ground.host.data().join("images");
    let (mut disks, mut blobs) = (BTreeSet::new(), BTreeSet::new());
    for name in leftovers::entries_of(&cache.join("records")) {
        let text = std::fs::read(cache.join("records").join(&name)).unwrap_or_default();
        let Ok(record) = serde_json::from_slice::<Value>(&text) else {
            found.push(format!("damaged record {name}"));
            continue;
        };
        disks.extend(hex(&record["manifest"]));
        blobs.extend(record["blobs"].as_array().into_iter().flatten().filter_map(hex));
    }
    disks.extend(vms.iter().filter_map(|vm| hex(&vm["image"]["digest"])));
    strange(&cache.join("disks"), ".img", &disks, found);
    strange(&cache.join("journals"), "", &disks, found);
    strange(&cache.join("blobs/sha256"), "", &blobs, found);
    let unfinished = leftovers::files_below(&cache.join("tmp"));
    if unfinished.len() != 1 || !unfinished[0].ends_with("lock") {
        found.push(format!("unfinished in the image cache: {unfinished:?}"));
    }
    let directories = leftovers::entries_of(&cache.join("tmp"));
    if directories.len() > 1 {
        found.push(format!("directories for unfinished files: {directories:?}"));
    }
}

fn strange(dir: &Path, suffix: &str, known: &BTreeSet<String>, found: &mut Vec<String>) {
    for name in leftovers::entries_of(dir) {
        if !name.strip_suffix(suffix).is_some_and(|stem| known.contains(stem)) {
            found.push(format!("{} of no image", dir.join(name).display()));
        }
    }
}

fn hex(digest: &Value) -> Option<String> {
    digest.as_str().map(|text| text.trim_start_matches("sha256:").to_owned())
}

/// Whatever of the kernel's has the id of a VM that is no more in its name.
fn named(id: &str, found: &mut Vec<String>) {
    for interface in leftovers::entries_of(Path::new("/sys/class/net")) {
        if interface.contains(id) {
            found.push(format!("interface {interface}"));
        }
    }
    found.extend(
        cgroups(&|name| name.contains(id)).into_iter().map(|path| format!("cgroup {path}")),
    );
}

/// The control groups that are named so, without what is in them.
pub(crate) fn cgroups(is_wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    below(Path::new(CGROUPS), CGROUP_DEPTH, is_wanted, &mut found);
    found
}

fn below(dir: &Path, depth: usize, is_wanted: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if is_wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path().display().to_string());
        } else if depth > 0 {
            below(&entry.path(), depth - 1, is_wanted, found);
        }
    }
}
