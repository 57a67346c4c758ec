//! The host's table: what goes through it, to it and out of it.

use inn_domain::network::{Attachment, DeclaredNetwork, NetworkKind, Policy};
use ipnet::IpNet;

use super::policy::{accept, deny};
use super::{Build, View, filter, names, nat, policy, ports};
use crate::nft::{
    BROADCAST, CT_ESTABLISHED, CT_RELATED, ElementKey, Field, Fields, HookPoint, ICMP, ICMP6,
    IpFamily, MULTICAST, Part, Rule, STATUS_DNAT, Set, TCP, Table, Test, Type, UDP, Value, Verdict,
};

/// linux/netfilter_ipv4.h: NF_IP_PRI_RAW, _NAT_DST, _FILTER, _NAT_SRC.
const RAW: i32 = -300;
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

pub(super) fn table(view: &View) -> Table {
    let mut table = Table::default();
    let from = [(IpFamily::V4, Type::Ipv4), (IpFamily::V6, Type::Ipv6)];
    table.sets.insert("bridges".into(), Set::of(&[Type::IfName]));
    for (family, kind) in from {
        let f = names::family(family);
        for map in ["from", "to"] {
            table.sets.insert(format!("{map}{f}"), Set::verdicts(&[Type::IfName, kind]));
        }
        table.sets.insert(format!("gateways{f}"), Set::of(&[Type::IfName, kind]));
    }
    table.sets.insert("open".into(), Set::of(&[Type::IfName]));
    for network in &view.declared.networks {
        self::network(network, &mut table);
    }
    for (card, network) in &view.cards {
        vm(card, network, &mut table);
    }
    base_chains(&mut table);
    ports::maps(view.declared, &mut table);
    rates(view, &mut table);
    masquerade(view, &mut table);
    table
}

fn network(network: &DeclaredNetwork, table: &mut Table) {
    let bridge = network.bridge();
    let key = || Fields::default().name(bridge.as_str());
    table.element("bridges", key().bytes(), Value::Nothing);
    if network.spec.host {
        table.element("open", key().bytes(), Value::Nothing);
    }
    if let Some(ip) = network.gateway4() {
        table.element("gateways4", key().ip(ip.into()).bytes(), Value::Nothing);
    }
    if let Some(ip) = network.gateway6() {
        table.element("gateways6", key().ip(ip.into()).bytes(), Value::Nothing);
    }
    table.chain(&names::leave(network), None, policy::leaving(network));
}

fn vm(card: &Attachment, network: &DeclaredNetwork, table: &mut Table) {
    let bridge = network.bridge();
    for (f, ip) in [("4", card.ipv4.map(Into::into)), ("6", card.ipv6.map(Into::into))] {
        let Some(ip) = ip else { continue };
        let key = || Fields::default().name(bridge.as_str()).ip(ip).bytes();
        table.element(&format!("from{f}"), key(), Value::Goto(names::out_of(card)));
        table.element(&format!("to{f}"), key(), Value::Goto(names::into(card)));
        if card.policy == Policy::None {
            let kind = if f == "4" { Type::Ipv4 } else { Type::Ipv6 };
            let mute = Set::of(&[Type::IfName, kind]);
            table.sets.entry(format!("mute{f}")).or_insert(mute);
            table.element(&format!("mute{f}"), key(), Value::Nothing);
        }
    }
    policy::chains(card, network, table);
}

fn base_chains(table: &mut Table) {
    let from_vm = || on_bridge(Field::IifName);
    let known = || {
        let test = Test::AnyOf(CT_ESTABLISHED | CT_RELATED);
        accept("known connections", vec![Part::Match(Field::CtState, test)])
    };
    // A host that maps its own 127.0.0.1 lets loopback addresses onto its
    // bridges (route_localnet), so nobody else may use them there.
    let loopback: IpNet = "127.0.0.0/8".parse().expect("a network");
    let mut parts = vec![from_vm(), Part::ip(IpFamily::V4)];
    parts.extend(Part::within(Field::Ip4Target, loopback));
    let guard = vec![deny("the host's loopback", parts)];
    table.chain("guard", filter(HookPoint::Prerouting, RAW), guard);

    let to_vm = on_bridge(Field::OifName);
    let forward = vec![
        known(),
        jump("to a VM", vec![to_vm], "arrivals"),
        jump("from a VM", vec![from_vm()], "departures"),
    ];
    table.chain("forward", filter(HookPoint::Forward, FILTER), forward);
    let mut arrivals = bridged();
    arrivals.extend(by_address(Field::OifName, "to", "no VM has this address"));
    table.chain("arrivals", None, arrivals);
    let departures = by_address(Field::IifName, "from", "no VM's address");
    table.chain("departures", None, departures);

    let input = vec![jump("from a VM", vec![from_vm()], "to-host")];
    table.chain("input", filter(HookPoint::Input, FILTER), input);
    let mut to_host = vec![known()];
    to_host.extend(host_services(table));
    table.chain("to-host", None, to_host);
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

/// To the VM's own chain.
fn by_address(interface: Field, map: &str, nobody: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = [IpFamily::V4, IpFamily::V6]
        .into_iter()
        .map(|family| {
            let map = format!("{map}{}", names::family(family));
            let fields = address_fields(family, interface);
            let parts = vec![Part::ip(family), Part::Verdicts { fields, map }];
            Rule::new("by its address", parts)
        })
        .collect();
    rules.push(deny(nobody, vec![]));
    rules
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

/// Before known connections are let through: a rate holds for all of a VM.
fn rates(view: &View, table: &mut Table) {
    for (direction, interface) in [("out", Field::IifName), ("in", Field::OifName)] {
        let mut any = false;
        for (card, network) in &view.cards {
            let rates = policy::rates(card);
            let (name, rules) = match direction {
                "out" => (
                    names::rates_out_of(card),
                    policy::above(rates.egress_bytes, rates.egress_packets),
                ),
                _ => (
                    names::rates_into(card),
                    policy::above(rates.ingress_bytes, rates.ingress_packets),
                ),
            };
            if rules.is_empty() {
                continue;
            }
            any = true;
            table.chain(&name, None, rules);
            for (f, kind, ip) in [
                ("4", Type::Ipv4, card.ipv4.map(Into::into)),
                ("6", Type::Ipv6, card.ipv6.map(Into::into)),
            ] {
                let map = format!("rated-{direction}{f}");
                let set = Set::verdicts(&[Type::IfName, kind]);
                table.sets.entry(map.clone()).or_insert(set);
                if let Some(ip) = ip {
                    let key = Fields::default().name(network.bridge().as_str()).ip(ip).bytes();
                    table.element(&map, key, Value::Goto(name.clone()));
                }
            }
        }
        if any {
            let chain = format!("rates-{direction}");
            let mut rules = by_address(interface, &format!("rated-{direction}"), "");
            // Who has no rate goes on.
            rules.pop();
            table.chain(&chain, None, rules);
            let forward = table.chains.entry("forward".into()).or_default();
            forward.rules.insert(0, jump("rates", vec![on_bridge(interface)], &chain));
        }
    }
}

fn masquerade(view: &View, table: &mut Table) {
    let mut rules = ports::masquerade(view.declared, table);
    let asked = rules.len();
    for (family, kind) in [(IpFamily::V4, Type::Ipv4), (IpFamily::V6, Type::Ipv6)] {
        let map = format!("nat-from{}", names::family(family));
        let source = if family == IpFamily::V4 { Field::Ip4Source } else { Field::Ip6Source };
        let mut nets = Set::verdicts(&[kind]).with_intervals();
        for network in &view.declared.networks {
            let (net, uplink) = match family {
                IpFamily::V4 => (network.spec.ipv4.map(IpNet::V4), &network.uplink4),
                IpFamily::V6 => (network.spec.ipv6.map(IpNet::V6), &network.uplink6),
            };
            let (Some(net), Some(uplink)) = (net, uplink) else { continue };
            if network.spec.kind == NetworkKind::Nat {
                let chain = format!("{}-{}", names::nat_from(network), names::family(family));
                let way = Part::interface(Field::OifName, uplink.as_str());
                let out = Rule::new("out", vec![way, Part::Masquerade]);
                table.chain(&chain, None, vec![out]);
                let bytes = |ip| Fields::default().ip(ip).bytes();
                let key = ElementKey::range(bytes(net.network()), bytes(net.broadcast()));
                nets.elements.insert(key, Value::Goto(chain));
            }
        }
        if !nets.elements.is_empty() {
            table.sets.insert(map.clone(), nets);
            let parts = vec![Part::ip(family), Part::Verdicts { fields: vec![source], map }];
            rules.push(Rule::new("out of a network", parts));
        }
    }
    table.sets.insert("nat-to".into(), Set::verdicts(&[Type::IfName]));
    for network in &view.declared.networks {
        let key = Fields::default().name(network.bridge().as_str()).bytes();
        table.element("nat-to", key, Value::Goto(names::nat_to(network)));
        table.chain(&names::nat_to(network), None, hairpins(network));
    }
    let to = Part::Verdicts { fields: vec![Field::OifName], map: "nat-to".into() };
    rules.insert(asked, Rule::new("to a VM", vec![mapped(), to]));
    table.chain("sources", nat(HookPoint::Postrouting, NAT_FROM), rules);
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
