use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::host::Host;

fn examined(host: &Host, words: &[&str]) -> (Value, Option<i32>) {
    let said = host.output(&[&["doctor", "-o", "json"], words].concat());
    let told: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    // Nobody has to know whether this host can run VMs: the code says the same.
    assert_eq!(said.code, Some(i32::from(told["healthy"] != true)), "{said:?}");
    (told, said.code)
}

fn state<'a>(told: &'a Value, check: &str) -> &'a str {
    let all = told["findings"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["check"] == check);
    found.and_then(|finding| finding["state"].as_str()).unwrap_or_else(|| panic!("{check}: {told}"))
}

#[test]
fn a_host_is_examined_without_an_agent_and_with_one() {
    let host = Host::new();
    let (told, _) = examined(&host, &[]);
    assert_eq!(told["byAgent"], false);
    assert_eq!(state(&told, "data-directory"), "ok", "an agent makes it");
    assert!(!host.data().exists() && host.agent().is_none(), "it only looks");

    host.ok(&["vm", "list"]);
    let (told, _) = examined(&host, &[]);
    assert_eq!(told["byAgent"], true);
    let text = host.output(&["doctor", "--all"]).stdout;
    assert!(text.contains("data-directory: ") && text.contains("VMs can"), "{text}");
}

#[test]
fn a_directory_that_is_open_to_all_is_told_with_what_closes_it() {
    let host = Host::new();
    std::fs::create_dir(host.data()).unwrap();
    std::fs::set_permissions(host.data(), PermissionsExt::from_mode(0o755)).unwrap();
    let mode = || std::fs::metadata(host.data()).unwrap().permissions().mode() & 0o777;
    let (told, code) = examined(&host, &[]);
    assert_eq!((state(&told, "data-directory"), code), ("degraded", Some(1)), "{told}");
    assert_eq!(mode(), 0o755, "it only looks");
    let text = host.output(&["doctor"]).stdout;
    assert!(text.contains("chmod o-rwx") && text.contains("inn doctor --fix"), "{text}");
}
