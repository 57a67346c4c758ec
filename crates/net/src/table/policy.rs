//! A VM's own chains: what it may reach, who may reach it, and how fast.

use inn_domain::network::{
    Action, Attachment, DeclaredNetwork, Direction, Far, NetworkKind, Policy, PolicyRule,
    PortRange, Protocol, RateLimits,
};
use ipnet::IpNet;

use super::edit::Edit;
use super::names;
use crate::nft::{
    CT_INVALID, Field, ICMP, ICMP6, IpFamily, Part, Rule, STATUS_DNAT, Set, TCP, Test, Type, UDP,
    Verdict,
};

/// What a policy did not allow is counted by this name.
pub(super) const DENIED: &str = "denied";
/// And a rule of it by this and its place.
pub(super) const RULE: &str = "rule";
pub(super) const UNASKED: &str = "nobody maps a port to it";
pub(super) const TOO_MUCH: &str = "above its rate";

/// One second's part that may come at once on top of a rate, and the least of
/// it: a packet that segmentation offload has made is 64 KiB.
const BURST_PART: u64 = 4;
const LEAST_BURST_BYTES: u64 = 128 * 1024;
const LEAST_BURST_PACKETS: u64 = 16;

pub(super) fn chains(card: &Attachment, network: &DeclaredNetwork, edit: &mut Edit) {
    let out = match &card.policy {
        Policy::None => vec![deny(DENIED, vec![])],
        Policy::AllowAll => vec![leave("all", network, vec![])],
        Policy::Rules { rules, rates: _ } => {
            let allow = |label: &str, parts| leave(label, network, parts);
            directed(card, rules, Direction::Egress, &allow, edit)
        }
    };
    edit.chain(&names::out_of(card), out);
    let into = match &card.policy {
        Policy::None => vec![deny(DENIED, vec![])],
        Policy::AllowAll => {
            let mut all = vec![by_port_map()];
            match network.spec.kind {
                NetworkKind::Routed => all.push(back("all", vec![])),
                // What they may reach is for their own chains to say.
                NetworkKind::Nat | NetworkKind::Isolated => {
                    let bridges = Part::In {
                        fields: vec![Field::IifName],
                        set: "bridges".into(),
                        not: false,
                    };
                    all.push(back("from VMs", vec![bridges]));
                    all.push(deny(UNASKED, vec![]));
                }
            }
            all
        }
        Policy::Rules { rules, rates: _ } => {
            let allow = |label: &str, mut parts: Vec<Part>| {
                parts.extend([Part::Counter, Part::Do(Verdict::Return)]);
                Rule::new(label, parts)
            };
            directed(card, rules, Direction::Ingress, &allow, edit)
        }
    };
    edit.chain(&names::into(card), into);
}

/// The rules of one direction, in order, and what becomes of the rest.
fn directed(
    card: &Attachment,
    rules: &[PolicyRule],
    direction: Direction,
    allow: &dyn Fn(&str, Vec<Part>) -> Rule,
    edit: &mut Edit,
) -> Vec<Rule> {
    let mut all = Vec::new();
    for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.direction == direction) {
        let label = format!("{RULE} {}", at + 1);
        for parts in matches(card, rule, edit) {
            all.push(match rule.action {
                Action::Allow => allow(&label, parts),
                Action::Deny => deny(&label, parts),
            });
        }
    }
    if direction == Direction::Ingress {
        // A port map is itself a permission, unless a rule above says no.
        all.push(by_port_map());
    }
    all.push(deny(DENIED, vec![]));
    all
}

/// The packets that a rule means: one list for each family, protocol and
/// range that it takes.
fn matches(card: &Attachment, rule: &PolicyRule, edit: &mut Edit) -> Vec<Vec<Part>> {
    let mut all = Vec::new();
    for far in far(card, rule, edit) {
        for protocol in protocols(rule.protocol, far.0) {
            let start: Vec<Part> = far.1.iter().cloned().chain(protocol.clone()).collect();
            let target = match rule.protocol {
                Some(Protocol::Tcp) => Some(Field::TcpTarget),
                Some(Protocol::Udp) => Some(Field::UdpTarget),
                Some(Protocol::Icmp) | None => None,
            };
            let Some(target) = target.filter(|_| !rule.ports.is_empty()) else {
                all.push(start);
                continue;
            };
            for range in &rule.ports {
                all.push(start.iter().cloned().chain([port(target, *range)]).collect());
            }
        }
    }
    all
}

fn port(field: Field, range: PortRange) -> Part {
    let (first, last) = (range.first.to_be_bytes().to_vec(), range.last.to_be_bytes().to_vec());
    let test = if range.is_single() { Test::Is(first) } else { Test::Between(first, last) };
    Part::Match(field, test)
}

/// With the family that it binds the rule to, if it does.
fn far(
    card: &Attachment,
    rule: &PolicyRule,
    edit: &mut Edit,
) -> Vec<(Option<IpFamily>, Vec<Part>)> {
    let ends = match rule.direction {
        Direction::Egress => (Field::Ip4Target, Field::Ip6Target),
        Direction::Ingress => (Field::Ip4Source, Field::Ip6Source),
    };
    match &rule.far {
        Far::Any => vec![(None, vec![])],
        Far::Net(net) => {
            let (family, field) = match net {
                IpNet::V4(_) => (IpFamily::V4, ends.0),
                IpNet::V6(_) => (IpFamily::V6, ends.1),
            };
            let parts = [Part::ip(family)].into_iter().chain(Part::within(field, *net)).collect();
            vec![(Some(family), parts)]
        }
        Far::Domain(domain) => {
            let [four, six] = names::domain_sets(card.vm, domain);
            let both =
                [(IpFamily::V4, ends.0, Type::Ipv4, four), (IpFamily::V6, ends.1, Type::Ipv6, six)];
            let both = both.map(|(family, field, kind, set)| {
                edit.set(&set, Set::of(&[kind]).with_timeouts());
                let known = Part::In { fields: vec![field], set, not: false };
                (Some(family), vec![Part::ip(family), known])
            });
            both.into()
        }
    }
}

fn protocols(protocol: Option<Protocol>, family: Option<IpFamily>) -> Vec<Vec<Part>> {
    match (protocol, family) {
        (None, _) => vec![vec![]],
        (Some(Protocol::Tcp), _) => vec![vec![Part::l4(TCP)]],
        (Some(Protocol::Udp), _) => vec![vec![Part::l4(UDP)]],
        (Some(Protocol::Icmp), Some(IpFamily::V4)) => vec![vec![Part::l4(ICMP)]],
        (Some(Protocol::Icmp), Some(IpFamily::V6)) => vec![vec![Part::l4(ICMP6)]],
        (Some(Protocol::Icmp), None) => vec![vec![Part::l4(ICMP)], vec![Part::l4(ICMP6)]],
    }
}

/// The network has the last word on what a VM may reach.
fn leave(label: &str, network: &DeclaredNetwork, mut parts: Vec<Part>) -> Rule {
    parts.extend([Part::Counter, Part::Do(Verdict::Goto(names::leave(network)))]);
    Rule::new(label, parts)
}

fn by_port_map() -> Rule {
    let mapped = Part::Match(Field::CtStatus, Test::AnyOf(STATUS_DNAT));
    back("by a port map", vec![mapped])
}

/// Not denied here; the sender's chain may yet.
fn back(label: &str, mut parts: Vec<Part>) -> Rule {
    parts.push(Part::Do(Verdict::Return));
    Rule::new(label, parts)
}

pub(super) fn deny(label: &str, mut parts: Vec<Part>) -> Rule {
    parts.extend([Part::Counter, Part::Do(Verdict::Drop)]);
    Rule::new(label, parts)
}

pub(super) fn accept(label: &str, mut parts: Vec<Part>) -> Rule {
    parts.push(Part::Do(Verdict::Accept));
    Rule::new(label, parts)
}

/// How the leaving of a network is judged, whatever a VM's policy says.
pub(super) fn leaving(network: &DeclaredNetwork) -> Vec<Rule> {
    let mut rules = Vec::new();
    rules.push(deny(
        "belongs to no connection",
        vec![Part::Match(Field::CtState, Test::AnyOf(CT_INVALID))],
    ));
    if !network.spec.metadata {
        for net in ["169.254.0.0/16", "fd00:ec2::254/128"] {
            let net: IpNet = net.parse().expect("a network");
            rules.push(deny("a cloud's metadata", to(net)));
        }
    }
    // It was for the host's address, and the map's owner wants it.
    let mapped = Part::Match(Field::CtStatus, Test::AnyOf(STATUS_DNAT));
    rules.push(accept("by a port map", vec![mapped]));
    if network.spec.peers {
        let own = Part::interface(Field::OifName, network.bridge().as_str());
        rules.push(accept("to a peer", vec![own]));
    }
    let bridges = Part::In { fields: vec![Field::OifName], set: "bridges".into(), not: false };
    rules.push(deny("another VM", vec![bridges]));
    match network.spec.kind {
        NetworkKind::Isolated => {}
        NetworkKind::Routed => rules.push(accept("out", vec![])),
        NetworkKind::Nat => {
            let ways = [(IpFamily::V4, &network.uplink4), (IpFamily::V6, &network.uplink6)];
            for (family, uplink) in ways {
                if let Some(uplink) = uplink {
                    let way = Part::interface(Field::OifName, uplink.as_str());
                    rules.push(accept("out", vec![Part::ip(family), way]));
                }
            }
        }
    }
    if network.spec.kind != NetworkKind::Routed {
        rules.push(deny("no way out", vec![]));
    }
    rules
}

fn to(net: IpNet) -> Vec<Part> {
    let (family, field) = match net {
        IpNet::V4(_) => (IpFamily::V4, Field::Ip4Target),
        IpNet::V6(_) => (IpFamily::V6, Field::Ip6Target),
    };
    [Part::ip(family)].into_iter().chain(Part::within(field, net)).collect()
}

pub(super) fn rates(card: &Attachment) -> RateLimits {
    match &card.policy {
        Policy::Rules { rates, .. } => *rates,
        Policy::None | Policy::AllowAll => RateLimits::default(),
    }
}

/// How many bytes may come at once on top of so many in a second.
pub fn burst_of_bytes(rate: u64) -> u32 {
    burst(rate, LEAST_BURST_BYTES)
}

/// How many packets may.
pub fn burst_of_packets(rate: u64) -> u32 {
    burst(rate, LEAST_BURST_PACKETS)
}

fn burst(rate: u64, least: u64) -> u32 {
    u32::try_from((rate / BURST_PART).max(least)).unwrap_or(u32::MAX)
}

/// Of one direction: above a rate, packets are dropped, and TCP slows down.
pub(super) fn above(bytes: Option<u64>, packets: Option<u64>) -> Vec<Rule> {
    let limits = [(bytes, LEAST_BURST_BYTES, true), (packets, LEAST_BURST_PACKETS, false)];
    let limits = limits.into_iter().filter_map(|(rate, least, bytes)| {
        // The kernel refuses a rate of 0; one is as good as none.
        let rate = rate?.max(1);
        let burst = burst(rate, least);
        Some(deny(TOO_MUCH, vec![Part::Above { rate, burst, bytes }]))
    });
    limits.collect()
}
