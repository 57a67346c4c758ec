//! What a machine may use of its host, and whom its VMM is on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::guests::Guest;
use inn_tests::{Host, leftovers, wait};
use serde_json::Value;

fn applied(vm: &Value, what: &str) -> bool {
    vm["limits"]["applied"].as_array().unwrap().iter().any(|one| one == what)
}

/// The control group of a process, in the tree that has this controller; on
/// version 2 there is one tree.
fn group(pid: u64, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let v1 = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        names.split(',').any(|name| name == controller).then(|| fields.next()).flatten()
    });
    match v1 {
        Some(path) => {
            let below = path.trim_start_matches('/');
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let mount = mounts.lines().find_map(|line| {
                let (left, right) = line.split_once(" - cgroup ")?;
                let has = right.split([' ', ',']).any(|option| option == controller);
                has.then(|| left.split(' ').nth(4)).flatten()
            });
            Path::new(mount.unwrap()).join(below)
        }
        None => {
            let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
            Path::new("/sys/fs/cgroup").join(path)
        }
    }
}

/// CPU time that a group has used.
fn used(group_of: u64) -> Duration {
    let v1 = group(group_of, "cpuacct").join("cpuacct.usage");
    if let Ok(text) = fs::read_to_string(v1) {
        return Duration::from_nanos(text.trim().parse().unwrap());
    }
    let text = fs::read_to_string(group(group_of, "cpu").join("cpu.stat")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
    Duration::from_micros(line.parse().unwrap())
}

fn first_of(group: &Path, files: [&str; 2]) -> String {
    let text = files.iter().find_map(|file| fs::read_to_string(group.join(file)).ok());
    text.unwrap_or_else(|| panic!("{} has none of {files:?}", group.display())).trim().to_owned()
}

pub(crate) fn limits_hold_and_change_while_the_vm_runs() {
    let name = "limits_hold_and_change_while_the_vm_runs";
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "busy", "--cpu-quota", "30%"])
        .args([
            "--cpu-weight",
            "50",
            "--pids-limit",
            "150",
            "--",
            "sh",
            "-c",
            "while :; do :; done",
        ])
        .ok();
    let vm = host.show("busy");
    let pid = vm["pid"].as_u64().unwrap();
    let mut groups = Vec::new();
    if applied(&vm, "memory") {
        let memory = group(pid, "memory");
        let limit = first_of(&memory, ["memory.limit_in_bytes", "memory.max"]);
        let (limit, guest): (u64, _) =
            (limit.parse().unwrap(), vm["memoryBytes"].as_u64().unwrap());
        assert!(limit > guest + (128 << 20) && limit < guest + (1 << 30), "{limit}");
        groups.push(memory);
    } else {
        println!("SKIPPED {name}, memory: {}", vm["limits"]["notApplied"]);
    }
    if applied(&vm, "pids") {
        let pids = group(pid, "pids");
        assert_eq!(first_of(&pids, ["pids.max", "pids.max"]), "150");
        groups.push(pids);
    } else {
        println!("SKIPPED {name}, pids: {}", vm["limits"]["notApplied"]);
    }
    if applied(&vm, "cpuQuota") {
        // At least 2 s of 30 % of a CPU that the guest would use whole; what
        // it gets on a busy host is less.
        let share = || {
            let (before, start) = (used(pid), Instant::now());
            wait::until("two seconds are over", || {
                (start.elapsed() > Duration::from_secs(2)).then_some(())
            });
            (used(pid) - before).as_secs_f64() / start.elapsed().as_secs_f64()
        };
        let limited = share();
        assert!(limited < 0.45, "30 % are {limited:.2}");
        host.inn(["vm", "limits", "busy", "--cpu-quota", "default"]).ok();
        let cpu = group(pid, "cpu");
        let quota = first_of(&cpu, ["cpu.cfs_quota_us", "cpu.max"]);
        assert!(quota == "-1" || quota.starts_with("max "), "{quota}");
        wait::until("the guest gets more", || (share() > limited + 0.1).then_some(()));
        groups.push(cpu);
    } else {
        println!("SKIPPED {name}, cpu: {}", vm["limits"]["notApplied"]);
    }

    // What has changed outlives the agent, and so does the group.
    host.inn(["vm", "limits", "busy", "--pids-limit", "160"]).ok();
    host.kill_agent();
    host.start_agent();
    wait::until("the VM is found again", || {
        (host.show("busy")["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("busy");
    assert_eq!(after["limits"]["pids"], 160, "{after}");
    for what in ["memory", "pids", "cpuWeight", "user", "seccomp", "rootDirectory"] {
        assert_eq!(applied(&after, what), applied(&vm, what), "{what}: {after}");
    }
    assert!(!applied(&after, "cpuQuota"), "it was taken back: {after}");
    assert_eq!(after["limits"]["uid"], vm["limits"]["uid"], "{after}");
    assert!(groups.iter().all(|group| group.is_dir()));
    host.inn(["vm", "limits", "busy", "--memory-limit", "1MiB"]).refused(1, &["too small"]);
    host.inn(["vm", "delete", "busy", "--force"]).ok();
    for group in groups {
        assert!(!group.exists(), "{} stays behind", group.display());
    }
    host.finish();
}

pub(crate) fn killed_agents_groups_are_reaped() {
    let host = Host::up();
    let mut run =
        host.inn(["run", "--rm", "mini", "--", "sh", "-c", "echo up; exec sleep 100000"]).start();
    run.until_stdout("up");
    let machine = leftovers::machines_of(host.path())[0].pid.into();
    let groups: Vec<_> = ["memory", "pids", "cpu"].map(|name| group(machine, name)).into();
    let ours = |group: &PathBuf| group.to_string_lossy().contains("/vm-");
    if !groups.iter().any(ours) {
        println!("SKIPPED killed_agents_groups_are_reaped, its groups: none here");
    }
    host.kill_agent();
    run.wait(wait::PATIENCE);
    host.start_agent();
    host.until_empty();
    for group in groups.iter().filter(|group| ours(group)) {
        wait::until("the group is gone", || (!group.exists()).then_some(()));
    }
    host.finish();
}

/// Whatever the guest is, and by whatever channel.
pub(crate) fn every_process_of_a_machine_is_nobody(guest: &Guest) {
    let vm = guest.show();
    let uid = vm["limits"]["uid"].as_u64().unwrap();
    assert!(uid > 1_000_000_000 && applied(&vm, "user"), "{vm}");
    let of_user = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        (line.split_whitespace().next()? == uid.to_string()).then_some(())?;
        let program = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = program.split(|byte| *byte == 0).next()?.to_vec();
        Some(String::from_utf8(program).ok()?.rsplit('/').next()?.to_owned())
    };
    let mut programs: Vec<String> =
        leftovers::entries_of(Path::new("/proc")).iter().filter_map(of_user).collect();
    programs.sort();
    let bridge = (vm["channel"] == "vsock").then_some("vhost-device-vsock");
    let expected: Vec<&str> = ["qemu-system-x86_64"].into_iter().chain(bridge).collect();
    assert_eq!(programs, expected, "{vm}");
}

#[expect(clippy::disallowed_methods, reason = "whoever has the VMM's user, as a shell")]
pub(crate) fn vmm_is_nobody_and_reaches_only_its_own() {
    let host = Host::up();
    for name in ["one", "two"] {
        host.inn(["vm", "create", "--image", "mini", "--name", name]).ok();
    }
    let vms = ["one", "two"].map(|name| host.show(name));
    let mut uids = Vec::new();
    for vm in &vms {
        let status = fs::read_to_string(format!("/proc/{}/status", vm["pid"])).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let uid = vm["limits"]["uid"].as_u64().unwrap();
        assert_eq!(field("Uid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("Gid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("Groups:"), "");
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        for set in ["CapEff:", "CapPrm:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert!(applied(vm, "user") && applied(vm, "seccomp"), "{vm}");
        if applied(vm, "rootDirectory") {
            let inside = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", vm["pid"]));
            for hidden in [host.path().to_str().unwrap(), "/etc/passwd", "/usr/bin/sh", "/var"] {
                assert!(!inside(hidden).exists(), "{hidden} is there for a VMM");
            }
            assert!(inside("/usr/share").is_dir());
            assert!(fs::File::create(inside("/dev/x")).is_err(), "it is read-only");
        } else {
            println!("SKIPPED vmm_is_nobody, its root: {}", vm["limits"]["notApplied"]);
        }
        uids.push(uid);
    }
    assert!(uids[0] != uids[1] && uids.iter().all(|uid| *uid > 1_000_000_000), "{uids:?}");

    // The same user, with all that a file system shows it.
    let id = |vm: &Value| vm["id"].as_str().unwrap().to_owned();
    let disk_of = |vm: &Value| host.data().join("vms").join(id(vm)).join("rw.img");
    let run_of = |vm: &Value| host.run_dir().join("vms").join(id(vm));
    assert_eq!(u64::from(fs::metadata(run_of(&vms[0])).unwrap().uid()), uids[0]);
    let reads = |path: &Path| {
        let user = format!("--reuid={}", uids[0]);
        let group = format!("--regid={}", uids[0]);
        let status = Command::new("setpriv")
            .args([&user, &group, "--clear-groups", "--", "head", "-c1"])
            .arg(path)
            .output()
            .unwrap()
            .status;
        status.success()
    };
    assert!(reads(Path::new("/etc/hostname")), "setpriv and head work");
    for path in [
        disk_of(&vms[1]),
        disk_of(&vms[0]),
        run_of(&vms[1]).join("vmm.log"),
        host.data().join("token"),
        PathBuf::from("/etc/shadow"),
        PathBuf::from(format!("/proc/{}/environ", vms[1]["pid"])),
    ] {
        assert!(path.exists(), "{}", path.display());
        assert!(!reads(&path), "{} is open to another VM's user", path.display());
    }
    // Of its own files it holds what it needs, and no other VM's.
    let held: Vec<String> = fs::read_dir(format!("/proc/{}/fd", vms[0]["pid"]))
        .unwrap()
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect();
    assert!(held.contains(&disk_of(&vms[0]).display().to_string()), "{held:?}");
    assert!(!held.iter().any(|path| path.contains(&id(&vms[1]))), "{held:?}");
    host.inn(["vm", "restart", "one"]).ok();
    assert_eq!(host.show("one")["limits"]["uid"], uids[0], "it keeps its user");
    host.inn(["vm", "delete", "one", "two"]).ok();
    host.finish();
}
