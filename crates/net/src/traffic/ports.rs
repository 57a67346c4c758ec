use std::net::IpAddr;

use inn_domain::network::{Declared, DeclaredMap, Listen, NetworkKind, Policy, Transport};

use super::*;
use crate::table::tests::{card, map, network};

fn both(ports: (u16, u16), listen: &Listen, to: (&[&str], u16)) -> [DeclaredMap; 2] {
    [Transport::Tcp, Transport::Udp].map(|transport| map(listen.clone(), transport, ports, to))
}

fn mapped(maps: Vec<DeclaredMap>) -> Declared {
    Declared {
        networks: vec![network(1, NetworkKind::Nat)],
        attachments: vec![card(1, 2, Policy::AllowAll), card(1, 3, Policy::AllowAll)],
        maps,
        ..Declared::default()
    }
}

const VM: &[&str] = &["10.77.1.2", "fd77:0:0:1::2"];

#[test]
fn ports_of_the_host_lead_to_a_vm() {
    let lan: IpAddr = "192.0.2.1".parse().unwrap();
    let lan6: IpAddr = "2001:db8::1".parse().unwrap();
    let mut maps = Vec::new();
    maps.extend(both((8080, 8080), &Listen::Any, (VM, 80)));
    maps.extend(both((80, 90), &Listen::Any, (VM, 80)));
    maps.extend(both((7080, 7090), &Listen::Any, (VM, 80)));
    maps.extend(both((8081, 8081), &Listen::Address(lan), (VM, 80)));
    maps.extend(both((8081, 8081), &Listen::Address(lan6), (VM, 80)));
    maps.extend(both((8082, 8082), &Listen::Interface("up0".parse().unwrap()), (VM, 80)));
    maps.extend(both((8083, 8083), &Listen::Address("192.0.2.77".parse().unwrap()), (VM, 80)));
    maps.extend(both((8084, 8084), &Listen::Interface("other0".parse().unwrap()), (VM, 80)));
    for mut map in both((8090, 8090), &Listen::Any, (VM, 88)) {
        map.map.masquerade = true;
        maps.push(map);
    }
    let Some(world) = World::new("ports_of_the_host_lead_to_a_vm", mapped(maps)) else { return };
    for port in [80, 85, 88] {
        serve(world.vm(0), &format!("[::]:{port}"));
    }
    for port in [8080, 80, 85, 7080, 7085, 8081, 8082] {
        // The VM sees who it is that asks.
        for ask in [tcp, udp] {
            assert_eq!(ask(&world.outside, &format!("192.0.2.1:{port}")), "192.0.2.100", "{port}");
            let six = format!("[2001:db8::1]:{port}");
            assert_eq!(ask(&world.outside, &six), "2001:db8::100", "{port}");
        }
    }
    for ask in [tcp, udp] {
        assert_eq!(ask(&world.outside, "192.0.2.1:8090"), "10.77.1.1");
        assert_eq!(ask(&world.outside, "[2001:db8::1]:8090"), "fd77:0:0:1::1");
    }
    for port in [8083, 8084, 8085] {
        cut(&world.outside, &format!("192.0.2.1:{port}"));
    }
    // The host itself; what is bound to an interface is not for it.
    for ask in [tcp, udp] {
        assert_eq!(ask(&world.host, "192.0.2.1:8080"), "192.0.2.1");
        assert_eq!(ask(&world.host, "[2001:db8::1]:8080"), "2001:db8::1");
        assert_eq!(ask(&world.host, "127.0.0.1:8080"), "10.77.1.1");
        assert_eq!(ask(&world.host, "127.0.0.1:7085"), "10.77.1.1");
        assert_eq!(ask(&world.host, "192.0.2.1:8081"), "192.0.2.1");
    }
    cut(&world.host, "192.0.2.1:8082");
    // A VM that goes by the host's address, to itself and to another. Where
    // br_netfilter sees to frames, it hands these from port to port itself,
    // which isolated ports refuse.
    world.without_br_netfilter();
    for vm in [0, 1] {
        for ask in [tcp, udp] {
            assert_eq!(ask(world.vm(vm), "192.0.2.1:8080"), "10.77.1.1");
            assert_eq!(ask(world.vm(vm), "10.77.1.1:8080"), "10.77.1.1");
            assert_eq!(ask(world.vm(vm), "[2001:db8::1]:8080"), "fd77:0:0:1::1");
        }
    }
}

#[test]
fn a_map_follows_its_vm() {
    let maps = both((8080, 8080), &Listen::Any, (VM, 80)).to_vec();
    let Some(mut world) = World::new("a_map_follows_its_vm", mapped(maps)) else { return };
    serve(world.vm(0), "[::]:80");
    serve(world.vm(1), "[::]:80");
    assert_eq!(tcp(&world.outside, "192.0.2.1:8080"), "192.0.2.100");
    // As if the VM had the other's address now, and then no address.
    world.vm(0).ip("link set eth0 down");
    for map in &mut world.declared.maps {
        map.targets = vec!["10.77.1.3".parse().unwrap(), "fd77:0:0:1::3".parse().unwrap()];
    }
    world.apply();
    for ask in [tcp, udp] {
        assert_eq!(ask(&world.outside, "192.0.2.1:8080"), "192.0.2.100");
        assert_eq!(ask(&world.outside, "[2001:db8::1]:8080"), "2001:db8::100");
    }
    for map in &mut world.declared.maps {
        map.targets.clear();
    }
    world.apply();
    cut(&world.outside, "192.0.2.1:8080");
}

#[test]
fn maps_are_back_after_a_flush() {
    let maps = both((8080, 8080), &Listen::Any, (VM, 80)).to_vec();
    let Some(mut world) = World::new("maps_are_back_after_a_flush", mapped(maps)) else { return };
    serve(world.vm(0), "[::]:80");
    assert_eq!(tcp(&world.outside, "192.0.2.1:8080"), "192.0.2.100");
    world.host.nft("flush ruleset");
    cut(&world.outside, "192.0.2.1:8080");
    world.apply();
    assert_eq!(tcp(&world.outside, "192.0.2.1:8080"), "192.0.2.100");
}

#[test]
fn a_known_connection_is_forgotten_with_its_address() {
    let maps = both((8080, 8080), &Listen::Any, (VM, 80)).to_vec();
    let name = "a_known_connection_is_forgotten_with_its_address";
    let Some(mut world) = World::new(name, mapped(maps)) else { return };
    serve(world.vm(0), "[::]:80");
    serve(world.vm(1), "[::]:80");
    let socket = world.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.connect("192.0.2.1:8080").unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let ask = || {
        socket.send(b"?").unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    };
    let until = Instant::now() + PATIENCE;
    while !ask() {
        assert!(Instant::now() < until, "no answer");
    }
    // The VM has another address now; what is known still leads to the old.
    world.vm(0).ip("link set eth0 down");
    for map in &mut world.declared.maps {
        map.targets = vec!["10.77.1.3".parse().unwrap()];
    }
    world.apply();
    assert!(!ask());
    let old = ["10.77.1.2".parse().unwrap()].into();
    let gone = world.host.run(|| crate::connections::forget(&old).unwrap());
    assert!(gone >= 1, "{gone}");
    let until = Instant::now() + PATIENCE;
    while !ask() {
        assert!(Instant::now() < until, "no answer from the new address");
    }
}
