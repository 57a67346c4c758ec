use std::net::IpAddr;

use inn_domain::network::{
    Action, Attachment, Declared, DeclaredMap, DeclaredNetwork, Direction, Far, Listen, MapTarget,
    NetworkKind, NetworkSpec, Policy, PolicyRule, PortMap, PortRange, Protocol, RateLimits,
    Transport, Uplink,
};
use inn_units::{NetworkId, PortMapId, VmId};
use proptest::prelude::*;

use super::*;
use crate::nft::{Family, Table};

pub(crate) fn network(at: u8, kind: NetworkKind) -> DeclaredNetwork {
    DeclaredNetwork {
        id: NetworkId::from_bytes([0xA0, 0, 0, 0, at]),
        spec: NetworkSpec {
            name: format!("net{at}").parse().unwrap(),
            kind,
            ipv4: Some(format!("10.77.{at}.0/24").parse().unwrap()),
            ipv6: Some(format!("fd77:0:0:{at}::/64").parse().unwrap()),
            uplink: Uplink::DefaultRoute,
            mtu: None,
            peers: false,
            host: false,
            metadata: false,
        },
        uplink4: Some("up0".parse().unwrap()),
        uplink6: Some("up0".parse().unwrap()),
        mtu: 1500,
    }
}

pub(crate) fn card(network: u8, at: u8, policy: Policy) -> Attachment {
    let mut id = [0xB0; VmId::BYTES];
    id[0] = network;
    id[1] = at;
    Attachment {
        vm: VmId::from_bytes(id),
        name: format!("vm{network}-{at}").parse().unwrap(),
        network: NetworkId::from_bytes([0xA0, 0, 0, 0, network]),
        mac: [0x52, 0x54, 0, 0, network, at],
        ipv4: Some(format!("10.77.{network}.{at}").parse().unwrap()),
        ipv6: Some(format!("fd77:0:0:{network}::{at:x}").parse().unwrap()),
        policy,
    }
}

pub(crate) fn rule(direction: Direction, action: Action, far: Far) -> PolicyRule {
    PolicyRule { direction, action, protocol: None, ports: vec![], far }
}

pub(crate) fn map(
    listen: Listen,
    transport: Transport,
    ports: (u16, u16),
    to: (&[&str], u16),
) -> DeclaredMap {
    let targets: Vec<IpAddr> = to.0.iter().map(|ip| ip.parse().unwrap()).collect();
    let [high, low] = ports.0.to_be_bytes();
    DeclaredMap {
        map: PortMap {
            id: PortMapId::from_bytes([high, low, 0, 0, 0, 0, 0, 0]),
            transport,
            listen,
            ports: PortRange { first: ports.0, last: ports.1 },
            target: MapTarget::Address(targets[0]),
            target_port: to.1,
            masquerade: false,
        },
        targets,
    }
}

/// One of everything that there is.
pub(crate) fn everything() -> Declared {
    let mut peers = network(2, NetworkKind::Routed);
    peers.spec.peers = true;
    peers.spec.host = true;
    let mut isolated = network(3, NetworkKind::Isolated);
    isolated.spec.metadata = true;
    let with_ports = |mut rule: PolicyRule, protocol, ports: &[(u16, u16)]| {
        rule.protocol = Some(protocol);
        rule.ports =
            ports.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect();
        rule
    };
    let net = |net: &str| Far::Net(net.parse().unwrap());
    let rules = vec![
        rule(Direction::Egress, Action::Deny, net("10.0.0.0/8")),
        with_ports(
            rule(Direction::Egress, Action::Allow, net("192.0.2.0/23")),
            Protocol::Tcp,
            &[(443, 443), (8000, 8100)],
        ),
        rule(Direction::Egress, Action::Allow, net("2001:db8::/33")),
        rule(Direction::Egress, Action::Allow, Far::Domain("*.example.org".into())),
        with_ports(rule(Direction::Egress, Action::Allow, Far::Any), Protocol::Icmp, &[]),
        with_ports(rule(Direction::Ingress, Action::Allow, Far::Any), Protocol::Udp, &[(53, 53)]),
        rule(Direction::Ingress, Action::Deny, net("198.51.100.7/32")),
        rule(Direction::Egress, Action::Allow, net("0.0.0.0/0")),
    ];
    let rates = RateLimits {
        egress_bytes: Some(1_000_000),
        ingress_packets: Some(500),
        ..RateLimits::default()
    };
    let mut masqueraded =
        map(Listen::Any, Transport::Tcp, (8080, 8080), (&["10.77.1.2", "fd77:0:0:1::2"], 80));
    masqueraded.map.masquerade = true;
    let lan: IpAddr = "192.0.2.1".parse().unwrap();
    let lan6: IpAddr = "2001:db8::1".parse().unwrap();
    let eth = || Listen::Interface("up0".parse().unwrap());
    let mut without6 = card(3, 2, Policy::AllowAll);
    without6.ipv6 = None;
    Declared {
        networks: vec![network(1, NetworkKind::Nat), peers, isolated],
        attachments: vec![
            card(1, 2, Policy::AllowAll),
            card(1, 3, Policy::Rules { rules: rules.clone(), rates }),
            card(1, 4, Policy::None),
            card(2, 2, Policy::AllowAll),
            card(2, 3, Policy::Rules { rules, rates: RateLimits::default() }),
            without6,
        ],
        maps: vec![
            masqueraded,
            map(Listen::Any, Transport::Udp, (5000, 5000), (&["10.77.1.3", "fd77:0:0:1::3"], 53)),
            map(Listen::Any, Transport::Tcp, (9000, 9100), (&["10.77.1.2", "fd77:0:0:1::2"], 9000)),
            map(Listen::Any, Transport::Tcp, (9101, 9102), (&["10.77.1.3"], 9101)),
            map(Listen::Any, Transport::Tcp, (65_000, 65_535), (&["10.77.1.3"], 65_000)),
            map(Listen::Any, Transport::Tcp, (7000, 7002), (&["10.77.1.2"], 17_000)),
            map(Listen::Address(lan), Transport::Tcp, (80, 80), (&["10.77.1.2"], 80)),
            map(Listen::Address(lan), Transport::Udp, (300, 400), (&["10.77.1.2"], 300)),
            map(Listen::Address(lan6), Transport::Tcp, (80, 80), (&["fd77:0:0:1::2"], 80)),
            map(eth(), Transport::Tcp, (81, 81), (&["10.77.1.2", "fd77:0:0:1::2"], 80)),
            map(eth(), Transport::Udp, (500, 600), (&["10.77.1.2", "fd77:0:0:1::2"], 500)),
        ],
        ..Declared::default()
    }
}

#[test]
fn nothing_declared_is_no_table() {
    assert!(tables(&Declared::default()).tables.is_empty());
}

#[test]
fn a_map_is_one_element_whatever_else_there_is() {
    let mut declared = everything();
    let before = tables(&declared);
    declared.maps.push(map(Listen::Any, Transport::Tcp, (4444, 4444), (&["10.77.1.2"], 44)));
    let after = tables(&declared);
    let (before, after) = (&before.tables[&Family::Inet], &after.tables[&Family::Inet]);
    assert_eq!(before.chains, after.chains);
    let count = |table: &Table| table.sets.values().map(|set| set.elements.len()).sum::<usize>();
    assert_eq!(count(before) + 1, count(after));
}

#[test]
fn base_chains_do_not_grow_with_vms_and_maps() {
    let mut declared = everything();
    let before = tables(&declared);
    for at in 10..200 {
        declared.attachments.push(card(1, at, Policy::AllowAll));
        let port = 20_000 + u16::from(at);
        declared.maps.push(map(Listen::Any, Transport::Tcp, (port, port), (&["10.77.1.2"], 80)));
    }
    let after = tables(&declared);
    for family in [Family::Inet, Family::Bridge] {
        for (name, chain) in &before.tables[&family].chains {
            assert_eq!(Some(chain), after.tables[&family].chains.get(name), "{name}");
        }
    }
}

#[test]
fn ranges_with_an_offset_are_their_ports() {
    let tables = tables(&everything());
    let sets = &tables.tables[&Family::Inet].sets;
    let ports: Vec<_> =
        sets["any-tcp4"].elements.keys().map(|key| key.from[..2].to_vec()).collect();
    for port in [7000_u16, 7001, 7002, 8080] {
        assert!(ports.contains(&port.to_be_bytes().to_vec()), "{port}");
    }
    assert_eq!(sets["any-tcp4-ranges"].elements.len(), 3);
}

/// A change of what is declared: what is done, to whom, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn(u8, u8, u8);

pub(crate) fn turns(most: usize) -> impl Strategy<Value = Vec<Turn>> {
    let one = (0..12_u8, any::<u8>(), any::<u8>()).prop_map(|(what, a, b)| Turn(what, a, b));
    proptest::collection::vec(one, 0..=most)
}

pub(crate) fn turned(turns: &[Turn]) -> Declared {
    let mut declared = Declared::default();
    for turn in turns {
        turn.apply(&mut declared);
    }
    declared
}

impl Turn {
    pub(crate) fn apply(self, declared: &mut Declared) {
        let Self(what, a, b) = self;
        match what {
            0 | 1 => {
                let kinds = [NetworkKind::Nat, NetworkKind::Routed, NetworkKind::Isolated];
                let mut network = network(a % 3 + 1, kinds[usize::from(b) % 3]);
                network.spec.peers = b & 4 != 0;
                network.spec.host = b & 8 != 0;
                network.spec.ipv6 = network.spec.ipv6.filter(|_| b & 16 == 0);
                network.uplink4 = network.uplink4.filter(|_| b & 32 == 0);
                declared.networks.retain(|other| other.id != network.id);
                declared.networks.push(network);
            }
            2 => {
                let gone = network(a % 3 + 1, NetworkKind::Nat).id;
                declared.networks.retain(|other| other.id != gone);
            }
            3..=5 => {
                let policy = match b % 4 {
                    0 => Policy::None,
                    1 => Policy::AllowAll,
                    _ => {
                        let domain = Far::Domain(format!("{}.example.org", b % 3));
                        let rules = vec![
                            rule(Direction::Egress, Action::Allow, domain.clone()),
                            rule(Direction::Ingress, Action::Allow, domain),
                        ];
                        let rate = |bit: u8| (b & bit != 0).then_some(1000);
                        let rates = RateLimits {
                            egress_bytes: rate(8),
                            ingress_packets: rate(16),
                            ..RateLimits::default()
                        };
                        Policy::Rules { rules, rates }
                    }
                };
                let mut new = card(a % 3 + 1, a / 3 % 4 + 2, policy);
                // Now and then another's address.
                if b & 64 != 0 {
                    new.ipv4 = (b & 128 != 0).then(|| "10.77.1.2".parse().unwrap());
                }
                let place = declared.attachments.iter().position(|other| other.vm == new.vm);
                match place {
                    Some(place) => declared.attachments[place] = new,
                    None => declared.attachments.push(new),
                }
            }
            6 if !declared.attachments.is_empty() => {
                let at = usize::from(a) % declared.attachments.len();
                declared.attachments.remove(at);
            }
            6 => {}
            7 if !declared.maps.is_empty() => {
                let at = usize::from(a) % declared.maps.len();
                declared.maps.remove(at);
            }
            7 => {}
            // Everything by another name.
            8 if a == 0 => declared.instance.0 = (b > 127).then(|| "two".to_owned()),
            _ => {
                let listen = match b % 3 {
                    0 => Listen::Any,
                    1 => Listen::Address("192.0.2.1".parse().unwrap()),
                    _ => Listen::Interface("up0".parse().unwrap()),
                };
                let transport = if b & 4 == 0 { Transport::Tcp } else { Transport::Udp };
                let first = 1000 + u16::from(a % 8) * 10;
                let last = first + if b & 8 == 0 { 0 } else { 3 };
                let six = ["10.77.1.2", "fd77:0:0:1::2"];
                let targets = if b & 16 == 0 { &six[..1] } else { &six[..] };
                let to = if b & 32 == 0 { first } else { 80 };
                let mut new = map(listen, transport, (first, last), (targets, to));
                new.map.masquerade = b & 64 != 0;
                // Now and then beside one of the same port.
                if b & 128 == 0 {
                    declared.maps.retain(|other| other.map.ports.first != first);
                }
                declared.maps.push(new);
            }
        }
    }
}
