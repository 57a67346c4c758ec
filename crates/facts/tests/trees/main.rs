//! The facts of recorded and composed hosts: see `trees/README.md`.

#![allow(clippy::unwrap_used, reason = "a test, with its helpers")]

mod layout;

use inn_facts::{Root, collect};

fn facts(name: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{}/trees/{name}.tree", env!("CARGO_MANIFEST_DIR"));
    layout::lay_out(&std::fs::read_to_string(&path).unwrap(), dir.path());
    let facts = collect(&Root::recorded(dir.path()));
    serde_json::to_value(facts).unwrap()
}

macro_rules! trees {
    ($($test:ident: $name:literal;)*) => {$(
        #[test]
        fn $test() {
            insta::assert_json_snapshot!($name, facts($name));
        }
    )*};
}

trees! {
    a_laptop: "laptop";
    a_server_with_two_sockets: "server";
    a_host_with_gpus: "gpu";
    a_vm: "vm";
    a_container: "container";
    a_raspberry_pi: "raspberry-pi";
}

#[test]
fn an_empty_tree_has_no_facts_and_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let facts = collect(&Root::recorded(dir.path()));
    assert_eq!((facts.cpu.threads, facts.memory.total_bytes), (0, 0));
    assert!(!facts.kvm.present && facts.gpus.is_empty() && facts.block_devices.is_empty());
    assert_eq!(facts.cgroups.layout, "none");
}
