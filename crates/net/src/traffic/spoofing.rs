use inn_domain::network::{Declared, Listen, NetworkKind, Policy, Transport};

use super::*;
use crate::table::tests::{card, map, network};

fn peers() -> Declared {
    let mut network = network(1, NetworkKind::Nat);
    network.spec.peers = true;
    Declared {
        networks: vec![network],
        attachments: vec![card(1, 2, Policy::AllowAll), card(1, 3, Policy::AllowAll)],
        ..Declared::default()
    }
}

#[test]
fn nobody_speaks_in_anothers_name() {
    let Some(mut world) = World::new("nobody_speaks_in_anothers_name", peers()) else { return };
    serve(&world.outside, "[::]:80");
    assert_eq!(tcp(world.vm(0), "192.0.2.100:80"), "192.0.2.1");
    let vm = || world.vm(0);
    // Addresses that are nobody's, and a peer's.
    for (address, from) in [("10.77.1.9/24", "10.77.1.9"), ("10.77.1.3/24", "10.77.1.3")] {
        vm().ip(&format!("address add {address} dev eth0"));
        vm().ip(&format!("route replace 192.0.2.100 via 10.77.1.1 src {from}"));
        // It has to ask for the gateway again, in that name.
        vm().ip("neigh flush dev eth0");
        cut(vm(), "192.0.2.100:80");
        vm().ip(&format!("address del {address} dev eth0"));
    }
    for (address, from) in
        [("fd77:0:0:1::9/64", "fd77:0:0:1::9"), ("2001:db8:5::1/64", "2001:db8:5::1")]
    {
        vm().ip(&format!("address add {address} dev eth0 nodad"));
        vm().ip(&format!("route replace 2001:db8::100 via fd77:0:0:1::1 src {from}"));
        cut(vm(), "[2001:db8::100]:80");
        vm().ip("route del 2001:db8::100");
        vm().ip(&format!("address del {address} dev eth0"));
    }
    // What was asked for in another's name the host has not believed.
    let host = world.host.program(&["ip", "neigh", "show"], "");
    assert!(
        !host.contains("10.77.1.9 dev inn-b") || host.contains("10.77.1.9 dev inn-b FAILED"),
        "{host}"
    );
    let spoofed = world.tally(0).spoofed;
    for what in ["another's IPv4 address", "another's IPv6 address", "another's address by ARP"] {
        assert!(spoofed.contains_key(what), "{what}: {spoofed:?}");
    }
    // Another card's MAC.
    world.vm(0).ip("link set eth0 down");
    world.vm(0).ip("link set eth0 address 52:54:00:00:01:99");
    world.vm(0).ip("link set eth0 up");
    world.vm(0).ip("route replace default via 10.77.1.1");
    cut(world.vm(0), "192.0.2.100:80");
    let spoofed = world.tally(0).spoofed;
    assert!(spoofed.contains_key("another's MAC"), "{spoofed:?}");
}

/// Nor is there by a port map that is the loopback's own. Without our tables
/// there would be: the bridge lets its addresses in.
#[test]
fn there_is_no_way_to_the_hosts_loopback() {
    let name = "there_is_no_way_to_the_hosts_loopback";
    let mut open = peers();
    open.networks[0].spec.host = true;
    let listen = Listen::Address("127.0.0.1".parse().unwrap());
    open.maps.push(map(listen, Transport::Tcp, (8001, 8001), (&["10.77.1.3"], 8001)));
    let Some(world) = World::new(name, open) else { return };
    serve(&world.host, "127.0.0.1:8000");
    serve(world.vm(1), "[::]:8001");
    assert_eq!(tcp(&world.host, "127.0.0.1:8001"), "10.77.1.1", "for the host itself");
    let vm = world.vm(0);
    // Its own has these addresses no more, and takes them for others'.
    vm.ip("address del 127.0.0.1/8 dev lo");
    vm.sysctl("ipv4/conf/eth0/route_localnet", "1");
    vm.ip("route add 127.0.0.1 via 10.77.1.1");
    for to in ["127.0.0.1:8000", "127.0.0.1:8001"] {
        cut(vm, to);
    }
    world.host.program(&["nft", "flush", "ruleset"], "");
    assert_eq!(tcp(vm, "127.0.0.1:8000"), "10.77.1.2", "nothing else keeps it away");
}

/// A policy judges what the host routes, and a bridge hands such frames on by
/// itself.
#[test]
fn a_frame_for_all_carries_nothing_for_one() {
    let mut declared = peers();
    let rates = inn_domain::network::RateLimits::default();
    declared.attachments[1].policy = Policy::Rules { rules: vec![], rates };
    let name = "a_frame_for_all_carries_nothing_for_one";
    let Some(mut world) = World::new(name, declared) else { return };
    for switched_on in [true, false] {
        if !switched_on {
            world.without_br_netfilter();
        }
        let there = world.vm(1).run(|| UdpSocket::bind("[::]:9000").unwrap());
        let here = world.vm(0).run(|| UdpSocket::bind("[::]:0").unwrap());
        here.set_broadcast(true).unwrap();
        let mut buffer = [0; 8];
        for mac in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"] {
            for to in ["10.77.1.3", "fd77:0:0:1::3"] {
                let neighbour = format!("neigh replace {to} lladdr {mac} dev eth0 nud permanent");
                world.vm(0).ip(&neighbour);
                let to: IpAddr = to.parse().unwrap();
                let mapped = match to {
                    IpAddr::V4(to) => to.to_ipv6_mapped(),
                    IpAddr::V6(to) => to,
                };
                here.send_to(b"one", (mapped, 9000)).unwrap();
                there.set_read_timeout(Some(SILENCE)).unwrap();
                let got = there.recv(&mut buffer);
                assert!(got.is_err(), "{to} by {mac}: {got:?}");
            }
        }
        // What is for all is no policy's.
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        let all: std::net::Ipv4Addr = "10.77.1.255".parse().unwrap();
        here.send_to(b"all", (all.to_ipv6_mapped(), 9000)).unwrap();
        let count = there.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"all");
    }
    let spoofed = world.tally(0).spoofed;
    assert!(spoofed.contains_key("for one in a frame for all"), "{spoofed:?}");
}

/// What a VM sends and the table drops is told by its counters.
#[test]
fn nobody_answers_as_router_or_dhcp_server() {
    let name = "nobody_answers_as_router_or_dhcp_server";
    let Some(mut world) = World::new(name, peers()) else { return };
    world.vm(0).run(|| {
        let dhcp = UdpSocket::bind("0.0.0.0:67").unwrap();
        dhcp.set_broadcast(true).unwrap();
        dhcp.send_to(&[2; 240], "10.77.1.255:68").unwrap();
        let dhcp6 = UdpSocket::bind("[::]:547").unwrap();
        dhcp6.send_to(&[2; 40], "[fd77:0:0:1::3]:546").unwrap();
    });
    let icmp = |kind: u8| {
        world.vm(0).run(|| {
            use rustix::net::{AddressFamily, SocketType, ipproto, sendto, socket};
            let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
            // The kernel fills in the checksum (RFC 3542, 3.1).
            let mut message = [0; 24];
            message[0] = kind;
            message[8..]
                .copy_from_slice(&"fd77:0:0:1::3".parse::<std::net::Ipv6Addr>().unwrap().octets());
            let to: SocketAddr = "[fd77:0:0:1::1]:0".parse().unwrap();
            sendto(&raw, &message, rustix::net::SendFlags::empty(), &to).unwrap();
        });
    };
    for kind in [134, 136, 137] {
        icmp(kind);
    }
    // Its first packets wait for neighbours to be found.
    let until = Instant::now() + PATIENCE;
    let told = |spoofed: &BTreeMap<String, table::Counted>| spoofed.len() >= 5;
    while !told(&world.tally(0).spoofed) && Instant::now() < until {
        thread::yield_now();
    }
    let spoofed = world.tally(0).spoofed;
    for what in [
        "answers as a DHCP server",
        "answers as a DHCPv6 server",
        "answers as a router",
        "another's address by discovery",
        "redirects others",
    ] {
        assert!(spoofed.contains_key(what), "{what}: {spoofed:?}");
    }
}
