//! Against trees as real machines have them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::group::Cgroups;
use super::layout::{Controller, Hierarchies, Layout};
use super::plan::{CgroupLimits, CgroupPlan, Device, IoLimits, Resource, Targets};

/// Debian 12: systemd with one tree.
const SYSTEMD_V2: (&str, &str) = (
    "0::/system.slice/innkeeper.service\n",
    "24 30 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw\n\
     35 24 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 \
     rw,nsdelegate,memory_recursiveprot\n",
);

/// Ubuntu 20.04 and Debian 10: systemd's hybrid, where the second version has
/// no controller.
const SYSTEMD_HYBRID: (&str, &str) = (
    "12:pids:/system.slice/innkeeper.service\n11:memory:/system.slice/innkeeper.service\n\
     10:cpuset:/\n9:blkio:/system.slice\n5:cpu,cpuacct:/system.slice\n\
     1:name=systemd:/system.slice/innkeeper.service\n0::/system.slice/innkeeper.service\n",
    "25 24 0:22 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n\
     26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n\
     27 25 0:24 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd\n\
     31 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct\n\
     32 25 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory\n\
     33 25 0:30 / /sys/fs/cgroup/blkio rw,nosuid shared:17 - cgroup cgroup rw,blkio\n\
     34 25 0:31 / /sys/fs/cgroup/pids rw,nosuid shared:18 - cgroup cgroup rw,pids\n",
);

/// A machine without systemd, a tree for each controller.
const PLAIN_V1: (&str, &str) = (
    "8:pids:/\n7:blkio:/\n4:memory:/jobs/7\n2:cpuacct:/\n1:cpu:/\n",
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
     33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
     35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
     38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n\
     39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n",
);

/// In a container of version 2, as a runtime mounts it unless told otherwise.
const CONTAINER_V2: (&str, &str) = (
    "0::/\n",
    "1521 1514 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n",
);

/// In a container of version 1 without a name space for control groups: only
/// a part of each tree is mounted.
const CONTAINER_V1: (&str, &str) = (
    "4:memory:/docker/0a1b\n1:name=systemd:/docker/0a1b\n",
    "810 800 0:32 /docker/0a1b /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n",
);

fn all() -> BTreeSet<Controller> {
    [Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Io].into()
}

fn limits() -> CgroupLimits {
    CgroupLimits {
        cpu_percent: Some(150),
        cpu_weight: Some(200),
        memory: Some(1 << 30),
        pids: Some(300),
        io: IoLimits { read_bytes: Some(1000), write_ops: Some(50), ..IoLimits::default() },
        devices: vec![Device { major: 254, minor: 0 }],
    }
}

fn plan_in((cgroup, mountinfo): (&str, &str), v2: &BTreeSet<Controller>) -> CgroupPlan {
    let hierarchies = Hierarchies::parse(cgroup, mountinfo);
    Targets::planned(&hierarchies, v2, "innkeeper", "vm-0a").plan(&limits())
}

fn writes(plan: &CgroupPlan) -> Vec<(&str, &str)> {
    plan.writes.iter().map(|w| (w.path.to_str().unwrap(), w.value.as_str())).collect()
}

fn missing(plan: &CgroupPlan) -> Vec<(Resource, &str)> {
    plan.not_applied.iter().map(|n| (n.resource, n.why.as_str())).collect()
}

#[test]
fn one_tree_has_all_beside_the_agents_service() {
    let plan = plan_in(SYSTEMD_V2, &all());
    assert_eq!(plan.layout, Layout::V2);
    let base = "/sys/fs/cgroup/system.slice";
    assert_eq!(plan.groups, [PathBuf::from(format!("{base}/innkeeper/vm-0a"))]);
    let mut enabled: Vec<_> = plan.enable.iter().map(|(file, _)| file.clone()).collect();
    enabled.dedup();
    let files = ["", "/system.slice", "/system.slice/innkeeper"]
        .map(|dir| PathBuf::from(format!("/sys/fs/cgroup{dir}/cgroup.subtree_control")));
    assert_eq!(enabled, files, "from the root on");
    let dir = format!("{base}/innkeeper/vm-0a");
    let expected = [
        ("cpu.max", "150000 100000"),
        ("cpu.weight", "200"),
        ("memory.max", "1073741824"),
        ("pids.max", "300"),
        ("io.max", "254:0 rbps=1000 riops=max"),
        ("io.max", "254:0 wbps=max wiops=50"),
    ]
    .map(|(file, value)| (format!("{dir}/{file}"), value));
    let expected: Vec<_> = expected.iter().map(|(path, value)| (path.as_str(), *value)).collect();
    assert_eq!(writes(&plan), expected);
    assert!(plan.not_applied.is_empty());
}

#[test]
fn many_trees_have_each_controller_where_it_is() {
    for (tree, layout, cpu, memory) in [
        (SYSTEMD_HYBRID, Layout::Hybrid, "cpu,cpuacct/system.slice", "memory/system.slice"),
        (PLAIN_V1, Layout::V1, "cpu", "memory/jobs/7"),
    ] {
        let plan = plan_in(tree, &BTreeSet::new());
        assert_eq!(plan.layout, layout);
        assert!(plan.enable.is_empty());
        let has = |file: &str, value: &str| {
            let file = format!("/sys/fs/cgroup/{file}");
            assert!(writes(&plan).contains(&(file.as_str(), value)), "{file}: {plan:#?}");
        };
        has(&format!("{cpu}/innkeeper/vm-0a/cpu.cfs_quota_us"), "150000");
        has(&format!("{cpu}/innkeeper/vm-0a/cpu.shares"), "2048");
        has(&format!("{memory}/innkeeper/vm-0a/memory.limit_in_bytes"), "1073741824");
        let io = if layout == Layout::V1 { "blkio" } else { "blkio/system.slice" };
        has(&format!("{io}/innkeeper/vm-0a/blkio.throttle.read_bps_device"), "254:0 1000");
        has(&format!("{io}/innkeeper/vm-0a/blkio.throttle.write_iops_device"), "254:0 50");
        let groups = if layout == Layout::V1 { 5 } else { 4 };
        assert_eq!(plan.groups.len(), groups, "cpuacct counts too: {plan:#?}");
        let [(Resource::IoWrite, why)] = missing(&plan)[..] else { panic!("{plan:#?}") };
        assert!(why.contains("page cache"), "{why}");
    }
}

#[test]
fn what_is_not_there_is_told_and_no_failure() {
    let none = Hierarchies::parse("", "");
    assert_eq!(none.layout(), Layout::None);
    let cases = [
        (plan_in(("", ""), &BTreeSet::new()), "no control groups are mounted"),
        (plan_in(CONTAINER_V2, &all()), "read-only"),
        (plan_in(SYSTEMD_V2, &BTreeSet::new()), "not delegated to the agent"),
    ];
    for (plan, why) in cases {
        assert!(plan.groups.is_empty() && plan.writes.is_empty(), "{plan:#?}");
        assert_eq!(missing(&plan).len(), Resource::ALL.len());
        assert!(missing(&plan).iter().all(|(_, w)| w.contains(why)), "{plan:#?}");
    }
    let plan = plan_in(CONTAINER_V1, &BTreeSet::new());
    assert!(missing(&plan).iter().any(|(r, w)| *r == Resource::Memory && w.contains("read-only")));

    // Nobody misses what nobody has asked for.
    let targets = Targets::planned(&none, &BTreeSet::new(), "innkeeper", "vm-0a");
    assert!(targets.plan(&CgroupLimits::default()).not_applied.is_empty());
}

#[test]
fn a_part_of_a_tree_is_found_below_its_mount() {
    let rw = CONTAINER_V1.1.replace("ro,nosuid", "rw,nosuid");
    let plan = plan_in((CONTAINER_V1.0, &rw), &BTreeSet::new());
    assert_eq!(plan.groups, [PathBuf::from("/sys/fs/cgroup/memory/innkeeper/vm-0a")]);
}

#[test]
fn limits_that_go_are_written_as_none() {
    let hierarchies = Hierarchies::parse(PLAIN_V1.0, PLAIN_V1.1);
    let targets = Targets::planned(&hierarchies, &BTreeSet::new(), "innkeeper", "vm-0a");
    let devices = limits().devices;
    let plan = targets.plan(&CgroupLimits { devices, ..CgroupLimits::default() });
    let values: Vec<&str> = plan.writes.iter().map(|w| w.value.as_str()).collect();
    let zero = "254:0 0";
    assert_eq!(values, ["100000", "-1", "1024", "-1", "max", zero, zero, zero, zero]);
    assert!(plan.not_applied.is_empty());
}

#[test]
fn a_running_machine_is_changed_only_in_groups_of_its_own() {
    let own = PLAIN_V1.0.replace(":cpu:/", ":cpu:/old/vm-0a");
    let hierarchies = Hierarchies::parse(&own, PLAIN_V1.1);
    let targets = Targets::of_process(&hierarchies, &BTreeSet::new(), "vm-0a");
    let dirs: Vec<_> = targets.list.iter().map(|target| target.dir.clone()).collect();
    assert_eq!(dirs, [PathBuf::from("/sys/fs/cgroup/cpu/old/vm-0a")]);
}

#[tokio::test]
async fn groups_of_this_host_hold_a_process_and_go_with_it() {
    let name = format!("innkeeper-test-{}", std::process::id());
    let cgroups = Cgroups::find(&name);
    let limits = CgroupLimits { pids: Some(64), ..CgroupLimits::default() };
    let plan = cgroups.plan("0a", &limits);
    let placed = cgroups.make(&plan);
    if !placed.applied.contains(&Resource::Pids) {
        cgroups.reap(&|_| false, std::time::Duration::ZERO);
        eprintln!(
            "SKIPPED groups_of_this_host_hold_a_process_and_go_with_it: {:?}",
            placed.not_applied
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let spawner = crate::process::Spawner::start().unwrap();
    let spec = crate::process::SpawnSpec::new("/bin/sleep", log).args(["600"]);
    let mut confined = crate::process::Confined::default();
    confined.enter(&placed.entrances).unwrap();
    let process = spawner.spawn(spec.confined(confined)).await.unwrap();
    let pid = process.identity().pid;
    assert!(cgroups.has("0a", pid));
    let changed = CgroupLimits { pids: Some(65), ..CgroupLimits::default() };
    assert!(cgroups.change("0a", pid, &changed).applied.contains(&Resource::Pids));
    let written = plan.writes.iter().find(|write| write.resource == Resource::Pids).unwrap();
    assert_eq!(std::fs::read_to_string(&written.path).unwrap().trim(), "65");

    let patience = std::time::Duration::from_secs(60);
    assert!(cgroups.reap(&|id| id == "0a", patience).is_empty());
    assert!(process.is_alive());
    // By its name alone, with what is in it.
    assert_eq!(cgroups.reap(&|_| false, patience), ["0a"]);
    process.wait().await.unwrap();
    assert!(plan.groups.iter().all(|group| !group.exists()));
    assert!(plan.groups.iter().all(|group| !group.parent().unwrap().exists()));
}
