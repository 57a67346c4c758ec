//! What real machines use, over an agent that is killed.

use inn_tests::{Host, wait};
use serde_json::Value;

fn row(host: &Host) -> Value {
    let report = host.inn(["node", "usage", "-o", "json"]).json();
    report["items"][0].clone()
}

fn figure(row: &Value, of: &str, what: &str) -> f64 {
    row[of][what].as_f64().unwrap_or_else(|| panic!("no {of}.{what}: {row}"))
}

pub(crate) fn machines_are_counted_over_an_agent_s_death() {
    let host = Host::up();
    let create = ["vm", "create", "--image", "mini", "--name", "web", "--label", "team=red"];
    host.inn(create).ok();
    let first = wait::until("its machine is weighed", || {
        let row = row(&host);
        (figure(&row, "memoryByteSeconds", "used") > 0.0).then_some(row)
    });
    assert_eq!(first["name"], "web", "{first}");
    assert!(figure(&first, "vcpuSeconds", "allotted") > 0.0, "{first}");
    let count = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    host.inn(["vm", "exec", "web", "--", "sh", "-c", count]).ok();
    host.kill_agent();
    host.start_agent();
    host.inn(["vm", "exec", "web", "--", "true"]).ok();
    host.inn(["vm", "delete", "web", "--force"]).ok();
    let last = row(&host);
    println!("{}", host.inn(["node", "usage"]).ok());
    for (of, what) in [
        ("vcpuSeconds", "allotted"),
        ("vcpuSeconds", "used"),
        ("memoryByteSeconds", "allotted"),
        ("memoryByteSeconds", "used"),
        ("diskByteSeconds", "allotted"),
        ("diskByteSeconds", "used"),
    ] {
        assert!(figure(&last, of, what) > figure(&first, of, what), "{of}.{what}: {first} {last}");
    }
    assert_eq!(row(&host), last, "nothing is counted of what is gone");
    let csv = host.inn(["node", "usage", "--by", "team", "-o", "csv"]).ok();
    assert!(csv.lines().nth(1).unwrap().starts_with("red,,1,"), "{csv}");
    host.inn(["vm", "list", "-o", "csv"]).refused(2, &["-o csv"]);

    // Its end writes what is in no block yet.
    host.stop_agent();
    host.start_agent();
    let check = host.inn(["node", "usage", "verify", "-o", "json"]).json();
    assert_eq!((&check["ok"], &check["vms"]), (&Value::Bool(true), &1.into()), "{check}");
    let key = check["publicKey"].as_str().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let ledger = std::fs::read_to_string(host.data().join("usage/000001.jsonl")).unwrap();
    let verify = |text: &str| {
        std::fs::write(copy.path().join("000001.jsonl"), text).unwrap();
        let args = ["node", "usage", "verify", "--key", key, "--dir"];
        host.inn(args).args([copy.path()]).output()
    };
    println!("{}", verify(&ledger).expect_code(0).stdout);
    let changed = verify(&ledger.replace("\"team\":\"red\"", "\"team\":\"blu\"")).expect_code(1);
    assert!(changed.stdout.contains("000001.jsonl:1: its signature does not fit"), "{changed}");
    host.finish();
}
