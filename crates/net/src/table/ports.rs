//! Port maps: an element for each port, in a map for each kind of listener.

use std::collections::BTreeMap;
use std::net::IpAddr;

use inn_domain::network::{DeclaredMap, Listen, PortRange, Transport};

use super::edit::Edit;
use super::host::{NAT_TO, loopback, mapped};
use super::{names, nat};
use crate::nft::{
    Chain, ElementKey, Field, Fields, HookPoint, IpFamily, Part, Rule, Set, TCP, Table, Type, UDP,
    Value, Verdict,
};

/// The most particular first: what is bound to an address or an interface is
/// not for those that take any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Interface,
    Address,
    Any,
}

/// One map of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    bound: Bound,
    transport: TransportOrder,
    family: IpFamily,
    /// Ranges that keep their numbers: one element for all of it.
    ranges: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TransportOrder {
    Tcp,
    Udp,
}

impl TransportOrder {
    fn facts(self) -> (&'static str, u8, Field) {
        match self {
            Self::Tcp => ("tcp", TCP, Field::TcpTarget),
            Self::Udp => ("udp", UDP, Field::UdpTarget),
        }
    }
}

impl From<Transport> for TransportOrder {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

impl Kind {
    /// In the order in which a packet comes by them.
    fn all() -> impl Iterator<Item = Self> {
        let bounds = [Bound::Interface, Bound::Address, Bound::Any];
        bounds.into_iter().flat_map(|bound| {
            ENDS.into_iter().flat_map(move |(transport, family)| {
                [false, true].map(|ranges| Self { bound, transport, family, ranges })
            })
        })
    }

    fn name(self) -> String {
        let bound = match self.bound {
            Bound::Interface => "interface",
            Bound::Address => "address",
            Bound::Any => "any",
        };
        let ranges = if self.ranges { "-ranges" } else { "" };
        let transport = self.transport.facts().0;
        format!("{bound}-{transport}{}{ranges}", names::family(self.family))
    }

    fn ip(self) -> Type {
        match self.family {
            IpFamily::V4 => Type::Ipv4,
            IpFamily::V6 => Type::Ipv6,
        }
    }

    fn empty(self) -> Set {
        let key = match self.bound {
            Bound::Interface => vec![Type::IfName, Type::Port],
            Bound::Address => vec![self.ip(), Type::Port],
            Bound::Any => vec![Type::Port],
        };
        if self.ranges {
            Set::map(&key, &[self.ip()]).with_intervals()
        } else {
            Set::map(&key, &[self.ip(), Type::Port])
        }
    }

    fn rule(self) -> Rule {
        let (_, protocol, port) = self.transport.facts();
        let target = match self.family {
            IpFamily::V4 => Field::Ip4Target,
            IpFamily::V6 => Field::Ip6Target,
        };
        let fields = match self.bound {
            Bound::Interface => vec![Field::IifName, port],
            Bound::Address => vec![target, port],
            Bound::Any => vec![port],
        };
        let to = self.family;
        let dnat = Part::Dnat { to, fields, map: self.name(), port: !self.ranges };
        Rule::new("port maps", vec![Part::ip(self.family), Part::l4(protocol), dnat])
    }
}

pub(super) fn map(map: &DeclaredMap, edit: &mut Edit) {
    for (map, target) in targets(map) {
        let kind = kind(map, target);
        let (name, like) = (kind.name(), || kind.empty());
        let key = |port| match &map.map.listen {
            Listen::Any => Fields::default().port(port).bytes(),
            Listen::Address(ip) => Fields::default().ip(*ip).port(port).bytes(),
            Listen::Interface(name) => Fields::default().name(name.as_str()).port(port).bytes(),
        };
        let ports = map.map.ports;
        if kind.ranges {
            let value = Value::Bytes(Fields::default().ip(target).bytes());
            let key = ElementKey::range(key(ports.first), key(ports.last));
            edit.range(&name, like, key, value);
            continue;
        }
        for (port, to) in (ports.first..=ports.last).zip(map.map.target_port..) {
            let value = Value::Bytes(Fields::default().ip(target).port(to).bytes());
            edit.element(&name, like, key(port), value);
        }
    }
}

/// Where packets come by the sets of maps that there are.
pub(super) fn common_chains(table: &Table) -> Vec<(String, Chain)> {
    let mut rules = Vec::new();
    // What our own DNS answers to VMs is no map's.
    for (protocol, field) in [(TCP, Field::TcpTarget), (UDP, Field::UdpTarget)] {
        let bridges = Part::In { fields: vec![Field::IifName], set: "bridges".into(), not: false };
        let port = Part::is(field, &53_u16.to_be_bytes());
        let dns = vec![Part::l4(protocol), port, bridges, Part::Do(Verdict::Return)];
        rules.push(Rule::new("our own DNS", dns));
    }
    let dns = rules.len();
    let there = Kind::all().filter(|kind| table.sets.contains_key(&kind.name()));
    rules.extend(there.map(Kind::rule));
    if rules.len() == dns {
        return Vec::new();
    }
    let mut chains = vec![("ports".to_owned(), Chain { hook: None, rules })];
    for (name, point) in [("mapped", HookPoint::Prerouting), ("mapped-here", HookPoint::Output)] {
        let jump = Part::Do(Verdict::Jump("ports".into()));
        let mut rules = vec![Rule::new("for this host", vec![Part::ForThisHost, jump])];
        if point == HookPoint::Prerouting {
            rules.insert(0, loopback());
        }
        chains.push((name.to_owned(), Chain { hook: nat(point, NAT_TO), rules }));
    }
    chains
}

/// Each of the family that the listener has.
fn targets(map: &DeclaredMap) -> impl Iterator<Item = (&DeclaredMap, IpAddr)> {
    let fits = |target: &IpAddr| match &map.map.listen {
        Listen::Address(ip) => ip.is_ipv4() == target.is_ipv4(),
        Listen::Any | Listen::Interface(_) => true,
    };
    map.targets.iter().copied().filter(fits).map(move |target| (map, target))
}

fn kind(map: &DeclaredMap, target: IpAddr) -> Kind {
    let bound = match &map.map.listen {
        Listen::Any => Bound::Any,
        Listen::Address(_) => Bound::Address,
        Listen::Interface(_) => Bound::Interface,
    };
    // nf_tables cannot move a range by an offset: such a one is its ports.
    let ranges = !map.map.ports.is_single() && map.map.target_port == map.map.ports.first;
    let transport = map.map.transport.into();
    Kind { bound, transport, family: family(target), ranges }
}

fn family(ip: IpAddr) -> IpFamily {
    if ip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
}

const ENDS: [(TransportOrder, IpFamily); 4] = [
    (TransportOrder::Tcp, IpFamily::V4),
    (TransportOrder::Tcp, IpFamily::V6),
    (TransportOrder::Udp, IpFamily::V4),
    (TransportOrder::Udp, IpFamily::V6),
];

fn masqueraded_set(transport: TransportOrder, family: IpFamily) -> String {
    format!("masqueraded-{}{}", transport.facts().0, names::family(family))
}

pub(super) fn masqueraded_sets() -> [String; 4] {
    ENDS.map(|(transport, family)| masqueraded_set(transport, family))
}

/// By the sets' names: where the target is to see the host in the client's
/// place.
pub(super) fn masqueraded(maps: &[DeclaredMap]) -> BTreeMap<String, Set> {
    let mut ends: BTreeMap<(TransportOrder, IpFamily), Vec<(IpAddr, PortRange)>> = BTreeMap::new();
    let asked = maps.iter().filter(|map| map.map.masquerade);
    for (map, target) in asked.flat_map(targets) {
        let of = ends.entry((map.map.transport.into(), family(target))).or_default();
        of.push((target, target_ports(map)));
    }
    let sets = ends.into_iter().map(|((transport, family), ends)| {
        let ip = if family == IpFamily::V4 { Type::Ipv4 } else { Type::Ipv6 };
        let mut set = Set::of(&[ip, Type::Port]).with_intervals();
        for (target, ports) in merged(ends) {
            let key = |port| Fields::default().ip(target).port(port).bytes();
            let range = ElementKey::range(key(ports.first), key(ports.last));
            set.elements.insert(range, Value::Nothing);
        }
        (masqueraded_set(transport, family), set)
    });
    sets.collect()
}

pub(super) fn masquerade(table: &Table) -> Vec<Rule> {
    let rule = |(transport, family): (TransportOrder, IpFamily)| {
        let set = masqueraded_set(transport, family);
        let (_, protocol, port) = transport.facts();
        let target = if family == IpFamily::V4 { Field::Ip4Target } else { Field::Ip6Target };
        table.sets.contains_key(&set).then(|| {
            let at = Part::In { fields: vec![target, port], set, not: false };
            let parts = vec![Part::ip(family), Part::l4(protocol), mapped(), at, Part::Masquerade];
            Rule::new("as a map asks", parts)
        })
    };
    ENDS.into_iter().filter_map(rule).collect()
}

/// The kernel takes no two ranges that overlap, and two maps may lead to one
/// port.
fn merged(mut ends: Vec<(IpAddr, PortRange)>) -> Vec<(IpAddr, PortRange)> {
    ends.sort_unstable();
    let mut all: Vec<(IpAddr, PortRange)> = Vec::new();
    for (ip, ports) in ends {
        match all.last_mut() {
            Some((last, range)) if *last == ip && ports.first <= range.last => {
                range.last = range.last.max(ports.last);
            }
            _ => all.push((ip, ports)),
        }
    }
    all
}

fn target_ports(map: &DeclaredMap) -> PortRange {
    let more = map.map.ports.last.saturating_sub(map.map.ports.first);
    PortRange { first: map.map.target_port, last: map.map.target_port.saturating_add(more) }
}
