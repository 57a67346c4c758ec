//! Another MAC and other addresses for the only card of a machine that goes on
//! from a saved one.
//!
//! Its link stays up where the driver allows that (virtio_net does): to take it
//! down and up again waits for each CPU twice, and under an emulated one for
//! tens of milliseconds. What the kernel would have done by itself is then ours
//! to do: the addresses that it made of the old MAC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use inn_guest_proto::wire::Network;
use inn_netlink::route::{Held, Link, Rtnetlink};
use rustix::io::Errno;

use super::readdress::Words;
use super::{etc, identity, network};
use crate::refusal::{OrRefuse, Refusal};

/// Of all link-local addresses (RFC 4291, 2.5.6).
const LINK_LOCAL_PREFIX: u8 = 64;

type Address = (IpAddr, u8);

/// What is to be taken off a card and given to it.
#[derive(Debug, PartialEq, Eq)]
struct Plan<'a> {
    remove: Vec<&'a Held>,
    add: Vec<Address>,
    /// Made of the new MAC as others, which are removed, were of the old one.
    moved: Vec<Held>,
    /// It has nothing but what it is asked to have, whatever its MAC.
    as_asked: bool,
}

/// What a card was taken from its old machine.
#[derive(Debug)]
pub(super) struct Taken {
    /// What could not be done beside it.
    pub(super) but: Option<Refusal>,
    /// What it had, and what it has in place of that.
    pub(super) words: Words,
}

pub(super) fn take(dir: &Path, mac: &[u8], wanted: Option<&Network>) -> Result<Taken, Refusal> {
    let mac: Option<[u8; 6]> = match mac.len() {
        0 => None,
        _ => Some(mac.try_into().map_err(|_| Refusal::invalid("take a MAC that is none"))?),
    };
    let Card { mut netlink, link, kept, had } = card(mac)?;
    let card = &link.name;
    let mac = mac.filter(|mac| link.mac != mac);
    let mut stayed_up = match mac {
        None => link.up,
        Some(mac) => {
            set_mac(&mut netlink, &link, mac).or_refuse(|| format!("give {card} another MAC"))?
        }
    };
    let up = |netlink: &mut Rtnetlink| {
        netlink.set_link(link.index, true, None).or_refuse(|| format!("bring up {card}"))
    };
    if !stayed_up || kept {
        up(&mut netlink)?;
    }
    let held = netlink.addresses().or_refuse(|| "list its addresses".into())?;
    let held: Vec<Held> = held.into_iter().filter(|held| held.link == link.index).collect();

    let mut moves = None;
    if let (Some(mac), true) = (mac, stayed_up) {
        match own_link_local(&held, &link.mac, mac) {
            Local::None => {}
            Local::Moves(there) => moves = Some(there),
            // By a secret that the machine shares with its siblings, or by hand:
            // who made it shall make it again.
            Local::Kernels => {
                netlink
                    .set_link(link.index, false, None)
                    .or_refuse(|| format!("take down {card}"))?;
                up(&mut netlink)?;
                stayed_up = false;
            }
        }
    }
    let asked = wanted.map(Asked::new).transpose()?;
    let plan = plan(&held, asked.as_ref(), moves);
    let words = words(&link, mac, &plan, asked.as_ref());
    let mut trouble = None;
    let mut add = |netlink: &mut Rtnetlink, (ip, prefix): Address| {
        let added = netlink.add_own_address(link.index, ip, prefix);
        let added = added.or_refuse(|| format!("give {card} the address {ip}/{prefix}"));
        // A kernel may have no IPv6, and the machine that was saved had none.
        note(&mut trouble, ip.is_ipv4(), added)
    };
    // IPv6 first: a link that has no address of its own for a moment forgets its
    // network's routes, and asks for routers anew.
    for address in plan.add.iter().filter(|(ip, _)| ip.is_ipv6()) {
        add(&mut netlink, *address)?;
    }
    for moved in &plan.moved {
        // Its router tells again what it is to have.
        let _gone_meanwhile = netlink.restore_address(moved);
    }
    for old in &plan.remove {
        match netlink.remove_address(old) {
            // The kernel was faster: one that it made itself, or another's second.
            Err(error) if error.is(Errno::ADDRNOTAVAIL) => {}
            removed => {
                removed.or_refuse(|| format!("take the old addresses off {card}"))?;
            }
        }
    }
    for address in plan.add.iter().filter(|(ip, _)| ip.is_ipv4()) {
        add(&mut netlink, *address)?;
    }
    // What was done for these addresses once, and is gone, somebody took away.
    if let Some(asked) = asked
        && !(plan.as_asked && stayed_up && had.as_ref() == wanted)
    {
        for (ipv4, gateway) in [(true, asked.gateway), (false, asked.gateway6)] {
            let Some(gateway) = gateway else {
                forget_gateways(&mut netlink, &link, ipv4)?;
                continue;
            };
            let added = netlink.add_route(link.index, None, Some(gateway), 0);
            let added = added.or_refuse(|| format!("take {gateway} as its gateway"));
            note(&mut trouble, ipv4, added)?;
        }
        note(&mut trouble, false, identity::write_resolvers(etc::overwrite, dir, &asked.dns))?;
    }
    let mac = mac.map_or_else(|| link.mac.clone(), |mac| mac.to_vec());
    let name = link.name.clone();
    let link = Link { mac, up: true, ..link };
    let has = wanted.cloned().or(had);
    *lock_kept() = Some(Kept { name, way: Some((netlink, link)), has });
    Ok(Taken { but: trouble, words })
}

/// An address that goes stood for the one of its family that is asked for, if there
/// is one of either.
fn words(link: &Link, mac: Option<[u8; 6]>, plan: &Plan<'_>, asked: Option<&Asked>) -> Words {
    let mut words = Words::default();
    if let Some(mac) = mac {
        words.mac(&link.mac, &mac);
    }
    for (new, _) in asked.iter().flat_map(|asked| &asked.addresses) {
        let of_family = |held: &&&Held| !held.automatic && held.is_ipv4() == new.is_ipv4();
        let mut old = plan.remove.iter().filter(of_family).filter_map(|held| held.ip);
        if let (Some(old), None) = (old.next(), old.next()) {
            words.address(old, *new);
        }
    }
    words
}

/// The only card, and the way to it.
struct Card {
    netlink: Rtnetlink,
    link: Link,
    /// As it was when it was last looked at.
    kept: bool,
    had: Option<Network>,
}

/// Of the last time. A machine that went on from one which had it spares itself
/// the search: half of what all the rest takes, with an emulated CPU whose code
/// is all to be translated yet. Whoever saves a machine may have it looked for
/// before, by a resume with the card's own MAC.
struct Kept {
    name: String,
    way: Option<(Rtnetlink, Link)>,
    /// What it was told to have.
    has: Option<Network>,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

fn lock_kept() -> MutexGuard<'static, Option<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The only card was found, and has this.
pub(super) fn has_taken(card: String, network: &Network) {
    *lock_kept() = Some(Kept { name: card, way: None, has: Some(network.clone()) });
}

/// What is kept is good enough for a card that is to get another MAC: what
/// somebody has changed since is not relied upon.
fn card(mac: Option<[u8; 6]>) -> Result<Card, Refusal> {
    let open = || Rtnetlink::open().or_refuse(|| "open a netlink socket".into());
    if let Some(Kept { name, way, has: had }) = lock_kept().take() {
        let (mut netlink, index) = match (way, mac) {
            (Some((netlink, link)), Some(mac)) if link.mac != mac => {
                return Ok(Card { netlink, link, kept: true, had });
            }
            (Some((netlink, link)), _) => (netlink, Some(link.index)),
            (None, _) => (open()?, None),
        };
        // Which one it is stays so; what has become of it the kernel says.
        if let Ok(link) = netlink.link(&name)
            && index.is_none_or(|index| index == link.index)
        {
            return Ok(Card { netlink, link, kept: false, had });
        }
    }
    let card = network::first_card().ok_or_else(|| Refusal::not_found("find a network card"))?;
    let mut netlink = open()?;
    let link = netlink.link(&card).or_refuse(|| format!("find {card}"))?;
    Ok(Card { netlink, link, kept: false, had: None })
}

fn note(
    trouble: &mut Option<Refusal>,
    needed: bool,
    done: Result<(), Refusal>,
) -> Result<(), Refusal> {
    match done {
        Err(refusal) if !needed => {
            trouble.get_or_insert(refusal);
            Ok(())
        }
        done => done,
    }
}

/// Whether the link is up, and was all the time.
fn set_mac(netlink: &mut Rtnetlink, link: &Link, mac: [u8; 6]) -> Result<bool, inn_netlink::Error> {
    match netlink.set_mac(link.index, mac) {
        // Its driver takes one only from a link that is down.
        Err(error) if error.is(Errno::BUSY) && link.up => {
            netlink.set_link(link.index, false, None)?;
            netlink.set_mac(link.index, mac)?;
            Ok(false)
        }
        set => set.map(|()| link.up),
    }
}

/// As they come; none are as good as zeros.
struct Asked {
    addresses: Vec<Address>,
    gateway: Option<IpAddr>,
    gateway6: Option<IpAddr>,
    dns: Vec<Ipv4Addr>,
}

impl Asked {
    fn new(wanted: &Network) -> Result<Self, Refusal> {
        let prefix = |prefix: u32| {
            u8::try_from(prefix).map_err(|_| Refusal::invalid("take a prefix that is none"))
        };
        let address = identity::parse_address(&wanted.address)?;
        let mut addresses = vec![(IpAddr::V4(address), prefix(wanted.prefix)?)];
        if !wanted.address6.is_empty() {
            let address = identity::parse_address6(&wanted.address6)?;
            addresses.push((address.into(), prefix(wanted.prefix6)?));
        }
        let gateway = match wanted.gateway.len() {
            0 => None,
            _ => Some(identity::parse_address(&wanted.gateway)?.into()),
        };
        let gateway6 = match wanted.gateway6.len() {
            0 => None,
            _ => Some(identity::parse_address6(&wanted.gateway6)?.into()),
        };
        let dns = wanted.dns.iter().map(|ip| identity::parse_address(ip));
        Ok(Self { addresses, gateway, gateway6, dns: dns.collect::<Result<_, _>>()? })
    }
}

/// What becomes of the addresses that a link which stays up has of its MAC.
#[derive(Debug, PartialEq, Eq)]
enum Local {
    None,
    /// The kernel made them of the old MAC.
    Moves(Moves),
    Kernels,
}

/// The link-local address of either MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moves {
    from: Ipv6Addr,
    to: Ipv6Addr,
}

impl Moves {
    /// What an address of the old MAC, in whichever network, becomes (RFC 4862,
    /// 5.5.3): its router need not be asked for it.
    fn moved(&self, held: &Held) -> Option<Held> {
        let Some(IpAddr::V6(ip)) = held.ip else { return None };
        let made = !held.automatic && held.prefix == LINK_LOCAL_PREFIX;
        let ([_, own], [_, from], [_, to]) = (halves(ip), halves(self.from), halves(self.to));
        let to = (u128::from(halves(ip)[0]) << 64) | u128::from(to);
        (made && own == from).then(|| held.moved_to(Ipv6Addr::from_bits(to).into()))
    }
}

/// Of its network, and its own in there.
fn halves(ip: Ipv6Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h] = ip.segments().map(u64::from);
    [(a << 48) | (b << 32) | (c << 16) | d, (e << 48) | (f << 32) | (g << 16) | h]
}

fn own_link_local(held: &[Held], old: &[u8], new: [u8; 6]) -> Local {
    let old: Option<[u8; 6]> = old.try_into().ok();
    let from = old.map(eui64);
    let locals: Vec<&Held> = held.iter().filter(|held| held.automatic).collect();
    match from {
        _ if locals.is_empty() => Local::None,
        Some(from) if locals.iter().all(|held| held.ip == Some(from.into())) => {
            Local::Moves(Moves { from, to: eui64(new) })
        }
        _ => Local::Kernels,
    }
}

/// RFC 4291, appendix A: how a link-local address is made of a MAC.
fn eui64([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f].into()
}

/// What is right already stays. Old ones of IPv4 go first: one that is added
/// beside another of its network would be that one's second, and go with it.
fn plan<'a>(held: &'a [Held], asked: Option<&Asked>, moves: Option<Moves>) -> Plan<'a> {
    let mut add = asked.map_or_else(Vec::new, |asked| asked.addresses.clone());
    let (mut remove, mut moved) = (Vec::new(), Vec::new());
    let mut as_asked = true;
    for held in held {
        let there = held.ip.map(|ip| (ip, held.prefix));
        if let Some(at) = add.iter().position(|wanted| Some(*wanted) == there) {
            add.remove(at);
        } else if let Some(there) = moves.and_then(|moves| moves.moved(held)) {
            moved.push(there);
            remove.push(held);
        } else if held.automatic && moves.is_some() {
            remove.push(held);
        } else if !held.automatic && asked.is_some() {
            as_asked = false;
            remove.push(held);
        }
    }
    as_asked &= add.is_empty();
    add.extend(moves.map(|moves| (IpAddr::V6(moves.to), LINK_LOCAL_PREFIX)));
    Plan { remove, add, moved, as_asked }
}

/// Of the machine that was saved, in one that has none; what a router has told
/// it goes by itself.
fn forget_gateways(netlink: &mut Rtnetlink, link: &Link, ipv4: bool) -> Result<(), Refusal> {
    let routes = netlink.routes().or_refuse(|| "list its routes".into())?;
    let default = |route: &&Held| {
        route.link == link.index && route.prefix == 0 && !route.automatic && route.is_ipv4() == ipv4
    };
    for route in routes.iter().filter(default) {
        netlink.remove_route(route).or_refuse(|| "forget its old gateway".into())?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "renumber_tests.rs"]
mod tests;
