//! The bridge's table: that a VM is who it says it is, which the host's own
//! table could not see any more.

use std::net::Ipv4Addr;

use inn_domain::network::{Attachment, DeclaredNetwork, Policy};

use super::edit::Edit;
use super::{filter, names};
use crate::link::bridge_mac;
use crate::nft::{
    BROADCAST, Chain, ETHER_ARP, ETHER_IP, ETHER_IP6, Field, Fields, HookPoint, ICMP6, MULTICAST,
    OTHER_HOST, Part, Rule, Set, Test, Type, UDP, Value, Verdict,
};

/// Before all others on a bridge (linux/netfilter_bridge.h,
/// NF_BR_PRI_FILTER_BRIDGED).
const PRIORITY: i32 = -200;

/// RFC 4861 and RFC 4862.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const DHCP_SERVER: u16 = 67;
const DHCP6_SERVER: u16 = 547;

const LINK_LOCAL: [u8; 16] = [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LINK_LOCAL_BITS: u8 = 10;

pub(super) fn lasting_sets() -> [(&'static str, Set); 3] {
    [("cards", cards()), ("alone", interfaces()), ("ruled", interfaces())]
}

fn cards() -> Set {
    Set::verdicts(&[Type::IfName])
}

fn interfaces() -> Set {
    Set::of(&[Type::IfName])
}

pub(super) fn vm(card: &Attachment, network: &DeclaredNetwork, edit: &mut Edit) {
    let tap = card.tap();
    let key = || Fields::default().name(tap.as_str()).bytes();
    edit.element("cards", cards, key(), Value::Goto(names::frames_of(card)));
    if !network.spec.peers || card.policy == Policy::None {
        edit.element("alone", interfaces, key(), Value::Nothing);
    } else if card.policy != Policy::AllowAll {
        edit.element("ruled", interfaces, key(), Value::Nothing);
    }
    edit.chain(&names::frames_of(card), checks(card, network));
}

pub(super) fn common_chains() -> Vec<(String, Chain)> {
    let find = Part::Verdicts { fields: vec![Field::IifName], map: "cards".into() };
    let find = vec![Rule::new("from a VM's card", vec![find])];
    let frames = Chain { hook: filter(HookPoint::Prerouting, PRIORITY), rules: find };
    let between = Chain { hook: filter(HookPoint::Forward, PRIORITY), rules: between() };
    vec![("frames".to_owned(), frames), ("between".to_owned(), between)]
}

/// From one port of a bridge to another: what the host does not see.
fn between() -> Vec<Rule> {
    let of = |field, set: &str| Part::In { fields: vec![field], set: set.into(), not: false };
    let mut rules = Vec::new();
    for field in [Field::IifName, Field::OifName] {
        rules.push(deny("between VMs that are kept apart", vec![of(field, "alone")]));
    }
    for field in [Field::IifName, Field::OifName] {
        // The rest of IP has gone by way of the host, where policies are.
        let parts = vec![
            of(field, "ruled"),
            Part::ether(ETHER_IP6),
            Part::Match(Field::L4Protocol, Test::Not(vec![ICMP6])),
        ];
        rules.push(deny("by IPv6's link-local addresses past a policy", parts));
    }
    rules
}

fn checks(card: &Attachment, network: &DeclaredNetwork) -> Vec<Rule> {
    let mut rules = vec![deny("another's MAC", vec![Part::not(Field::EtherSource, &card.mac)])];
    if let Some(own) = card.ipv4 {
        most(network, own, &mut rules);
    }
    rules.push(deny(
        "another's MAC by ARP",
        vec![Part::ether(ETHER_ARP), Part::not(Field::ArpSenderEther, &card.mac)],
    ));
    if let Some(ip) = card.ipv4 {
        // RFC 5227, 1.1: who asks whether an address is free has none yet.
        for sender in [[0; 4], ip.octets()] {
            let parts = vec![Part::ether(ETHER_ARP), Part::is(Field::ArpSenderIp, &sender)];
            rules.push(accept("ARP", parts));
        }
    }
    rules.push(deny("another's address by ARP", vec![Part::ether(ETHER_ARP)]));
    ipv4(card, network, &mut rules);
    ipv6(card, network, &mut rules);
    rules.push(deny("neither ARP nor IP", vec![]));
    rules
}

/// Most frames by far, before all that looks for what is wrong with others:
/// none of it is about these.
fn most(network: &DeclaredNetwork, own: Ipv4Addr, rules: &mut Vec<Rule>) {
    let parts = vec![
        Part::ether(ETHER_IP),
        Part::is(Field::Ip4Source, &own.octets()),
        Part::Match(Field::L4Protocol, Test::Not(vec![UDP])),
    ];
    if network.spec.peers {
        through_host(network, parts, rules);
    } else {
        rules.push(accept("IPv4 but UDP", parts));
    }
}

fn ipv4(card: &Attachment, network: &DeclaredNetwork, rules: &mut Vec<Rule>) {
    let ip = || Part::ether(ETHER_IP);
    rules.push(deny("answers as a DHCP server", vec![ip(), Part::l4(UDP), source(DHCP_SERVER)]));
    let first = Part::is(Field::Ip4Source, &[0; 4]);
    let asks = Part::is(Field::UdpTarget, &DHCP_SERVER.to_be_bytes());
    rules.push(accept("DHCP", vec![ip(), first, Part::l4(UDP), asks]));
    if let Some(own) = card.ipv4 {
        let own = Part::is(Field::Ip4Source, &own.octets());
        one_by_all(network, rules);
        through_host(network, vec![ip(), own.clone()], rules);
        rules.push(accept("IPv4", vec![ip(), own]));
    }
    rules.push(deny("another's IPv4 address", vec![ip()]));
}

fn ipv6(card: &Attachment, network: &DeclaredNetwork, rules: &mut Vec<Rule>) {
    let ip = || Part::ether(ETHER_IP6);
    let Some(own) = card.ipv6 else {
        return rules.push(deny("IPv6 where it has none", vec![ip()]));
    };
    let icmp = |kind: u8| vec![ip(), Part::l4(ICMP6), Part::is(Field::Icmp6Type, &[kind])];
    rules.push(deny("answers as a router", icmp(ROUTER_ADVERTISEMENT)));
    rules.push(deny("redirects others", icmp(REDIRECT)));
    rules.push(deny("answers as a DHCPv6 server", vec![ip(), Part::l4(UDP), source(DHCP6_SERVER)]));
    let local = Test::Within(LINK_LOCAL[..2].to_vec(), LINK_LOCAL_BITS);
    for target in
        [Part::is(Field::NdTarget, &own.octets()), Part::Match(Field::NdTargetHead, local)]
    {
        let mut parts = icmp(NEIGHBOUR_ADVERTISEMENT);
        parts.push(target);
        // By whom is looked at below.
        parts.push(Part::Match(Field::Ip6Source, Test::Is(own.octets().to_vec())));
        rules.push(accept("says where it is", parts.clone()));
        parts.pop();
        let local = Test::Within(LINK_LOCAL.to_vec(), LINK_LOCAL_BITS);
        parts.push(Part::Match(Field::Ip6Source, local));
        rules.push(accept("says where it is", parts));
    }
    rules.push(deny("another's address by discovery", icmp(NEIGHBOUR_ADVERTISEMENT)));
    // RFC 4862, 5.4: whether an address is free is asked without one.
    let none = Part::is(Field::Ip6Source, &[0; 16]);
    rules.push(accept("asks for an address", vec![ip(), none, Part::l4(ICMP6)]));
    let local = Test::Within(LINK_LOCAL.to_vec(), LINK_LOCAL_BITS);
    rules.push(accept("IPv6 of the link", vec![ip(), Part::Match(Field::Ip6Source, local)]));
    let own = Part::is(Field::Ip6Source, &own.octets());
    // Who looks for a neighbour looks on the link.
    let mut asks = icmp(NEIGHBOUR_SOLICITATION);
    asks.insert(1, own.clone());
    rules.push(accept("asks where another is", asks));
    through_host(network, vec![ip(), own.clone()], rules);
    rules.push(accept("IPv6", vec![ip(), own]));
    rules.push(deny("another's IPv6 address", vec![ip()]));
}

/// What is for another VM goes by way of the host, whose table has the
/// policies and knows connections: not every kernel's bridge does
/// (CONFIG_NF_CONNTRACK_BRIDGE).
fn through_host(network: &DeclaredNetwork, mut parts: Vec<Part>, rules: &mut Vec<Rule>) {
    if network.spec.peers {
        parts.push(Part::is(Field::PacketType, &[OTHER_HOST]));
        parts.push(Part::HandToHost { bridge: bridge_mac(network.id) });
        rules.push(accept("to a peer by way of the host", parts));
    }
}

/// What a bridge hands to all comes by no policy, so it must not be for one.
/// IPv6 in such frames is dropped where there are policies; see [`between`].
fn one_by_all(network: &DeclaredNetwork, rules: &mut Vec<Rule>) {
    let Some(net) = network.spec.ipv4.filter(|_| network.spec.peers) else { return };
    for kind in [BROADCAST, MULTICAST] {
        let mut parts = vec![Part::ether(ETHER_IP), Part::is(Field::PacketType, &[kind])];
        parts.extend(Part::within(Field::Ip4Target, net.into()));
        parts.push(Part::not(Field::Ip4Target, &net.broadcast().octets()));
        rules.push(deny("for one in a frame for all", parts));
    }
}

fn source(port: u16) -> Part {
    Part::is(Field::UdpSource, &port.to_be_bytes())
}

fn deny(label: &str, mut parts: Vec<Part>) -> Rule {
    parts.extend([Part::Counter, Part::Do(Verdict::Drop)]);
    Rule::new(label, parts)
}

fn accept(label: &str, mut parts: Vec<Part>) -> Rule {
    parts.push(Part::Do(Verdict::Accept));
    Rule::new(label, parts)
}
