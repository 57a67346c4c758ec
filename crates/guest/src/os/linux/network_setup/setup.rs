//! A setup that was checked: addresses are addresses, interfaces are there.

use std::net::IpAddr;

use inn_guest_proto::wire::{self, InterfaceSetup, NetworkSetup};
use inn_netlink::route::{Link, parse_ip};

use crate::refusal::Refusal;

/// More is no machine's.
const MAX_CARDS: usize = 32;
const MAX_EACH: usize = 64;

/// resolv.conf(5) reads three servers and some names; the rest is passed on.
const MAX_DNS: usize = 16;

/// The smallest that IPv4 allows (RFC 791).
const MIN_MTU: u32 = 68;
const MAX_MTU: u32 = 65_535;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) cards: Vec<Card>,
    pub(super) dns: Vec<IpAddr>,
    pub(super) search: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Card {
    /// The kernel's, whatever it was asked for by.
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) dhcp4: bool,
    pub(super) dhcp6: bool,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    pub(super) routes: Vec<Way>,
    pub(super) mtu: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// `None` is everywhere.
    pub(super) to: Option<(IpAddr, u8)>,
    pub(super) via: IpAddr,
    pub(super) metric: Option<u32>,
}

impl Way {
    /// Every version of every tool takes this form.
    pub(super) fn destination(&self) -> String {
        match (self.to, self.via) {
            (Some((ip, prefix)), _) => format!("{ip}/{prefix}"),
            (None, IpAddr::V4(_)) => "0.0.0.0/0".into(),
            (None, IpAddr::V6(_)) => "::/0".into(),
        }
    }
}

impl Setup {
    pub(super) fn new(wanted: &NetworkSetup, links: &[Link]) -> Result<Self, Refusal> {
        if wanted.interfaces.is_empty() || wanted.interfaces.len() > MAX_CARDS {
            let what = format!("apply a network setup of other than 1 to {MAX_CARDS} interfaces");
            return Err(Refusal::invalid(what));
        }
        if wanted.dns.len() > MAX_DNS || wanted.search.len() > MAX_DNS {
            return Err(Refusal::invalid("apply a network setup with so many name servers"));
        }
        let cards: Vec<Card> = wanted
            .interfaces
            .iter()
            .map(|card| Card::new(card, links))
            .collect::<Result<_, _>>()?;
        for (at, card) in cards.iter().enumerate() {
            if cards[..at].iter().any(|other| other.index == card.index) {
                let what = format!("apply a network setup that has {} twice", card.name);
                return Err(Refusal::invalid(what));
            }
        }
        let dns = wanted.dns.iter().map(|ip| address(ip)).collect::<Result<_, _>>()?;
        let is_name = |name: &String| {
            let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            !name.is_empty() && name.len() <= 255 && name.chars().all(letter)
        };
        if !wanted.search.iter().all(is_name) {
            return Err(Refusal::invalid("search names in a domain that is none"));
        }
        Ok(Self { cards, dns, search: wanted.search.clone() })
    }

    pub(super) fn resolv_conf(&self) -> String {
        let mut text = String::new();
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        text.extend(self.dns.iter().map(|ip| format!("nameserver {ip}\n")));
        text
    }
}

impl Card {
    fn new(wanted: &InterfaceSetup, links: &[Link]) -> Result<Self, Refusal> {
        let matches = |link: &&Link| {
            if wanted.mac.is_empty() { link.name == wanted.name } else { link.mac == wanted.mac }
        };
        let Some(link) = links.iter().find(matches) else {
            let mac: Vec<String> = wanted.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let name: String = wanted.name.chars().take(32).collect();
            let which = if mac.is_empty() { name } else { mac.join(":") };
            return Err(Refusal::not_found(format!("find the network interface {which}")));
        };
        // The name becomes a word of configuration files.
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '@');
        if link.loopback || !link.name.chars().all(letter) {
            return Err(Refusal::invalid(format!("set up the interface {}", link.name)));
        }
        if wanted.mtu != 0 && !(MIN_MTU..=MAX_MTU).contains(&wanted.mtu) {
            return Err(Refusal::invalid(format!("use an MTU of {}", wanted.mtu)));
        }
        if wanted.addresses.len() > MAX_EACH || wanted.routes.len() > MAX_EACH {
            return Err(Refusal::invalid("give an interface so many addresses or routes"));
        }
        let addresses = wanted.addresses.iter().map(network).collect::<Result<_, _>>()?;
        let routes = wanted.routes.iter().map(way).collect::<Result<_, _>>()?;
        Ok(Self {
            name: link.name.clone(),
            index: link.index,
            dhcp4: wanted.dhcp4,
            dhcp6: wanted.dhcp6,
            addresses,
            routes,
            mtu: (wanted.mtu != 0).then_some(wanted.mtu),
        })
    }
}

fn way(wanted: &wire::Route) -> Result<Way, Refusal> {
    let via = address(&wanted.via)?;
    let to = wanted.to.as_ref().map(network).transpose()?;
    if to.is_some_and(|(ip, _)| ip.is_ipv4() != via.is_ipv4()) {
        return Err(Refusal::invalid("take a route from one family of addresses to the other"));
    }
    Ok(Way { to, via, metric: (wanted.metric != 0).then_some(wanted.metric) })
}

fn network(wanted: &wire::Address) -> Result<(IpAddr, u8), Refusal> {
    let ip = address(&wanted.ip)?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    match u8::try_from(wanted.prefix) {
        Ok(prefix) if prefix <= longest => Ok((ip, prefix)),
        _ => Err(Refusal::invalid(format!("use {ip}/{}", wanted.prefix))),
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Refusal> {
    parse_ip(bytes).ok_or_else(|| Refusal::invalid("use an address of neither 4 nor 16 bytes"))
}
