//! The host's table: what goes through it, to it and out of it.

use std::net::IpAddr;

use inn_domain::network::{Attachment, DeclaredNetwork, NetworkKind, Policy};
use ipnet::IpNet;

use super::edit::Edit;
use super::policy::{accept, deny};
use super::{filter, names, nat, policy, ports};
use crate::nft::{
    BROADCAST, CT_ESTABLISHED, CT_RELATED, Chain, ElementKey, Field, Fields, HookPoint, ICMP,
    ICMP6, IpFamily, MULTICAST, Part, Rule, STATUS_DNAT, Set, TCP, Table, Test, Type, UDP, Value,
    Verdict,
};

/// linux/netfilter_ipv4.h: NF_IP_PRI_NAT_DST, _FILTER, _NAT_SRC.
pub(super) const NAT_TO: i32 = -100;
const FILTER: i32 = 0;
const NAT_FROM: i32 = 100;

const DNS: u16 = 53;
const DHCP: u16 = 67;
const DHCP6: u16 = 547;
const ECHO: u8 = 8;
const ECHO6: u8 = 128;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

pub(super) fn lasting_sets() -> [(&'static str, Set); 9] {
    let (four, six) = (Type::Ipv4, Type::Ipv6);
    [
        ("bridges", interfaces()),
        ("from4", chains_by_address(four)),
        ("to4", chains_by_address(four)),
        ("gateways4", addresses(four)),
        ("from6", chains_by_address(six)),
        ("to6", chains_by_address(six)),
        ("gateways6", addresses(six)),
        ("open", interfaces()),
        ("nat-to", Set::verdicts(&[Type::IfName])),
    ]
}

fn interfaces() -> Set {
    Set::of(&[Type::IfName])
}

fn addresses(ip: Type) -> Set {
    Set::of(&[Type::IfName, ip])
}

fn chains_by_address(ip: Type) -> Set {
    Set::verdicts(&[Type::IfName, ip])
}

pub(super) fn network(network: &DeclaredNetwork, edit: &mut Edit) {
    let bridge = network.bridge();
    let key = || Fields::default().name(bridge.as_str());
    edit.element("bridges", interfaces, key().bytes(), Value::Nothing);
    if network.spec.host {
        edit.element("open", interfaces, key().bytes(), Value::Nothing);
    }
    if let Some(ip) = network.gateway4() {
        let key = key().ip(ip.into()).bytes();
        edit.element("gateways4", || addresses(Type::Ipv4), key, Value::Nothing);
    }
    if let Some(ip) = network.gateway6() {
        let key = key().ip(ip.into()).bytes();
        edit.element("gateways6", || addresses(Type::Ipv6), key, Value::Nothing);
    }
    edit.chain(&names::leave(network), policy::leaving(network));
    let (net4, net6) = (network.spec.ipv4.map(IpNet::V4), network.spec.ipv6.map(IpNet::V6));
    let ways = [
        (IpFamily::V4, Type::Ipv4, net4, &network.uplink4),
        (IpFamily::V6, Type::Ipv6, net6, &network.uplink6),
    ];
    for (family, kind, net, uplink) in ways {
        let (Some(net), Some(uplink)) = (net, uplink) else { continue };
        if network.spec.kind == NetworkKind::Nat {
            let chain = format!("{}-{}", names::nat_from(network), names::family(family));
            let way = Part::interface(Field::OifName, uplink.as_str());
            edit.chain(&chain, vec![Rule::new("out", vec![way, Part::Masquerade])]);
            let bytes = |ip| Fields::default().ip(ip).bytes();
            let key = ElementKey::range(bytes(net.network()), bytes(net.broadcast()));
            let nets = || Set::verdicts(&[kind]).with_intervals();
            edit.range(&nat_from(family), nets, key, Value::Goto(chain));
        }
    }
    let to = Value::Goto(names::nat_to(network));
    edit.element("nat-to", || Set::verdicts(&[Type::IfName]), key().bytes(), to);
    edit.chain(&names::nat_to(network), hairpins(network));
}

fn nat_from(family: IpFamily) -> String {
    format!("nat-from{}", names::family(family))
}

pub(super) fn vm(card: &Attachment, network: &DeclaredNetwork, edit: &mut Edit) {
    let bridge = network.bridge();
    let (ipv4, ipv6) = (card.ipv4.map(IpAddr::V4), card.ipv6.map(IpAddr::V6));
    let rated = rates(card, edit);
    for (f, kind, ip) in [("4", Type::Ipv4, ipv4), ("6", Type::Ipv6, ipv6)] {
        let Some(ip) = ip else { continue };
        let key = || Fields::default().name(bridge.as_str()).ip(ip).bytes();
        let chains = || chains_by_address(kind);
        edit.element(&format!("from{f}"), chains, key(), Value::Goto(names::out_of(card)));
        edit.element(&format!("to{f}"), chains, key(), Value::Goto(names::into(card)));
        if card.policy == Policy::None {
            edit.element(&format!("mute{f}"), || addresses(kind), key(), Value::Nothing);
        }
        for (direction, chain) in &rated {
            let set = format!("rated-{direction}{f}");
            edit.element(&set, chains, key(), Value::Goto(chain.clone()));
        }
    }
    policy::chains(card, network, edit);
}

/// The chains of its rates, by their directions.
fn rates(card: &Attachment, edit: &mut Edit) -> Vec<(&'static str, String)> {
    let rates = policy::rates(card);
    let out = policy::above(rates.egress_bytes, rates.egress_packets);
    let into = policy::above(rates.ingress_bytes, rates.ingress_packets);
    let both = [("out", names::rates_out_of(card), out), ("in", names::rates_into(card), into)];
    let limited = both.into_iter().filter(|(_, _, rules)| !rules.is_empty());
    limited
        .map(|(direction, chain, rules)| {
            edit.chain(&chain, rules);
            (direction, chain)
        })
        .collect()
}

/// What all packets come by: of which rules, the sets that there are decide.
pub(super) fn common_chains(table: &Table) -> Vec<(String, Chain)> {
    let from_vm = || on_bridge(Field::IifName);
    let known = || {
        let test = Test::AnyOf(CT_ESTABLISHED | CT_RELATED);
        accept("known connections", vec![Part::Match(Field::CtState, test)])
    };
    let mut chains = Vec::new();
    let mut chain = |name: &str, hook, rules| chains.push((name.to_owned(), Chain { hook, rules }));
    let to_vm = on_bridge(Field::OifName);
    let mut forward = vec![
        known(),
        jump("to a VM", vec![to_vm], "arrivals"),
        jump("from a VM", vec![from_vm()], "departures"),
    ];
    // Before known connections are let through: a rate holds for all of a VM.
    for (direction, interface) in [("out", Field::IifName), ("in", Field::OifName)] {
        let map = format!("rated-{direction}");
        let there = |family: &IpFamily| {
            table.sets.contains_key(&format!("{map}{}", names::family(*family)))
        };
        let families: Vec<IpFamily> = FAMILIES.into_iter().filter(there).collect();
        if !families.is_empty() {
            let rates = format!("rates-{direction}");
            forward.insert(0, jump("rates", vec![on_bridge(interface)], &rates));
            chain(&rates, None, by_address(&families, interface, &map));
        }
    }
    chain("forward", filter(HookPoint::Forward, FILTER), forward);
    // What a bridge carries of IPv4 has nobody's address; of IPv6 it may.
    let mut arrivals = by_address(&[IpFamily::V4], Field::OifName, "to");
    arrivals.extend(bridged());
    arrivals.extend(by_address(&[IpFamily::V6], Field::OifName, "to"));
    arrivals.push(deny("no VM has this address", vec![]));
    chain("arrivals", None, arrivals);
    let mut departures = by_address(&FAMILIES, Field::IifName, "from");
    departures.push(deny("no VM's address", vec![]));
    chain("departures", None, departures);

    let input = vec![jump("from a VM", vec![from_vm()], "to-host")];
    chain("input", filter(HookPoint::Input, FILTER), input);
    // Known ones first: what the host's loopback has asked of a VM by a port map
    // is answered to that again.
    let mut to_host = vec![known(), loopback()];
    to_host.extend(host_services(table));
    chain("to-host", None, to_host);
    chain("sources", nat(HookPoint::Postrouting, NAT_FROM), sources(table));
    chains.extend(ports::common_chains(table));
    chains
}

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// In whose name packets leave.
fn sources(table: &Table) -> Vec<Rule> {
    let mut rules = ports::masquerade(table);
    let to = Part::Verdicts { fields: vec![Field::OifName], map: "nat-to".into() };
    rules.push(Rule::new("to a VM", vec![mapped(), to]));
    for family in FAMILIES {
        let map = nat_from(family);
        if table.sets.contains_key(&map) {
            let source = if family == IpFamily::V4 { Field::Ip4Source } else { Field::Ip6Source };
            let parts = vec![Part::ip(family), Part::Verdicts { fields: vec![source], map }];
            rules.push(Rule::new("out of a network", parts));
        }
    }
    rules
}

/// Where br_netfilter is (Docker loads it), the host's table sees what a
/// bridge hands from port to port. The bridge's own table judges these, and
/// none of them is ever routed.
fn bridged() -> Vec<Rule> {
    let label = "what only a bridge carries";
    let mut rules = Vec::new();
    for kind in [BROADCAST, MULTICAST] {
        rules.push(accept(label, vec![Part::is(Field::PacketType, &[kind])]));
    }
    let six = || Part::ip(IpFamily::V6);
    for kind in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        let parts = vec![six(), Part::l4(ICMP6), Part::is(Field::Icmp6Type, &[kind])];
        rules.push(accept(label, parts));
    }
    let local: IpNet = "fe80::/10".parse().expect("a network");
    let from = Part::within(Field::Ip6Source, local);
    rules.push(accept(label, [six()].into_iter().chain(from).collect()));
    rules
}

fn on_bridge(field: Field) -> Part {
    Part::In { fields: vec![field], set: "bridges".into(), not: false }
}

/// A host that maps its own 127.0.0.1 lets loopback addresses onto its bridges
/// (route_localnet), so nobody there may use them: neither to reach the host
/// nor a port map that is bound to them.
pub(super) fn loopback() -> Rule {
    let loopback: IpNet = "127.0.0.0/8".parse().expect("a network");
    let mut parts = vec![Part::ip(IpFamily::V4)];
    parts.extend(Part::within(Field::Ip4Target, loopback));
    parts.push(on_bridge(Field::IifName));
    deny("the host's loopback", parts)
}

fn jump(label: &str, mut parts: Vec<Part>, chain: &str) -> Rule {
    parts.push(Part::Do(Verdict::Jump(chain.into())));
    Rule::new(label, parts)
}

fn address_fields(family: IpFamily, interface: Field) -> Vec<Field> {
    let of = match (family, interface) {
        (IpFamily::V4, Field::IifName) => Field::Ip4Source,
        (IpFamily::V4, _) => Field::Ip4Target,
        (IpFamily::V6, Field::IifName) => Field::Ip6Source,
        (IpFamily::V6, _) => Field::Ip6Target,
    };
    vec![interface, of]
}

/// To the VM's own chain; what has none goes on.
fn by_address(families: &[IpFamily], interface: Field, map: &str) -> Vec<Rule> {
    let rule = |family: &IpFamily| {
        let map = format!("{map}{}", names::family(*family));
        let fields = address_fields(*family, interface);
        let parts = vec![Part::ip(*family), Part::Verdicts { fields, map }];
        Rule::new("by its address", parts)
    };
    families.iter().map(rule).collect()
}

/// The host itself: what Innkeeper serves there, and no more unless the
/// network says so.
fn host_services(table: &Table) -> Vec<Rule> {
    let port =
        |protocol, field, port: u16| vec![Part::l4(protocol), Part::is(field, &port.to_be_bytes())];
    let mut rules = vec![
        accept("DHCP", port(UDP, Field::UdpTarget, DHCP)),
        accept("DHCPv6", port(UDP, Field::UdpTarget, DHCP6)),
    ];
    // Neighbours, routers and groups, which IPv6 lives by.
    for kind in [130_u8, 131, 132, 133, 135, 136, 143] {
        let parts =
            vec![Part::ip(IpFamily::V6), Part::l4(ICMP6), Part::is(Field::Icmp6Type, &[kind])];
        rules.push(accept("neighbour discovery", parts));
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let set = format!("mute{}", names::family(family));
        if table.sets.contains_key(&set) {
            let fields = address_fields(family, Field::IifName);
            let parts = vec![Part::ip(family), Part::In { fields, set, not: false }];
            rules.push(deny("by a policy of none", parts));
        }
    }
    let open = Part::In { fields: vec![Field::IifName], set: "open".into(), not: false };
    rules.push(accept("where the network allows it", vec![open]));
    for family in [IpFamily::V4, IpFamily::V6] {
        let (target, icmp, kind, echo) = match family {
            IpFamily::V4 => (Field::Ip4Target, ICMP, Field::IcmpType, ECHO),
            IpFamily::V6 => (Field::Ip6Target, ICMP6, Field::Icmp6Type, ECHO6),
        };
        let set = format!("gateways{}", names::family(family));
        let gateway = Part::In { fields: vec![Field::IifName, target], set, not: false };
        let services = [
            ("DNS", port(UDP, Field::UdpTarget, DNS)),
            ("DNS", port(TCP, Field::TcpTarget, DNS)),
            ("ping", vec![Part::l4(icmp), Part::is(kind, &[echo])]),
        ];
        for (label, service) in services {
            let parts = [Part::ip(family), gateway.clone()].into_iter().chain(service).collect();
            rules.push(accept(label, parts));
        }
    }
    rules.push(deny("the host's services", vec![]));
    rules
}

pub(super) fn mapped() -> Part {
    Part::Match(Field::CtStatus, Test::AnyOf(STATUS_DNAT))
}

/// Through a port map back onto the bridge that it came from: the target would
/// answer past the host. And the host's loopback, which no bridge carries.
fn hairpins(network: &DeclaredNetwork) -> Vec<Rule> {
    let from = |net: Option<IpNet>, label: &str| {
        let (family, field) = match net? {
            IpNet::V4(_) => (IpFamily::V4, Field::Ip4Source),
            IpNet::V6(_) => (IpFamily::V6, Field::Ip6Source),
        };
        let mut parts = vec![Part::ip(family)];
        parts.extend(Part::within(field, net?));
        parts.push(Part::Masquerade);
        Some(Rule::new(label, parts))
    };
    let loopback4 = "127.0.0.0/8".parse().ok();
    let loopback6 = "::1/128".parse().ok();
    let spec = &network.spec;
    let all = [
        from(spec.ipv4.map(IpNet::V4), "back into its network"),
        from(spec.ipv6.map(IpNet::V6), "back into its network"),
        from(loopback4, "from the host's loopback"),
        from(loopback6, "from the host's loopback"),
    ];
    all.into_iter().flatten().collect()
}
