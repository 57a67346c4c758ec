//! VMs that begin from templates and from clones that wait, with real machines.

use std::collections::BTreeSet;
use std::time::Duration;

use inn_tests::{Host, wait};
use serde_json::Value;

const SLOW: Duration = Duration::from_secs(600);

fn snapshot(host: &Host) -> Value {
    host.inn(["node", "snapshot", "-o", "json"]).json()
}

/// Once so many clones wait.
pub(crate) fn until_waiting(host: &Host, wanted: u64) -> Value {
    let mut last = Value::Null;
    let there = wait::within(SLOW, || {
        last = snapshot(host);
        (last["pool"]["waiting"].as_u64() >= Some(wanted)).then_some(())
    });
    assert!(there.is_some(), "no {wanted} clones wait: {last}");
    last
}

/// The file of saved memory that its machine sees privately, by its inode.
fn saved_memory(vm: &Value) -> String {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", vm["pid"])).unwrap();
    let line = maps.lines().find(|line| line.contains("/memfd:inn-saved"));
    let line = line.unwrap_or_else(|| panic!("it has none: {vm}"));
    line.split_ascii_whitespace().nth(4).unwrap().to_owned()
}

/// The first boots, those after it are clones that have waited; each is a VM of
/// its own, and one that is asked to boots.
pub(crate) fn a_vm_is_a_clone_that_has_waited() {
    let host = Host::bare().with_templates();
    host.start_agent();
    host.import("mini");
    let run = |more: &[&'static str]| {
        let mut args = vec!["run", "--rm"];
        args.extend(more);
        args.extend([
            "mini",
            "--",
            "sh",
            "-c",
            "cat /etc/machine-id; hostname; od -An -N16 -tx1 /dev/urandom",
        ]);
        host.inn(args).limit(SLOW).ok()
    };
    let mut told = BTreeSet::new();
    told.insert(run(&[]));
    for n in 0..3 {
        let before = until_waiting(&host, 1);
        assert_eq!(before["templates"][0]["hits"], n, "{before}");
        told.insert(run(&[]));
    }
    let after = until_waiting(&host, 1);
    assert_eq!(after["templates"][0]["hits"], 3, "{after}");
    assert_eq!(told.len(), 4, "two of them are the same: {told:?}");
    let words: Vec<&str> = told.iter().flat_map(|said| said.lines()).collect();
    let distinct: BTreeSet<&&str> = words.iter().collect();
    assert_eq!(distinct.len(), words.len(), "{told:?}");
    told.insert(run(&["--cold"]));
    assert_eq!(snapshot(&host)["templates"][0]["hits"], 3);

    // One that lasts goes on from the template itself, and restarts from its
    // own disk.
    host.inn(["vm", "create", "--image", "mini", "--name", "web"]).limit(SLOW).ok();
    host.inn(["vm", "exec", "web", "--", "sh", "-c", "echo kept > /kept"]).ok();
    let web = host.show("web");
    assert_eq!(web["receipt"]["origin"], "the template of mini", "{web}");
    host.inn(["vm", "receipt", "web", "--verify"]).ok();
    // It is forked like any other: its children share what it had.
    host.inn(["vm", "fork", "web", "--count", "2"]).limit(SLOW).ok();
    let shared = ["web-1", "web-2"].map(|child| {
        let kept = host.inn(["vm", "exec", child, "--", "cat", "/kept"]).limit(SLOW).ok();
        assert_eq!(kept, "kept\n");
        saved_memory(&host.show(child))
    });
    assert_eq!(shared[0], shared[1], "their memory is one file");
    assert_ne!(shared[0], saved_memory(&host.show("web")), "and not their parent's");
    host.inn(["vm", "delete", "web-1", "web-2", "--force"]).ok();
    host.inn(["vm", "restart", "web"]).limit(SLOW).ok();
    let kept = host.inn(["vm", "exec", "web", "--", "cat", "/kept"]).limit(SLOW).ok();
    assert_eq!(kept, "kept\n");
    host.inn(["vm", "delete", "web", "--force"]).ok();

    // A killed agent leaves no clone behind, and the next one has the template.
    until_waiting(&host, 1);
    host.kill_agent();
    host.start_agent();
    let again = run(&[]);
    assert!(told.insert(again), "one of them twice");
    let now = until_waiting(&host, 1);
    assert_eq!(now["templates"][0]["id"], after["templates"][0]["id"], "{now}");
    host.finish();
}
