//! A service changes its machine: here one made of namespaces, with disks that
//! are files. The clock is the one thing that namespaces do not have.

#![expect(clippy::disallowed_methods, reason = "the program under test is what is started")]
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use host::{Disk, Guest, can_enter};
use inn_guest_proto::capability;
use inn_guest_proto::wire::{
    Address, ApplyNetwork, ConfirmNetwork, FailureKind, Freeze, GetSshKeys, GetTelemetry, GrowDisk,
    InterfaceSetup, Mount, MountDisk, NetworkSetup, Route, SetHostname, SetPassword, SetSshKeys,
    Thaw, Unmount, end::Outcome, request::Kind,
};

const MIB: u64 = 1024 * 1024;
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5cVFUyqF3WvI1Ipo0sDMvd1fUE2tBNwHzGGgFTbcoF me";

#[track_caller]
fn done(outcome: Outcome) {
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}

fn users(dir: &std::path::Path) {
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(dir.join("etc/shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
    fs::write(dir.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(dir.join("etc/os-release"), "PRETTY_NAME=\"A test\"\n").unwrap();
}

#[test]
fn names_passwords_and_keys() {
    if !can_enter() {
        return;
    }
    let mut guest = Guest::start(users);
    let hello = guest.hello.clone().unwrap();
    assert!(hello.capabilities.iter().any(|name| name == capability::MACHINE), "{hello:?}");
    assert_eq!((hello.os.as_str(), hello.frozen), ("A test", false));

    done(guest.ask(Kind::SetHostname(SetHostname { hostname: "inn-test".into() })));
    assert_eq!(guest.inside("uname -n").trim(), "inn-test");
    assert_eq!(fs::read_to_string(guest.etc("hostname")).unwrap(), "inn-test\n");
    assert!(fs::read_to_string(guest.etc("hosts")).unwrap().contains("127.0.1.1\tinn-test"));

    let password =
        SetPassword { user: "root".into(), password: "secret".into(), hash: String::new() };
    done(guest.ask(Kind::SetPassword(password)));
    let shadow = fs::read_to_string(guest.etc("shadow")).unwrap();
    assert!(shadow.starts_with("root:$6$"), "{shadow}");
    let ghost = SetPassword { user: "ghost".into(), password: "x".into(), hash: String::new() };
    let failure = guest.refuses(Kind::SetPassword(ghost));
    assert_eq!(failure.kind(), FailureKind::NotFound);

    let keys = SetSshKeys { user: "root".into(), keys: vec![KEY.into()], replace: false };
    done(guest.ask(Kind::SetSshKeys(keys)));
    let file = guest.dir.path().join("root/.ssh/authorized_keys");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{KEY}\n"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    match guest.ask(Kind::GetSshKeys(GetSshKeys { user: "root".into() })) {
        Outcome::SshKeys(keys) => assert_eq!(keys.keys, [KEY]),
        other => panic!("{other:?}"),
    }
    match guest.ask(Kind::GetTelemetry(GetTelemetry {})) {
        Outcome::Telemetry(it) => {
            assert_eq!((it.hostname.as_str(), it.os.as_str()), ("inn-test", "A test"));
            let card = it.interfaces.iter().find(|card| card.name == "inn0").unwrap();
            assert!(card.up && card.mac.len() == 6, "{card:?}");
            let ours = Address { ip: vec![10, 7, 0, 2].into(), prefix: 24 };
            assert!(card.addresses.contains(&ours), "{card:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn network(last: u8, gateway: [u8; 4], confirm_ms: u32) -> Kind {
    let card = InterfaceSetup {
        name: "inn0".into(),
        addresses: vec![
            Address { ip: vec![10, 8, 0, last].into(), prefix: 24 },
            Address { ip: [vec![0xFD; 15], vec![last]].concat().into(), prefix: 64 },
        ],
        routes: vec![Route { to: None, via: gateway.to_vec().into(), metric: 7 }],
        mtu: 1400,
        ..InterfaceSetup::default()
    };
    let setup = NetworkSetup {
        interfaces: vec![card],
        dns: vec![vec![10, 8, 0, 3].into()],
        search: vec!["example.org".into()],
    };
    Kind::ApplyNetwork(ApplyNetwork { setup: Some(setup), confirm_ms })
}

const SHOW: &str = "ip -o addr show dev inn0; ip route show default; ip link show inn0";

fn as_it_was(said: &str) -> bool {
    said.contains("10.7.0.2/24")
        && said.contains("default via 10.7.0.1")
        && said.contains("mtu 1500")
        && !said.contains("10.8.0.")
        && !said.contains("fdfd:")
}

#[test]
fn a_network_is_kept_only_if_somebody_confirms_it() {
    if !can_enter() {
        return;
    }
    let mut guest = Guest::start(|dir| {
        users(dir);
        fs::write(dir.join("etc/resolv.conf"), "nameserver 10.7.0.3\n").unwrap();
    });
    let failure = guest.refuses(Kind::ConfirmNetwork(ConfirmNetwork {}));
    assert_eq!(failure.kind(), FailureKind::NotFound);

    // Nobody does: everything is as it was.
    match guest.ask(network(2, [10, 8, 0, 1], 300)) {
        Outcome::NetworkApplied(applied) => assert_eq!(applied.by, "addresses"),
        other => panic!("{other:?}"),
    }
    guest.until_inside(SHOW, as_it_was);
    guest.until_inside("cat /etc/resolv.conf", |text| text == "nameserver 10.7.0.3\n");
    let failure = guest.refuses(Kind::ConfirmNetwork(ConfirmNetwork {}));
    assert_eq!(failure.kind(), FailureKind::Changed, "{}", failure.what);

    // Half of it fails: that half is taken back at once.
    let failure = guest.refuses(network(2, [10, 9, 0, 1], 60_000));
    assert!(failure.what.contains("route 0.0.0.0/0 by 10.9.0.1"), "{}", failure.what);
    assert!(as_it_was(&guest.inside(SHOW)), "{}", guest.inside(SHOW));

    // Somebody does, in time.
    let applied = guest.ask(network(4, [10, 8, 0, 1], 600_000));
    assert!(matches!(applied, Outcome::NetworkApplied(_)), "{applied:?}");
    let failure = guest.refuses(network(5, [10, 8, 0, 1], 1000));
    assert_eq!(failure.kind(), FailureKind::AlreadyExists);
    for _ in 0..2 {
        done(guest.ask(Kind::ConfirmNetwork(ConfirmNetwork {})));
    }
    let said = guest.inside(SHOW);
    for part in
        ["10.8.0.4/24", "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd04/64", "mtu 1400", "via 10.8.0.1"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("10.7.0."), "{said}");
    let resolv = fs::read_to_string(guest.etc("resolv.conf")).unwrap();
    assert_eq!(resolv, "search example.org\nnameserver 10.8.0.3\n");
}

/// Stands for the guest's own tool: notes each call and what it finds, and
/// refuses one of the setups.
const NETPLAN: &str = r#"#!/bin/sh
{ echo "$1"; cat /etc/netplan/90-innkeeper.yaml; } >> /etc/called 2>/dev/null
if grep -q 10.9.0.1 /etc/netplan/90-innkeeper.yaml 2>/dev/null; then
    echo "Error in network definition" >&2
    exit 1
fi
exit 0
"#;

#[test]
fn the_guests_own_tool_does_it_and_undoes_it() {
    if !can_enter() {
        return;
    }
    let mut guest = Guest::start(|dir| {
        users(dir);
        let tool = dir.join("sbin/netplan");
        fs::write(&tool, NETPLAN).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    });
    let file = guest.etc("netplan/90-innkeeper.yaml");

    let failure = guest.refuses(network(2, [10, 9, 0, 1], 60_000));
    let why =
        "apply the network setup by netplan: netplan ended with 1: Error in network definition";
    assert_eq!(failure.what, why);
    assert!(!file.exists());
    let calls = fs::read_to_string(guest.etc("called")).unwrap();
    // It refused to generate; then it was told to go back to what was.
    assert!(calls.starts_with("generate\n") && calls.ends_with("generate\napply\n"), "{calls}");
    assert!(as_it_was(&guest.inside(SHOW)), "{}", guest.inside(SHOW));

    let applied = guest.ask(network(4, [10, 8, 0, 1], 300));
    match applied {
        Outcome::NetworkApplied(applied) => assert_eq!(applied.by, "netplan"),
        other => panic!("{other:?}"),
    }
    guest.until_inside("test -e /etc/netplan/90-innkeeper.yaml || echo gone", |said| {
        said == "gone\n"
    });

    guest.ask(network(6, [10, 8, 0, 1], 600_000));
    done(guest.ask(Kind::ConfirmNetwork(ConfirmNetwork {})));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("- \"10.8.0.6/24\"\n"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

fn mount(serial: &str, target: &str, lasting: bool, format: bool) -> Kind {
    let mount = Mount { serial: serial.into(), target: target.into(), read_only: false };
    Kind::MountDisk(MountDisk { mount: Some(mount), kind: String::new(), lasting, format })
}

fn freeze(dead_man_ms: u32, target: &str) -> Kind {
    Kind::Freeze(Freeze { dead_man_ms, mounts: vec![target.into()] })
}

fn frozen(outcome: Outcome) -> (Vec<String>, bool) {
    match outcome {
        Outcome::Frozen(it) => (it.mounts, it.expired),
        other => panic!("{other:?}"),
    }
}

/// A container's root may lack what ext4 asks for: CAP_SYS_RESOURCE, number 24
/// (linux/capability.h).
fn can_resize() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

#[test]
fn disks_are_mounted_grown_frozen_and_let_go() {
    if !can_enter() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(files.path(), "disk", 64 * MIB) else { return };
    let mut guest = Guest::start(|dir| {
        users(dir);
        let name = disk.node.file_name().unwrap();
        fs::create_dir(dir.join("block").join(name)).unwrap();
        fs::write(dir.join("block").join(name).join("serial"), "inn-data\n").unwrap();
    });
    let target = files.path().join("data").to_str().unwrap().to_owned();

    // Nothing is on it, and nobody said to change that.
    let failure = guest.refuses(mount("inn-data", &target, false, false));
    assert!(failure.what.contains("holds nothing"), "{}", failure.what);
    done(guest.ask(mount("inn-data", &target, true, true)));
    let fstab = fs::read_to_string(guest.etc("fstab")).unwrap();
    assert!(fstab.starts_with("UUID=") && fstab.contains(&target), "{fstab}");
    // Again, and formatting again, changes nothing.
    guest.inside(&format!("echo kept > {target}/file"));
    done(guest.ask(mount("inn-data", &target, true, true)));
    assert_eq!(fs::read_to_string(guest.etc("fstab")).unwrap(), fstab);
    assert_eq!(guest.inside(&format!("cat {target}/file")), "kept\n");

    disk.grow(128 * MIB);
    let grow = || Kind::GrowDisk(GrowDisk { target: target.clone() });
    if can_resize() {
        match guest.ask(grow()) {
            Outcome::DiskGrown(it) => {
                assert_eq!(it.device, disk.node.to_str().unwrap());
                assert!(it.before < 64 * MIB && it.after > 100 * MIB, "{it:?}");
            }
            other => panic!("{other:?}"),
        }
        // There is no more to be had.
        match guest.ask(grow()) {
            Outcome::DiskGrown(it) => assert_eq!(it.before, it.after),
            other => panic!("{other:?}"),
        }
    } else {
        assert_eq!(guest.refuses(grow()).kind(), FailureKind::Denied);
    }

    assert_eq!(frozen(guest.ask(freeze(600_000, &target))), (vec![target.clone()], false));
    let failure = guest.refuses(freeze(1000, &target));
    assert_eq!(failure.kind(), FailureKind::AlreadyExists);
    assert!(failure.what.contains(&target), "{}", failure.what);
    let failure = guest.refuses(Kind::SetHostname(SetHostname { hostname: "x".into() }));
    assert_eq!(failure.kind(), FailureKind::Denied);
    match guest.ask(Kind::GetTelemetry(GetTelemetry {})) {
        Outcome::Telemetry(it) => assert!(it.frozen),
        other => panic!("{other:?}"),
    }
    assert_eq!(frozen(guest.ask(Kind::Thaw(Thaw {}))), (vec![target.clone()], false));
    assert_eq!(frozen(guest.ask(Kind::Thaw(Thaw {}))), (vec![], false));

    // The dead man: a write that waits for the thaw ends, though nobody thaws.
    frozen(guest.ask(freeze(500, &target)));
    assert_eq!(
        guest.inside(&format!("echo thawed > {target}/file; cat {target}/file")),
        "thawed\n"
    );
    assert_eq!(frozen(guest.ask(Kind::Thaw(Thaw {}))), (vec![target.clone()], true));

    for _ in 0..2 {
        done(guest.ask(Kind::Unmount(Unmount { target: target.clone() })));
    }
    assert_eq!(fs::read_to_string(guest.etc("fstab")).unwrap(), "");
    let failure = guest.refuses(Kind::Unmount(Unmount { target: "/proc".into() }));
    assert_eq!(failure.kind(), FailureKind::Denied);
}
