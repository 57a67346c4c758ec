//! Port maps: an element for each port, in a map for each kind of listener.

use std::collections::BTreeMap;
use std::net::IpAddr;

use inn_domain::network::{Declared, DeclaredMap, Listen, PortRange, Transport};

use super::host::{NAT_TO, mapped};
use super::{Build, names, nat};
use crate::nft::{
    ElementKey, Field, Fields, HookPoint, IpFamily, Part, Rule, Set, TCP, Table, Type, UDP, Value,
    Verdict,
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

pub(super) fn maps(declared: &Declared, table: &mut Table) {
    let mut sets: BTreeMap<Kind, Set> = BTreeMap::new();
    for (map, target) in declared.maps.iter().flat_map(targets) {
        let kind = kind(map, target);
        let set = sets.entry(kind).or_insert_with(|| kind.empty());
        let key = |port| match &map.map.listen {
            Listen::Any => Fields::default().port(port).bytes(),
            Listen::Address(ip) => Fields::default().ip(*ip).port(port).bytes(),
            Listen::Interface(name) => Fields::default().name(name.as_str()).port(port).bytes(),
        };
        let ports = map.map.ports;
        if kind.ranges {
            let value = Value::Bytes(Fields::default().ip(target).bytes());
            set.elements.insert(ElementKey::range(key(ports.first), key(ports.last)), value);
            continue;
        }
        for (port, to) in (ports.first..=ports.last).zip(map.map.target_port..) {
            let value = Value::Bytes(Fields::default().ip(target).port(to).bytes());
            set.elements.insert(ElementKey::single(key(port)), value);
        }
    }
    // What our own DNS answers to VMs is no map's.
    let mut rules = Vec::new();
    let kinds: Vec<Kind> = sets.keys().copied().collect();
    for kind in &kinds {
        rules.push(kind.rule());
    }
    for (kind, set) in sets {
        table.sets.insert(kind.name(), set);
    }
    if rules.is_empty() {
        return;
    }
    for (protocol, field) in [(UDP, Field::UdpTarget), (TCP, Field::TcpTarget)] {
        let bridges = Part::In { fields: vec![Field::IifName], set: "bridges".into(), not: false };
        let dns = vec![bridges, Part::l4(protocol), Part::is(field, &53_u16.to_be_bytes())];
        let dns = dns.into_iter().chain([Part::Do(Verdict::Return)]).collect();
        rules.insert(0, Rule::new("our own DNS", dns));
    }
    table.chain("ports", None, rules);
    for (name, point) in [("mapped", HookPoint::Prerouting), ("mapped-here", HookPoint::Output)] {
        let jump = Part::Do(Verdict::Jump("ports".into()));
        let rules = vec![Rule::new("for this host", vec![Part::ForThisHost, jump])];
        table.chain(name, nat(point, NAT_TO), rules);
    }
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

/// Where the target is to see the host in the client's place.
pub(super) fn masquerade(declared: &Declared, table: &mut Table) -> Vec<Rule> {
    let mut ends: BTreeMap<(TransportOrder, IpFamily), Vec<(IpAddr, PortRange)>> = BTreeMap::new();
    let asked = declared.maps.iter().filter(|map| map.map.masquerade);
    for (map, target) in asked.flat_map(targets) {
        let of = ends.entry((map.map.transport.into(), family(target))).or_default();
        of.push((target, target_ports(map)));
    }
    let rules = ends.into_iter().map(|((transport, family), ends)| {
        let ip = if family == IpFamily::V4 { Type::Ipv4 } else { Type::Ipv6 };
        let mut set = Set::of(&[ip, Type::Port]).with_intervals();
        for (target, ports) in merged(ends) {
            let key = |port| Fields::default().ip(target).port(port).bytes();
            let range = ElementKey::range(key(ports.first), key(ports.last));
            set.elements.insert(range, Value::Nothing);
        }
        let (name, protocol, port) = transport.facts();
        let target = if family == IpFamily::V4 { Field::Ip4Target } else { Field::Ip6Target };
        let name = format!("masqueraded-{name}{}", names::family(family));
        let at = Part::In { fields: vec![target, port], set: name.clone(), not: false };
        table.sets.insert(name, set);
        let parts = vec![Part::ip(family), Part::l4(protocol), mapped(), at, Part::Masquerade];
        Rule::new("as a map asks", parts)
    });
    rules.collect()
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
