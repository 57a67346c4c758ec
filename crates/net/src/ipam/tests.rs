use std::time::Duration;

use inn_units::NetworkId;
use proptest::prelude::*;

use super::*;

fn vm(number: u8) -> VmId {
    VmId::from_bytes([number, 0, 0, 0, 1])
}

fn moment(at: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(at)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn held(number: u8, address: &str) -> Lease<Ipv4Addr> {
    Lease { vm: vm(number), address: address.parse().unwrap(), released: None }
}

fn released(number: u8, address: &str, at: u64) -> Lease<Ipv4Addr> {
    Lease { released: Some(moment(at)), ..held(number, address) }
}

#[test]
fn the_first_vm_gets_the_first_address_after_the_gateway() {
    let first = allocate4(net("10.213.0.0/24"), &[], vm(1), None);
    assert_eq!(first.unwrap().to_string(), "10.213.0.2");
}

#[test]
fn an_address_is_given_again_late_and_to_its_last_holder_first() {
    let small = net("10.0.0.0/29");
    let mut leases = vec![held(1, "10.0.0.2"), released(2, "10.0.0.3", 9), held(3, "10.0.0.4")];
    let next = |leases: &[_], number| allocate4(small, leases, vm(number), None);
    assert_eq!(next(&leases, 2).unwrap().to_string(), "10.0.0.3", "it was its own");
    assert_eq!(next(&leases, 4).unwrap().to_string(), "10.0.0.5", "nobody had that");
    leases.extend([released(4, "10.0.0.5", 5), held(5, "10.0.0.6")]);
    assert_eq!(next(&leases, 6).unwrap().to_string(), "10.0.0.5", "free for longer than .3");
    leases.extend([held(6, "10.0.0.5"), held(7, "10.0.0.3")]);
    let full = next(&leases, 8).unwrap_err();
    assert_eq!(
        full.to_string(),
        "all 5 addresses for VMs in 10.0.0.0/29 are in use: delete a VM, or make a larger network"
    );
}

#[test]
fn another_address_is_not_the_one_that_it_has() {
    let small = net("10.0.0.0/29");
    let mut leases = vec![held(1, "10.0.0.2"), released(1, "10.0.0.3", 9)];
    assert_eq!(another4(small, &leases).unwrap().to_string(), "10.0.0.4", "nobody had that");
    leases.extend([held(2, "10.0.0.4"), released(3, "10.0.0.5", 5), held(4, "10.0.0.6")]);
    assert_eq!(another4(small, &leases).unwrap().to_string(), "10.0.0.5", "free the longest");
    leases.extend([held(5, "10.0.0.5"), held(6, "10.0.0.3")]);
    another4(small, &leases).unwrap_err();
}

#[test]
fn a_gap_is_filled_once_the_end_is_reached() {
    let leases = [held(1, "10.0.0.2"), held(2, "10.0.0.6")];
    let next = allocate4(net("10.0.0.0/29"), &leases, vm(3), None);
    assert_eq!(next.unwrap().to_string(), "10.0.0.3");
}

#[test]
fn wishes_are_granted_or_refused_by_name() {
    let ask = |wish: &str| {
        let leases = [held(1, "10.0.0.9"), released(2, "10.0.0.8", 1)];
        let wish = Some(wish.parse().unwrap());
        allocate4(net("10.0.0.0/28"), &leases, vm(3), wish).map_err(|denied| denied.to_string())
    };
    assert_eq!(ask("10.0.0.5").unwrap().to_string(), "10.0.0.5");
    assert_eq!(ask("10.0.0.8").unwrap().to_string(), "10.0.0.8");
    for (wish, part) in [
        ("10.0.0.0", "the own address"),
        ("10.0.0.1", "the gateway"),
        ("10.0.0.15", "the broadcast address"),
        ("10.0.1.5", "is not in 10.0.0.0/28"),
        ("10.0.0.9", &format!("is the VM {}'s", vm(1))),
    ] {
        let denied = ask(wish).unwrap_err();
        assert!(denied.contains(part), "{wish}: {denied}");
    }
}

#[test]
fn a_network_too_small_for_a_vm_is_full() {
    for tiny in ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32"] {
        let room = allocate4(net(tiny), &[], vm(1), None);
        match tiny {
            "10.0.0.0/30" => assert_eq!(room.unwrap().to_string(), "10.0.0.2"),
            _ => assert!(matches!(room, Err(AddressDeniedReason::Full { .. })), "{tiny}: {room:?}"),
        }
    }
}

#[test]
fn an_ipv6_address_is_made_of_the_mac() {
    let net: Ipv6Net = "fd00:1:2:3::/64".parse().unwrap();
    let mac = [0x02, 0xab, 0xcd, 0xef, 0x01, 0x23];
    let address = allocate6(net, &[], vm(1), mac, None).unwrap();
    assert_eq!(address.to_string(), "fd00:1:2:3:ab:cdff:feef:123");
    assert_eq!(link_local(mac).to_string(), "fe80::ab:cdff:feef:123");
    // Somebody's wish is there.
    let taken = [Lease { vm: vm(2), address, released: None }];
    let beside = allocate6(net, &taken, vm(1), mac, None).unwrap();
    assert_eq!(beside.to_string(), "fd00:1:2:3:ab:cdff:feef:124");
    let gateway = Some("fd00:1:2:3::1".parse().unwrap());
    let denied = allocate6(net, &taken, vm(1), mac, gateway).unwrap_err();
    assert!(denied.to_string().contains("the gateway"), "{denied}");
}

#[test]
fn a_subnet_keeps_clear_of_the_hosts_routes() {
    let choose = |routed: &[&str]| {
        let routed: Vec<IpNet> = routed.iter().map(|net| net.parse().unwrap()).collect();
        choose_subnet4(&routed).map(|net| net.to_string())
    };
    assert_eq!(choose(&[]).unwrap(), "10.213.0.0/24");
    assert_eq!(choose(&["0.0.0.0/0", "10.213.0.0/24", "10.213.1.9/32"]).unwrap(), "10.213.2.0/24");
    assert_eq!(choose(&["10.0.0.0/8"]).unwrap(), "172.30.0.0/24");
    assert_eq!(choose(&["10.0.0.0/8", "172.16.0.0/12"]).unwrap(), "100.126.0.0/24");
    let all = choose(&["10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10"]);
    assert_eq!(all.unwrap_err(), NoSubnet);
    let id = NetworkId::from_bytes([0xbe, 0xef, 0, 0, 0]);
    let six = choose_subnet6([1, 2, 3, 4, 5], id, &["::/0".parse().unwrap()]);
    assert_eq!(six.to_string(), "fd01:203:405:beef::/64");
    let next = choose_subnet6([1, 2, 3, 4, 5], id, &[six.into()]);
    assert_eq!(next.to_string(), "fd01:203:405:bef0::/64");
}

/// What happens to a network's leases.
#[derive(Debug, Clone)]
enum Event {
    Take(u8, Option<u8>),
    Release(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..24_u8, prop::option::weighted(0.2, 0..40_u8)).prop_map(|(v, w)| Event::Take(v, w)),
        2 => (0..24_u8).prop_map(Event::Release),
    ]
}

proptest! {
    #[test]
    fn no_two_vms_ever_hold_one_address(events in prop::collection::vec(event(), 1..120)) {
        let net = net("192.168.7.0/28");
        let mut leases: Vec<Lease<Ipv4Addr>> = Vec::new();
        for (at, event) in (0_u64..).zip(events) {
            match event {
                Event::Release(number) => {
                    for lease in leases.iter_mut().filter(|l| l.vm == vm(number)) {
                        lease.released.get_or_insert(moment(at));
                    }
                }
                Event::Take(number, wish) => {
                    let wish = wish.map(|host| Ipv4Addr::new(192, 168, 7, host));
                    let held = leases.iter().filter(|l| l.released.is_none()).count();
                    let given = allocate4(net, &leases, vm(number), wish);
                    match given {
                        Ok(address) => {
                            prop_assert!(net.contains(&address));
                            prop_assert!(address != net.network() && address != net.broadcast());
                            prop_assert!(address != Ipv4Addr::new(192, 168, 7, 1));
                            let taken = leases
                                .iter()
                                .any(|l| l.address == address && l.vm != vm(number) && l.released.is_none());
                            prop_assert!(!taken, "{address}");
                            let had = leases.iter().find(|l| l.vm == vm(number) && l.released.is_none());
                            if let (Some(had), None) = (had, wish) {
                                prop_assert_eq!(had.address, address, "a lease lasts");
                            }
                            leases.retain(|l| l.vm != vm(number) && l.address != address);
                            leases.push(Lease { vm: vm(number), address, released: None });
                        }
                        Err(AddressDeniedReason::Full { size, .. }) => {
                            prop_assert_eq!(held, usize::try_from(size).unwrap());
                        }
                        Err(_) => prop_assert!(wish.is_some()),
                    }
                }
            }
        }
    }
}
