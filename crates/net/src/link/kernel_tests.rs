//! With the kernel itself, in network namespaces of the tests' own.

use std::time::Duration;

use inn_host::netns::Netns;
use inn_host::tap;

use super::*;
use crate::testing::{client, declared, network};

/// Or why not, said aloud.
fn namespace(test: &str) -> Option<Netns> {
    Netns::make().inspect_err(|why| println!("SKIPPED {test}: no network namespace: {why}")).ok()
}

fn settle(links: &mut Links, declared: &inn_domain::network::Declared) -> Vec<String> {
    let done = links.converge(declared).unwrap();
    let failed: Vec<String> =
        done.failed.iter().map(|failed| format!("{failed}: {}", failed.source)).collect();
    assert_eq!(failed, [""; 0]);
    assert_eq!(done.blocked, [""; 0]);
    done.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_declared_is_there_after_one_round_and_stays() {
    let Some(netns) = namespace("what_is_declared_is_there_after_one_round_and_stays") else {
        return;
    };
    netns.run(|| {
        let mut links = Links::open().unwrap();
        let declared = declared();
        assert!(!settle(&mut links, &declared).is_empty());
        assert_eq!(settle(&mut links, &declared), [""; 0], "nothing is left to do");
        let one = client(2, "one");
        let tap = tap::open(one.tap().as_str()).unwrap();
        let steps = settle(&mut links, &declared);
        assert!(steps[0].contains("master"), "{steps:?}");
        assert_eq!(settle(&mut links, &declared), [""; 0], "nothing is left to do");
        let observed = links.read(&declared).unwrap();
        let port = observed.link(one.tap().as_str()).unwrap();
        assert_eq!(port.port, Some(Port { isolated: true, learning: false, flood: false }));
        assert_eq!(port.mtu, 1400);
        // The host has no address on a VM's port, not even the link's.
        assert!(!observed.addresses.iter().any(|address| address.link == port.index));
        drop(tap);
        assert_eq!(settle(&mut links, &declared), [""; 0], "a VM that ends leaves nothing to do");
        let nothing =
            inn_domain::network::Declared { instance: declared.instance, ..Default::default() };
        assert_eq!(settle(&mut links, &nothing), [format!("remove {}", network().bridge())]);
        assert_eq!(settle(&mut links, &nothing), [""; 0]);
    });
}

#[test]
fn one_tap_is_attached_without_a_look_at_the_rest() {
    let Some(netns) = namespace("one_tap_is_attached_without_a_look_at_the_rest") else { return };
    netns.run(|| {
        let mut links = Links::open().unwrap();
        let mut declared = declared();
        let one = declared.attachments.remove(0);
        settle(&mut links, &declared);
        assert!(links.attach(&declared, one.vm).is_err(), "it is not declared");
        declared.attachments.push(one.clone());
        assert!(links.attach(&declared, one.vm).is_err(), "its tap is not there");
        let tap = tap::open(one.tap().as_str()).unwrap();
        let done = links.attach(&declared, one.vm).unwrap();
        assert!(done.failed.is_empty() && done.blocked.is_empty(), "{done:?}");
        assert_eq!(settle(&mut links, &declared), [""; 0], "nothing is left to do");
        // And taken back, whether its tap is gone by then or not.
        for held in [Some(tap), None] {
            let before = declared.clone();
            declared.attachments.pop();
            if held.is_none() {
                drop(tap::open(one.tap().as_str()).unwrap());
            }
            let done = links.detach(&before, &one).unwrap();
            assert!(done.failed.is_empty(), "{done:?}");
            assert_eq!(settle(&mut links, &declared), [""; 0], "nothing is left to do");
            declared = before;
        }
    });
}

#[test]
fn settings_follow_from_maps_without_a_look_at_links() {
    let name = "settings_follow_from_maps_without_a_look_at_links";
    let Some(netns) = namespace(name) else { return };
    netns.run(|| {
        ip(&["link", "add", "up0", "type", "veth", "peer", "name", "far0"]);
        ip(&["addr", "add", "192.0.2.1/24", "dev", "up0"]);
        let mut links = Links::open().unwrap();
        let mut declared = declared();
        declared.networks[0].spec.kind = inn_domain::network::NetworkKind::Isolated;
        settle(&mut links, &declared);
        let host = links.read(&declared).unwrap();
        declared.maps.push(crate::table::tests::map(
            inn_domain::network::Listen::Any,
            inn_domain::network::Transport::Tcp,
            (8080, 8080),
            (&["10.213.0.2"], 80),
        ));
        let done = links.set(&declared, host);
        let steps: Vec<String> = done.steps.iter().map(ToString::to_string).collect();
        assert!(steps.iter().any(|step| step.contains("up0/forwarding")), "{steps:?}");
        let again = links.set(&declared, done.observed);
        assert!(again.steps.is_empty(), "{:?}", again.steps);
        assert_eq!(settle(&mut links, &declared), [""; 0], "nothing is left to do");
    });
}

#[test]
fn sabotage_is_seen_and_mended() {
    let Some(netns) = namespace("sabotage_is_seen_and_mended") else { return };
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut links = Links::open().unwrap();
        let declared = declared();
        let (bridge, one) = (network().bridge(), client(2, "one"));
        let _tap = tap::open(one.tap().as_str()).unwrap();
        settle(&mut links, &declared);
        let tap = one.tap();
        for sabotage in [
            vec!["link", "set", bridge.as_str(), "down"],
            vec!["link", "set", tap.as_str(), "down"],
            vec!["link", "set", tap.as_str(), "nomaster"],
            vec!["link", "set", bridge.as_str(), "mtu", "1300"],
            vec!["addr", "flush", "dev", bridge.as_str()],
            vec!["link", "set", bridge.as_str(), "alias", ""],
            vec!["link", "set", bridge.as_str(), "type", "bridge", "stp_state", "1"],
            vec!["link", "set", tap.as_str(), "type", "bridge_slave", "isolated", "off"],
            vec!["link", "del", bridge.as_str()],
        ] {
            let _guard = runtime.enter();
            let mut monitor = Monitor::open().unwrap();
            ip(&sabotage);
            let told = runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(30), monitor.changed()).await
            });
            told.expect("a change is told").unwrap();
            assert!(!settle(&mut links, &declared).is_empty(), "{sabotage:?}");
            assert_eq!(settle(&mut links, &declared), [""; 0], "{sabotage:?}");
        }
        // What nobody is told of is seen all the same.
        ip(&["neigh", "flush", "dev", bridge.as_str(), "nud", "permanent"]);
        settle(&mut links, &declared);
        assert_eq!(settle(&mut links, &declared), [""; 0], "neighbours");
    });
}

#[test]
fn two_instances_leave_each_others_links_alone() {
    let Some(netns) = namespace("two_instances_leave_each_others_links_alone") else { return };
    netns.run(|| {
        let mut links = Links::open().unwrap();
        let ours = declared();
        settle(&mut links, &ours);
        let mut other = declared();
        other.instance = inn_domain::network::Instance(None);
        let done = links.converge(&other).unwrap();
        assert!(done.steps.is_empty(), "{:?}", done.steps);
        assert!(done.blocked[0].contains("is another's"), "{:?}", done.blocked);
        let nothing = inn_domain::network::Declared::default();
        assert_eq!(settle(&mut links, &nothing), [""; 0]);
        assert_eq!(settle(&mut links, &ours), [""; 0]);
    });
}

/// In the calling thread's namespace.
#[expect(clippy::disallowed_methods, reason = "a sabotage is somebody else's program")]
fn ip(args: &[&str]) {
    let done = std::process::Command::new("ip").args(args).output().expect("iproute2 is there");
    assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}
