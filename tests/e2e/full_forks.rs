//! Forks and snapshots of a VM with an operating system of its own, on a bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_tests::netns::Netns;
use inn_tests::{Host, wait};
use serde_json::Value;

use crate::guests::{BOOT_LIMIT, until_ready};

/// Only a hang reaches it.
const SLOW: Duration = Duration::from_secs(300);

/// Its card is found by its MAC, as cloud-init and Netplan write it, and by nothing
/// else: a clone that does not know its own has no network after its next boot.
const BY_MAC: &str = r"set -e
card=$(ls /sys/class/net | grep -v lo)
printf '[Match]\nMACAddress=%s\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' \
    $(tr a-f A-F </sys/class/net/$card/address) >/etc/systemd/network/10-own.network
rm /etc/systemd/network/80-dhcp.network
networkctl reload
echo own >/root/of-the-parent; sync
systemd-run --quiet --unit forked-count sh -c \
    'i=0; while true; do i=$((i+1)); echo $i >/run/count; sleep 0.2; done'
";

/// What tells one machine from another.
const TELL: &str = r"card=$(ls /sys/class/net | grep -v lo)
echo hostname=$(hostname) machine=$(cat /etc/machine-id) mac=$(cat /sys/class/net/$card/address)
echo addresses=$(ip -4 -o address show $card | awk '{print $4}' | cut -d/ -f1)
echo gateway=$(ip -4 route show default | head -n1 | cut -d' ' -f3)
echo random=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
echo clock=$(date +%s.%N)
echo files=$(ls /root | tr '\n' ',')
";

pub(crate) fn a_full_vm_is_forked(host: &Host, here: &Netns, name: &str) {
    let exec = |vm: &str, script: &str| {
        host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).limit(SLOW).ok()
    };
    exec(name, BY_MAC);
    // It asks for its address again.
    wait::until("it has its network", || reaches(host, here, name).then_some(()));
    let (before, parent) = (host.show(name), told(host, name));

    host.inn(["vm", "fork", name, "--count", "2"]).limit(SLOW).ok();
    let clones = [format!("{name}-1"), format!("{name}-2")];
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut all = vec![(name.to_owned(), parent.clone())];
    for clone in &clones {
        let shown = host.show(clone);
        assert_eq!(shown["guest"]["bootId"], before["guest"]["bootId"], "it never booted: {shown}");
        host.inn(["vm", "receipt", &**clone, "--verify"]).ok();
        let session = shown["receipt"]["bootSession"].as_str().unwrap_or_default();
        seen.entry("session").or_default().insert(session.to_owned());
        step(&shown, "network", "done");
        step(&shown, "ssh-host-keys", "skipped");
        assert!(is_told_of(&shown, "generation-id"), "{shown}");
        all.push((clone.clone(), told(host, clone)));
        exec(clone, &format!("echo mine >/root/of-{clone}"));
    }
    assert_eq!(seen["session"].len(), 2);
    for (vm, said) in &all {
        // The parent's was its image's.
        assert!(said["hostname"] == *vm || vm == name, "{said:?}");
        is_where_it_should(host, here, vm, said);
        assert_eq!(said["gateway"], parent["gateway"], "{said:?}");
        for what in ["random", "machine", "mac", "addresses"] {
            assert!(!said[what].is_empty(), "{what}: {said:?}");
            assert!(seen.entry(what).or_default().insert(said[what].clone()), "{what}: {said:?}");
        }
    }
    for (vm, _) in &all {
        let files = told(host, vm)["files"].clone();
        let foreign = clones.iter().filter(|clone| *clone != vm);
        assert!(files.contains("of-the-parent,"), "{vm}: {files}");
        assert!(foreign.into_iter().all(|clone| !files.contains(&**clone)), "{vm}: {files}");
        // What ran runs on in each.
        let count = || exec(vm, "cat /run/count");
        let first = count();
        wait::until("its program counts on", || (count() != first).then_some(()));
    }
    let after = host.show(name);
    assert_eq!((&after["pid"], &after["guest"]), (&before["pid"], &before["guest"]), "{after}");

    boots_as_itself(host, here, &clones[0], &all[1].1);
    of_a_fork_and_of_a_snapshot(host, here, &clones[1], &mut seen);
    host.inn(["vm", "delete", &*clones[0], &*clones[1], "--force"]).ok();
    is_where_it_should(host, here, name, &parent);
}

/// It has its own name, MAC and address still, by its own DHCP client.
fn boots_as_itself(host: &Host, here: &Netns, vm: &str, before: &BTreeMap<String, String>) {
    let boot = host.show(vm)["guest"]["bootId"].clone();
    host.inn(["vm", "exec", vm, "--", "systemctl", "reboot"]).limit(SLOW).output();
    let again = wait::within(BOOT_LIMIT, || {
        let now = host.show(vm)["guest"]["bootId"].clone();
        (now.is_string() && now != boot).then_some(())
    });
    assert!(again.is_some(), "it did not boot again: {}", host.show(vm));
    let shown = until_ready(host, vm);
    assert!(shown["receipt"].is_null(), "it has booted: {shown}");
    wait::until("it has its network", || reaches(host, here, vm).then_some(()));
    let after = told(host, vm);
    for what in ["hostname", "machine", "mac", "addresses", "gateway"] {
        assert_eq!(after[what], before[what], "{what} after its boot");
    }
    let leased = host.inn(["vm", "exec", vm, "--", "ip", "-4", "-o", "address"]).ok();
    assert!(leased.contains("dynamic"), "{leased}");
}

/// A clone is a VM like any other, and so is what begins from its snapshot.
fn of_a_fork_and_of_a_snapshot(
    host: &Host,
    here: &Netns,
    clone: &str,
    seen: &mut BTreeMap<&'static str, BTreeSet<String>>,
) {
    host.inn(["vm", "fork", clone, "--count", "1", "--name-prefix", "grandchild"]).limit(SLOW).ok();
    host.inn(["vm", "snapshot", clone, "--name", "golden"]).limit(SLOW).ok();
    host.inn(["snapshot", "restore", "golden", "--name", "restored"]).limit(SLOW).ok();
    for vm in ["grandchild-1", "restored"] {
        until_ready(host, vm);
        let said = told(host, vm);
        assert_eq!(said["hostname"], vm, "{said:?}");
        is_where_it_should(host, here, vm, &said);
        for what in ["random", "machine", "mac", "addresses"] {
            assert!(seen.entry(what).or_default().insert(said[what].clone()), "{what}: {said:?}");
        }
        assert!(said["files"].contains(&format!("of-{clone},")), "{said:?}");
    }
    host.inn(["snapshot", "delete", "golden"]).ok();
    host.inn(["vm", "delete", "grandchild-1", "restored", "--force"]).ok();
}

fn told(host: &Host, vm: &str) -> BTreeMap<String, String> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let text = host.inn(["vm", "exec", vm, "--", "sh", "-c", TELL]).limit(SLOW).ok();
    let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
    let said: BTreeMap<String, String> =
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let clock: f64 = said["clock"].parse().unwrap_or_else(|_| panic!("{text}"));
    // It was asked in between.
    assert!((before - 0.2..now() + 0.2).contains(&clock), "the clock of {vm} is {clock}");
    said
}

/// The address that the node has for it is its only one, and whoever connects there
/// is answered.
fn is_where_it_should(host: &Host, here: &Netns, vm: &str, said: &BTreeMap<String, String>) {
    let leased = host.inn(["vm", "ip", vm]).ok();
    assert_eq!(said["addresses"], leased.trim(), "{vm}");
    wait::until("it answers", || reaches(host, here, vm).then_some(()));
}

/// Whether its ssh server speaks to who connects to its address.
fn reaches(host: &Host, here: &Netns, vm: &str) -> bool {
    let address: IpAddr = host.inn(["vm", "ip", vm]).ok().trim().parse().unwrap();
    here.run(move || {
        let patience = Duration::from_secs(20);
        let to = SocketAddr::from((address, 22));
        let Ok(mut stream) = TcpStream::connect_timeout(&to, patience) else { return false };
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).is_ok() && said == *b"SSH-"
    })
}

fn step(shown: &Value, name: &str, result: &str) {
    let steps = shown["receipt"]["steps"].as_array().unwrap_or_else(|| panic!("{shown}"));
    let found = steps.iter().find(|step| step["name"] == name);
    assert_eq!(found.map(|step| &step["result"]), Some(&result.into()), "{name}: {shown}");
}

fn is_told_of(shown: &Value, name: &str) -> bool {
    let steps = shown["receipt"]["steps"].as_array().unwrap_or_else(|| panic!("{shown}"));
    steps.iter().any(|step| step["name"] == name)
}
