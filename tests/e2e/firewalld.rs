//! The agent's bridges in the zone of Debian's firewalld, in a network
//! namespace of the test's, as `firewall-cmd` has it.

use std::collections::BTreeSet;

use inn_tests::firewalld::Firewalld;
use inn_tests::netns::Netns;
use inn_tests::{Host, wait};

/// Over its reloads and its restart, the agent's death and networks that come
/// and go; and an agent that is told otherwise takes back its own and no more.
pub(crate) fn its_zone_has_our_bridges_whatever_happens_to_either() {
    let test = "its_zone_has_our_bridges_whatever_happens_to_either";
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(why) => return println!("SKIPPED {test}: no network namespace: {why}"),
    };
    let mut firewalld = match Firewalld::start(&netns) {
        Ok(firewalld) => firewalld,
        Err(why) => return println!("SKIPPED {test}: {why}"),
    };
    let host = Host::bare().without_vmm().with_programs(&firewalld.programs());
    let host = host.with_bridges(&netns);
    let told = |foreign: &str| {
        std::fs::write(host.config(), format!("network.foreign = \"{foreign}\"\n")).unwrap();
    };
    let bridges = || -> BTreeSet<String> {
        let list = host.inn(["network", "list", "-o", "json"]).json();
        let bridge = |network: &serde_json::Value| network["bridge"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(bridge).collect()
    };
    let zone = |firewalld: &Firewalld| -> BTreeSet<String> {
        let text = firewalld.ask(&["--zone=trusted", "--list-interfaces"]);
        text.split_whitespace().map(str::to_owned).collect()
    };
    let ours = |firewalld: &Firewalld| -> BTreeSet<String> {
        zone(firewalld).into_iter().filter(|name| name.starts_with("inn-b")).collect()
    };
    let until_all = |firewalld: &Firewalld, when: &str| {
        let wanted = bridges();
        wait::until(&format!("the zone has our bridges {when}"), || {
            (ours(firewalld) == wanted).then_some(())
        });
    };
    told("firewalld");
    host.start_agent();
    until_all(&firewalld, "at first");
    host.inn(["network", "create", "lab"]).ok();
    assert_eq!(bridges().len(), 2);
    until_all(&firewalld, "with a second network");

    for reload in ["--reload", "--complete-reload"] {
        firewalld.ask(&[reload]);
        until_all(&firewalld, &format!("after {reload}"));
    }
    firewalld.end();
    firewalld.begin();
    until_all(&firewalld, "after its restart");
    // One that is not there is said, and asked once it is.
    firewalld.end();
    host.inn(["network", "create", "late"]).ok();
    wait::until("it is said that it cannot be asked", || {
        let said = host.inn(["port", "restore", "-o", "json"]).ok();
        said.contains("it cannot be asked").then_some(())
    });
    firewalld.begin();
    until_all(&firewalld, "once it is there");

    // Networks that go while the agent is dead or alive.
    host.inn(["network", "delete", "late"]).ok();
    until_all(&firewalld, "without a network that is deleted");
    host.kill_agent();
    let taken = take_one(&zone(&firewalld), &firewalld);
    assert!(!zone(&firewalld).contains(&taken));
    host.start_agent();
    until_all(&firewalld, "under the next agent");
    // Another zone is its owner's choice, which is said and left.
    let lab = host.inn(["network", "show", "lab", "-o", "json"]).json();
    let lab = lab[0]["bridge"].as_str().unwrap().to_owned();
    firewalld.ask(&["--zone=work", &format!("--change-interface={lab}")]);
    host.kill_agent();
    host.start_agent();
    assert_eq!(firewalld.ask(&[&format!("--get-zone-of-interface={lab}")]), "work");

    // Somebody else's nobody touches.
    netns.program("/sbin/ip", &["link", "add", "other0", "type", "bridge"]).unwrap();
    firewalld.ask(&["--zone=trusted", "--add-interface=other0"]);
    host.kill_agent();
    told("none");
    host.start_agent();
    wait::until("none but that is left", || {
        (zone(&firewalld) == BTreeSet::from(["other0".to_owned()])).then_some(())
    });
    assert_eq!(firewalld.ask(&[&format!("--get-zone-of-interface={lab}")]), "work");
    host.stop_agent();
    host.finish();
}

/// Takes one of ours out of the zone, as somebody does by hand.
fn take_one(zone: &BTreeSet<String>, firewalld: &Firewalld) -> String {
    let own = zone.iter().find(|name| name.starts_with("inn-b")).expect("one of ours").clone();
    firewalld.ask(&["--zone=trusted", &format!("--remove-interface={own}")]);
    own
}
