//! The facts of recorded and composed hosts: see `trees/README.md`.

#![allow(clippy::unwrap_used, reason = "a test, with its helpers")]

mod layout;

use inn_api::{Family, Finding, FindingState, HostFacts};
use inn_facts::doctor::{DirectorySight, PortSight, RuntimeSight, Sight, examine};
use inn_facts::{Root, collect};
use inn_units::Bytes;
use jiff::Timestamp;

fn host(name: &str) -> HostFacts {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{}/trees/{name}.tree", env!("CARGO_MANIFEST_DIR"));
    layout::lay_out(&std::fs::read_to_string(&path).unwrap(), dir.path());
    collect(&Root::recorded(dir.path()))
}

fn facts(name: &str) -> serde_json::Value {
    serde_json::to_value(host(name)).unwrap()
}

/// All trees that there are.
fn names() -> Vec<String> {
    let trees = std::fs::read_dir(format!("{}/trees", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let stem = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        name.strip_suffix(".tree").map(str::to_owned)
    };
    trees.filter_map(|entry| stem(entry.unwrap())).collect()
}

/// Of somebody for whom nothing is as it should be.
fn nothing_is_well(is_root: bool, mode: Option<u32>, writable: bool) -> Sight {
    let runtime = |name: &str| RuntimeSight {
        name: name.to_owned(),
        is_chosen: true,
        standing: Err("it is not here".to_owned()),
    };
    let available = Some(Bytes::mib(3));
    let path = "/var/lib/innkeeper".to_owned();
    Sight {
        is_root,
        runtimes: ["qemu", "firecracker", "krun", "libvirt"].map(runtime).into(),
        kernel: Some(Err("there is none".to_owned())),
        data_dir: Some(DirectorySight { path, mode, writable, available }),
        port: Some(PortSight { address: "127.0.0.1:5100".to_owned(), taken: true }),
        ..Sight::default()
    }
}

/// A host with less than it has, and on which no finding is well that can be
/// otherwise.
fn bereft(mut facts: HostFacts) -> HostFacts {
    facts.memory.available_bytes = 1;
    facts.memory.transparent_huge_pages = Some("never".to_owned());
    facts.clock.synchronised = Some(false);
    facts.clock.source = Some("hpet".to_owned());
    facts.kvm = inn_api::KvmFacts { reason: "there is none".to_owned(), ..Default::default() };
    facts.kernel_parts.clear();
    facts.tools.clear();
    facts.cgroups.controllers.clear();
    for gpu in &mut facts.gpus {
        gpu.passthrough.possible = false;
        gpu.driver_version = None;
    }
    facts
}

#[test]
fn whatever_is_not_well_on_any_host_says_what_mends_it() {
    let families =
        [Family::Debian, Family::Fedora, Family::Suse, Family::Alpine, Family::Arch, Family::Other];
    let sights = [
        nothing_is_well(true, None, false),
        nothing_is_well(true, Some(0o700), false),
        nothing_is_well(true, Some(0o755), true),
        nothing_is_well(false, None, false),
        nothing_is_well(false, Some(0o700), false),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for name in names() {
        let whole = host(&name);
        for family in families {
            for facts in [whole.clone(), bereft(whole.clone())] {
                let mut facts = facts;
                facts.distribution.family = family;
                for layout in ["v1", "v2", "none", facts.cgroups.layout.clone().as_str()] {
                    facts.cgroups.layout = layout.to_owned();
                    for sight in &sights {
                        let told = examine(Timestamp::UNIX_EPOCH, &facts, sight);
                        for finding in &told.findings {
                            says_what_mends_it(&format!("{name}, {family:?}"), finding);
                            seen.insert(finding.check.clone());
                        }
                    }
                }
            }
        }
    }
    // Of every matter there is.
    for check in ["kvm", "gpu.nvml", "gpu.passthrough", "time.source", "network.root", "group"] {
        assert!(seen.contains(check), "{seen:?}");
    }
}

fn says_what_mends_it(host: &str, finding: &Finding) {
    let Finding { state, command, instruction, .. } = finding;
    let told = [command, instruction].map(|told| told.as_deref().unwrap_or_default());
    if *state == FindingState::Ok {
        assert_eq!(told, ["", ""], "{host}: {finding:?}");
        return;
    }
    assert_ne!(told, ["", ""], "{host}: {finding:?}");
    // Exact: no part is left to be guessed, and a command is one.
    for one in told {
        assert!(!one.contains("  ") && !one.ends_with('.'), "{host}: {finding:?}");
    }
    assert!(!told[0].starts_with("add "), "{host}: {finding:?}");
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
