//! Another MAC and other addresses for the only card of a machine that goes on
//! from a saved one.
//!
//! Its link stays up where the driver allows that (virtio_net does): to take it
//! down and up again waits for each CPU twice, and under an emulated one for
//! tens of milliseconds. What the kernel would have done by itself is then ours
//! to do: the addresses that it made of the old MAC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use inn_guest_proto::wire::Network;
use inn_netlink::route::{Held, Link, Rtnetlink};
use rustix::io::Errno;

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
}

/// `Some` is what could not be done beside it.
pub(super) fn take(
    dir: &Path,
    mac: &[u8],
    wanted: Option<&Network>,
) -> Result<Option<Refusal>, Refusal> {
    let mac: Option<[u8; 6]> = match mac.len() {
        0 => None,
        _ => Some(mac.try_into().map_err(|_| Refusal::invalid("take a MAC that is none"))?),
    };
    let Card { mut netlink, link, kept } = card(mac)?;
    let card = &link.name;
    let mac = mac.filter(|mac| link.mac != mac);
    let stayed_up = match mac {
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

    let mut local = None;
    if let (Some(mac), true) = (mac, stayed_up) {
        match own_link_local(&held, &link.mac, mac) {
            Local::None => {}
            Local::Replace(own) => local = Some(own),
            // By a secret that the machine shares with its siblings, or by hand:
            // who made it shall make it again.
            Local::Kernels => {
                netlink
                    .set_link(link.index, false, None)
                    .or_refuse(|| format!("take down {card}"))?;
                up(&mut netlink)?;
            }
        }
    }
    let asked = wanted.map(Asked::new).transpose()?;
    let plan = plan(&held, asked.as_ref(), local);
    for old in plan.remove {
        match netlink.remove_address(old) {
            // The kernel was faster: one that it made itself, or another's second.
            Err(error) if error.is(Errno::ADDRNOTAVAIL) => {}
            removed => {
                removed.or_refuse(|| format!("take the old addresses off {card}"))?;
            }
        }
    }
    let mut trouble = None;
    for (ip, prefix) in plan.add {
        let added = netlink.add_own_address(link.index, ip, prefix);
        let added = added.or_refuse(|| format!("give {card} the address {ip}/{prefix}"));
        // A kernel may have no IPv6, and the machine that was saved had none.
        note(&mut trouble, ip.is_ipv4(), added)?;
    }
    if let Some(asked) = asked {
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
    let link = Link { mac, up: true, ..link };
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some((netlink, link));
    Ok(trouble)
}

/// The only card, and the way to it.
struct Card {
    netlink: Rtnetlink,
    link: Link,
    /// As it was when it was last looked at.
    kept: bool,
}

/// Of the last time. A machine that went on from one which had it spares itself
/// the search: half of what all the rest takes, with an emulated CPU whose code
/// is all to be translated yet. Whoever saves a machine may have it looked for
/// before, by a resume with the card's own MAC.
static KEPT: Mutex<Option<(Rtnetlink, Link)>> = Mutex::new(None);

/// What is kept is good enough for a card that is to get another MAC: what
/// somebody has changed since is not relied upon.
fn card(mac: Option<[u8; 6]>) -> Result<Card, Refusal> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some((mut netlink, link)), Some(mac)) = (kept, mac) {
        if link.mac != mac {
            return Ok(Card { netlink, link, kept: true });
        }
        // Which one it is stays so; what has become of it the kernel says.
        let now = netlink.links().ok().and_then(|links| {
            links.into_iter().find(|now| (now.index, &now.name) == (link.index, &link.name))
        });
        if let Some(link) = now {
            return Ok(Card { netlink, link, kept: false });
        }
    }
    let card = network::first_card().ok_or_else(|| Refusal::not_found("find a network card"))?;
    let mut netlink = Rtnetlink::open().or_refuse(|| "open a netlink socket".into())?;
    let links = netlink.links().or_refuse(|| "list its interfaces".into())?;
    let link = links.into_iter().find(|link| link.name == card);
    let link = link.ok_or_else(|| Refusal::not_found(format!("find {card}")))?;
    Ok(Card { netlink, link, kept: false })
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

/// What becomes of the link-local address of a link that stays up.
#[derive(Debug, PartialEq, Eq)]
enum Local {
    None,
    /// The kernel made it of the old MAC.
    Replace(Ipv6Addr),
    Kernels,
}

fn own_link_local(held: &[Held], old: &[u8], new: [u8; 6]) -> Local {
    let old: Option<[u8; 6]> = old.try_into().ok();
    let old = old.map(|old| IpAddr::V6(eui64(old)));
    let mut locals = held.iter().filter(|held| held.automatic).peekable();
    if locals.peek().is_none() {
        Local::None
    } else if locals.all(|held| held.ip == old) {
        Local::Replace(eui64(new))
    } else {
        Local::Kernels
    }
}

/// RFC 4291, appendix A: how a link-local address is made of a MAC.
fn eui64([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f].into()
}

/// What is right already stays. Old ones go first: one that is added beside
/// another of its network would be that one's second, and go with it.
fn plan<'a>(held: &'a [Held], asked: Option<&Asked>, local: Option<Ipv6Addr>) -> Plan<'a> {
    let mut add = asked.map_or_else(Vec::new, |asked| asked.addresses.clone());
    let mut remove = Vec::new();
    for held in held {
        let there = held.ip.map(|ip| (ip, held.prefix));
        if let Some(at) = add.iter().position(|wanted| Some(*wanted) == there) {
            add.remove(at);
        } else if (held.automatic && local.is_some()) || (!held.automatic && asked.is_some()) {
            remove.push(held);
        }
    }
    add.extend(local.map(|ip| (IpAddr::V6(ip), LINK_LOCAL_PREFIX)));
    Plan { remove, add }
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
