//! What is planned; that the kernel takes it, a machine's test shows.

use super::*;

const OLD: [u8; 6] = [2, 0, 0, 0, 0, 0xff];
const NEW: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn held(ip: &str, prefix: u8, automatic: bool) -> Held {
    Held::new(1, ip.parse().ok(), prefix, automatic)
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

#[test]
fn what_is_right_stays_and_the_rest_goes_first() {
    let there = [
        held("10.9.0.100", 24, false),
        held("10.9.0.1", 24, false),
        held("fd00::64", 64, false),
        held("fe80::ff:fe00:ff", 64, true),
    ];
    let wanted = asked(&[("10.9.0.1", 24), ("fd00::1", 64)]);
    let planned = plan(&there, Some(&wanted), Some(eui64(NEW)));
    assert_eq!(planned.remove, [&there[0], &there[2], &there[3]]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(planned.add, [(ip("fd00::1"), 64), (ip("fe80::ff:fe00:1"), 64)]);

    // Another prefix is another address.
    let planned = plan(&there[..2], Some(&asked(&[("10.9.0.1", 16)])), None);
    assert_eq!((planned.remove.len(), planned.add.len()), (2, 1));
    // Only another MAC: what people gave it stays.
    let planned = plan(&there, None, Some(eui64(NEW)));
    assert_eq!(planned.remove, [&there[3]]);
    assert_eq!(plan(&there, None, None), Plan { remove: Vec::new(), add: Vec::new() });
}

#[test]
fn only_what_the_kernel_made_of_the_mac_is_made_again() {
    let local = held("fe80::ff:fe00:ff", 64, true);
    let other = held("fe80::1234:5678:9abc:def0", 64, true);
    let global = held("fd00::64", 64, false);
    let of = |held: &[Held]| own_link_local(held, &OLD, NEW);
    assert_eq!(of(&[]), Local::None);
    assert_eq!(of(std::slice::from_ref(&global)), Local::None);
    assert_eq!(of(&[global, local.clone()]), Local::Replace(eui64(NEW)));
    assert_eq!(of(std::slice::from_ref(&other)), Local::Kernels);
    assert_eq!(of(&[local, other]), Local::Kernels);
}
