use std::collections::BTreeSet;

use inn_api::CgroupFacts;
use inn_host::cgroup::Hierarchies;

use crate::Root;

/// What v1 mounts beside controllers says how, and not what (cgroups(7)).
const CONTROLLERS: [&str; 13] = [
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "io", "memory", "misc",
    "net_cls", "pids", "rdma",
];

pub(super) fn cgroups(root: &Root) -> CgroupFacts {
    let own = root.text("/proc/self/cgroup").unwrap_or_default();
    let mounts = root.text("/proc/self/mountinfo").unwrap_or_default();
    let layout = Hierarchies::parse(&own, &mounts).layout();
    let mut controllers = BTreeSet::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup") => controllers.extend(known(right.nth(1).unwrap_or_default(), ',')),
            Some("cgroup2") => {
                let point = left.split(' ').nth(4).unwrap_or_default();
                let text = root.text(format!("{point}/cgroup.controllers")).unwrap_or_default();
                controllers.extend(known(&text, ' '));
            }
            _ => {}
        }
    }
    CgroupFacts { layout: layout.to_string(), controllers: controllers.into_iter().collect() }
}

fn known(text: &str, between: char) -> impl Iterator<Item = String> {
    text.split(between).map(str::trim).filter(|name| CONTROLLERS.contains(name)).map(str::to_owned)
}
