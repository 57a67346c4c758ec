use proptest::prelude::*;

use super::*;

fn map(n: u8, listen: &str, ports: &str) -> PortMap {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    PortMap {
        id: PortMapId::from_bytes([n; 8]),
        transport: Transport::Tcp,
        listen: match listen {
            "" => Listen::Any,
            text => match text.parse() {
                Ok(address) => Listen::Address(address),
                Err(_) => Listen::Interface(text.parse().unwrap()),
            },
        },
        ports: PortRange { first: first.parse().unwrap(), last: last.parse().unwrap() },
        target: MapTarget::Vm(VmId::from_bytes([n; 5])),
        target_port: 80,
        masquerade: false,
    }
}

fn socket(address: &str, port: u16, both: bool) -> ListeningSocket {
    ListeningSocket {
        transport: Transport::Tcp,
        address: address.parse().unwrap(),
        both,
        port,
        owner: "nginx (pid 7)".into(),
    }
}

#[test]
fn who_has_a_port_is_told() {
    let host = HostPorts::default();
    let there = [map(1, "", "8080"), map(2, "192.0.2.1", "9000-9009"), map(3, "eth0", "7000")];
    for (listen, ports, held_by) in [
        ("", "8080", Some(1)),
        ("", "8079-8081", Some(1)),
        ("192.0.2.9", "8080", Some(1)),
        ("2001:db8::1", "8080", Some(1)),
        ("eth1", "8080", Some(1)),
        ("", "8081", None),
        ("192.0.2.1", "9009", Some(2)),
        ("192.0.2.2", "9009", None),
        ("", "9000", Some(2)),
        ("eth0", "9004", Some(2)),
        ("192.0.2.1", "9010", None),
        ("eth0", "7000", Some(3)),
        ("eth1", "7000", None),
        ("192.0.2.1", "7000", Some(3)),
    ] {
        let verdict = admit_ports(&[map(9, listen, ports)], &there, &host);
        let by = held_by.map(|n: u8| PortMapId::from_bytes([n; 8]));
        match (verdict, by) {
            (Ok(()), None) => {}
            (Err(PortDeniedReason::Mapped { by, .. }), Some(wanted)) => assert_eq!(by, wanted),
            (verdict, _) => panic!("{listen} {ports}: {verdict:?}"),
        }
    }
    let denied = admit_ports(&[map(9, "", "8080")], &there, &host).unwrap_err();
    let sentence = denied.sentence(|_| Some("web".into()));
    assert!(sentence.starts_with("port 8080/tcp is mapped to the VM web already"), "{sentence}");
    let mut udp = map(9, "", "8080");
    udp.transport = Transport::Udp;
    assert_eq!(admit_ports(&[udp], &there, &host), Ok(()));
    let twice = [map(8, "", "5000-5005"), map(9, "", "5005")];
    let denied = admit_ports(&twice, &[], &host).unwrap_err();
    assert!(denied.to_string().contains("port 5005/tcp is asked for twice"), "{denied}");
}

#[test]
fn the_hosts_own_ports_stay_its_own() {
    let host = HostPorts {
        reserved: vec![
            ReservedPort {
                transport: Some(Transport::Tcp),
                ports: PortRange::single(5100),
                whose: "the agent's API",
            },
            ReservedPort {
                transport: None,
                ports: PortRange { first: 22, last: 23 },
                whose: "ports.reserved in the configuration",
            },
        ],
        listening: vec![
            socket("0.0.0.0", 80, false),
            socket("127.0.0.1", 81, false),
            socket("::", 82, true),
            socket("::", 83, false),
        ],
    };
    for (listen, ports, words) in [
        ("", "5100", "the agent's API"),
        ("", "5000-6000", "the agent's API"),
        ("", "1-22", "ports.reserved"),
        ("", "80", "nginx (pid 7) listens on port 80/tcp at 0.0.0.0"),
        ("192.0.2.1", "80", "nginx"),
        ("127.0.0.1", "81", "nginx"),
        ("", "81", "nginx"),
        ("192.0.2.1", "82", "nginx"),
        ("eth0", "82", "nginx"),
    ] {
        let denied = admit_ports(&[map(1, listen, ports)], &[], &host).unwrap_err();
        assert!(denied.to_string().contains(words), "{listen} {ports}: {denied}");
    }
    for (listen, ports) in
        [("192.0.2.1", "81"), ("eth0", "81"), ("2001:db8::1", "80"), ("192.0.2.1", "83")]
    {
        assert_eq!(admit_ports(&[map(1, listen, ports)], &[], &host), Ok(()), "{listen} {ports}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let to = |listen: &str, target: &str| PortMap {
        target: MapTarget::Address(target.parse().unwrap()),
        ..map(1, listen, "80")
    };
    for (map, words) in [
        (map(1, "", "0"), "port 0"),
        (map(1, "", "9-8"), "upwards"),
        (PortMap { target_port: 65_535, ..map(1, "", "1-2") }, "beyond 65535"),
        (map(1, "0.0.0.0", "80"), "leave it out"),
        (map(1, "224.0.0.1", "80"), "many machines"),
        (map(1, "::1", "80"), "127.0.0.1 can be mapped"),
        (to("", "127.0.0.1"), "this host itself"),
        (to("", "::"), "it is none"),
        (to("192.0.2.1", "2001:db8::1"), "two families"),
    ] {
        let denied = admit_ports(&[map], &[], &HostPorts::default()).unwrap_err();
        assert!(denied.to_string().contains(words), "{denied}");
    }
    let all = [map(1, "192.0.2.1", "1-65535"), map(2, "192.0.2.2", "1-65535")];
    let ports = |n: &str| PortMap { target_port: 1, ..map(3, n, "1-65535") };
    let all: Vec<_> = all.into_iter().map(|map| PortMap { target_port: 1, ..map }).collect();
    assert_eq!(admit_ports(&all, &[], &HostPorts::default()), Ok(()));
    let denied = admit_ports(&[ports("192.0.2.3")], &all, &HostPorts::default()).unwrap_err();
    assert!(matches!(denied, PortDeniedReason::TooMany { .. }), "{denied}");
}

fn maps(most: usize) -> impl Strategy<Value = Vec<PortMap>> {
    let one =
        (0..4_usize, 1..60_u16, 0..4_u16, any::<bool>()).prop_map(|(place, first, more, udp)| {
            let listen = ["", "192.0.2.1", "192.0.2.2", "eth0"][place];
            let mut map = map(1, listen, "1");
            map.ports = PortRange { first, last: first + more };
            map.transport = if udp { Transport::Udp } else { Transport::Tcp };
            map
        });
    proptest::collection::vec(one, 0..most)
}

proptest! {
    /// The sweep finds what comparing each with each finds.
    #[test]
    fn a_clash_is_found_wherever_it_is(there in maps(6), new in maps(6)) {
        let slow = new.iter().enumerate().any(|(i, a)| {
            there.iter().chain(&new[..i]).any(|b| clash(a, b))
        });
        // Those that are there were admitted.
        let sound = there.iter().enumerate().all(|(i, a)| !there[..i].iter().any(|b| clash(a, b)));
        prop_assume!(sound);
        prop_assert_eq!(first_clash(&new, &there).is_some(), slow);
    }
}
