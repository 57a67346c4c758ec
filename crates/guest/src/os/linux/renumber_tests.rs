//! What is planned; that the kernel takes it, a machine's test shows.

use super::*;

const OLD: [u8; 6] = [2, 0, 0, 0, 0, 0xff];
const NEW: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn held(ip: &str, prefix: u8, automatic: bool) -> Held {
    Held::new(1, ip.parse().ok(), prefix, automatic)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn asked(addresses: &[(&str, u8)]) -> Asked {
    let addresses = addresses.iter().map(|(ip, prefix)| (ip.parse().unwrap(), *prefix));
    Asked { addresses: addresses.collect(), gateway: None, gateway6: None, dns: Vec::new() }
}

#[test]
fn an_address_is_made_of_a_mac() {
    assert_eq!(eui64([0x52, 0x54, 0, 0x12, 0x34, 0x56]).to_string(), "fe80::5054:ff:fe12:3456");
    assert_eq!(eui64(OLD).to_string(), "fe80::ff:fe00:ff");
}

fn moves() -> Moves {
    Moves { from: eui64(OLD), to: eui64(NEW) }
}

#[test]
fn what_is_right_stays_and_the_rest_goes() {
    let there = [
        held("10.9.0.100", 24, false),
        held("10.9.0.1", 24, false),
        held("fd00::64", 64, false),
        held("fe80::ff:fe00:ff", 64, true),
    ];
    let wanted = asked(&[("10.9.0.1", 24), ("fd00::1", 64)]);
    let planned = plan(&there, Some(&wanted), Some(moves()));
    assert_eq!(planned.remove, [&there[0], &there[2], &there[3]]);
    assert_eq!(planned.add, [(ip("fd00::1"), 64), (ip("fe80::ff:fe00:1"), 64)]);

    // Another prefix is another address.
    let planned = plan(&there[..2], Some(&asked(&[("10.9.0.1", 16)])), None);
    assert_eq!((planned.remove.len(), planned.add.len()), (2, 1));
    // Only another MAC: what people gave it stays.
    let planned = plan(&there, None, Some(moves()));
    assert_eq!(planned.remove, [&there[3]]);
    let nothing = plan(&there, None, None);
    assert!(nothing.remove.is_empty() && nothing.add.is_empty() && nothing.moved.is_empty());
}

#[test]
fn what_a_router_told_moves_with_the_mac() {
    let there = [
        held("10.0.2.15", 24, false),
        held("fe80::ff:fe00:ff", 64, true),
        held("fec0::ff:fe00:ff", 64, false),
    ];
    let wanted = asked(&[("10.0.2.15", 24)]);
    let planned = plan(&there, Some(&wanted), Some(moves()));
    assert_eq!(
        planned.moved,
        [held("fec0::ff:fe00:ff", 64, false).moved_to(ip("fec0::ff:fe00:1"))]
    );
    assert_eq!(planned.remove, [&there[1], &there[2]]);
    assert_eq!(planned.add, [(ip("fe80::ff:fe00:1"), 64)]);
    assert!(planned.as_asked, "its addresses are those that it had before");
    let other = plan(&there, Some(&asked(&[("10.0.2.16", 24)])), Some(moves()));
    assert!(!other.as_asked && other.remove.len() == 3);
    // A link whose MAC stays keeps it only where it was asked for.
    let stays = plan(&there, Some(&wanted), None);
    assert!(stays.moved.is_empty() && !stays.as_asked);
    assert_eq!(stays.remove, [&there[2]]);
}

#[test]
fn only_what_the_kernel_made_of_the_mac_is_made_again() {
    let local = held("fe80::ff:fe00:ff", 64, true);
    let other = held("fe80::1234:5678:9abc:def0", 64, true);
    let global = held("fd00::64", 64, false);
    let of = |held: &[Held]| own_link_local(held, &OLD, NEW);
    assert_eq!(of(&[]), Local::None);
    assert_eq!(of(std::slice::from_ref(&global)), Local::None);
    assert_eq!(of(&[global, local.clone()]), Local::Moves(moves()));
    assert_eq!(of(std::slice::from_ref(&other)), Local::Kernels);
    assert_eq!(of(&[local, other]), Local::Kernels);
}
