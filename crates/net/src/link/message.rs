//! Rtnetlink's messages, both ways (rtnetlink(7), linux/if_link.h,
//! linux/neighbour.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use inn_netlink::route::{parse_ip, with_ip};
use inn_netlink::{Payload, attributes, text, word};

use super::observed::{Address, Link, Neighbour, Port, Route, Station};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
pub(super) const RTM_GETNEIGH: u16 = 30;

pub(super) const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
pub(super) const AF_BRIDGE: u8 = 7;
const AF_INET6: u16 = 10;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;
const SCOPE_LINK: u8 = 253;

const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTAX_MTU: u16 = 2;
/// linux/rtnetlink.h, `struct rtnexthop`: the index behind four bytes.
const NEXTHOP_INDEX: usize = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Never aged; of a bridge's, one that leads to a port.
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_MASTER: u8 = 4;

/// `struct ifinfomsg`; by its name, where the index is 0. `up` where the flag
/// is meant to change.
pub(super) fn link(name: &str, up: Option<bool>) -> Payload {
    let mut fixed = vec![AF_UNSPEC, 0, 0, 0];
    fixed.extend(0_u32.to_ne_bytes());
    fixed.extend((if up == Some(true) { IFF_UP } else { 0 }).to_ne_bytes());
    fixed.extend((if up.is_some() { IFF_UP } else { 0 }).to_ne_bytes());
    let mut payload = Payload::new(&fixed);
    payload.put_text(IFLA_IFNAME, name);
    payload
}

pub(super) fn new_bridge(name: &str, mac: [u8; 6]) -> Payload {
    let mut payload = link(name, None);
    payload.put(IFLA_ADDRESS, &mac);
    bridge_data(&mut payload);
    payload
}

pub(super) fn bridge_options(name: &str) -> Payload {
    let mut payload = link(name, None);
    bridge_data(&mut payload);
    payload
}

/// A loop of VMs' cards can't be. Multicast goes to every port: with nobody
/// who asks for members, a snooping bridge forgets them.
fn bridge_data(payload: &mut Payload) {
    payload.nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.put_u32(IFLA_BR_STP_STATE, 0).put_u8(IFLA_BR_MCAST_SNOOPING, 0);
        });
    });
}

pub(super) fn with_alias(name: &str, alias: &str) -> Payload {
    let mut payload = link(name, None);
    payload.put(IFLA_IFALIAS, alias.as_bytes());
    payload
}

pub(super) fn with_mac(name: &str, mac: [u8; 6]) -> Payload {
    let mut payload = link(name, None);
    payload.put(IFLA_ADDRESS, &mac);
    payload
}

pub(super) fn with_mtu(name: &str, mtu: u16) -> Payload {
    let mut payload = link(name, None);
    payload.put_u32(IFLA_MTU, mtu.into());
    payload
}

/// A tap as a bridge's port: the host itself has no address on it, not even
/// the link's own.
pub(super) fn enslaved(name: &str, master: u32, mtu: u16, alias: &str) -> Payload {
    let mut payload = link(name, None);
    payload.put_u32(IFLA_MTU, mtu.into()).put(IFLA_IFALIAS, alias.as_bytes());
    payload.nest(IFLA_AF_SPEC, |families| {
        families.nest(AF_INET6, |six| {
            six.put_u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
        });
    });
    payload.put_u32(IFLA_MASTER, master);
    payload
}

pub(super) fn port(name: &str, port: Port) -> Payload {
    let mut payload = link(name, None);
    payload.nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.put_u8(IFLA_BRPORT_ISOLATED, port.isolated.into())
                .put_u8(IFLA_BRPORT_LEARNING, port.learning.into())
                .put_u8(IFLA_BRPORT_UNICAST_FLOOD, port.flood.into());
        });
    });
    payload
}

/// Nobody else can have it: it is at once there, without asking around.
pub(super) fn address(link: u32, ip: IpAddr, prefix: u8) -> Payload {
    let mut fixed = vec![family(ip), prefix, IFA_F_NODAD, 0];
    fixed.extend(link.to_ne_bytes());
    let mut payload = Payload::new(&fixed);
    with_ip(ip, |bytes| {
        payload.put(IFA_LOCAL, bytes).put(IFA_ADDRESS, bytes);
    });
    if let IpAddr::V4(ip) = ip {
        let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(ip.to_bits() | host);
        payload.put(IFA_BROADCAST, &broadcast.octets());
    }
    payload
}

pub(super) fn neighbour(link: u32, ip: IpAddr, mac: &[u8]) -> Payload {
    let mut payload = Payload::new(&ndmsg(family(ip), link, NUD_PERMANENT, 0));
    with_ip(ip, |bytes| {
        payload.put(NDA_DST, bytes);
    });
    payload.put(NDA_LLADDR, mac);
    payload
}

pub(super) fn station(link: u32, mac: &[u8]) -> Payload {
    let mut payload = Payload::new(&ndmsg(AF_BRIDGE, link, NUD_NOARP, NTF_MASTER));
    payload.put(NDA_LLADDR, mac);
    payload
}

/// `struct ndmsg`.
pub(super) fn ndmsg(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { 10 }
}

pub(super) fn parse_link(message: &[u8]) -> Option<Link> {
    let flags = word(message.get(8..)?)?;
    let mut link = Link {
        index: word(message.get(4..)?)?,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, content) in attributes(message.get(16..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = content.to_vec(),
            IFLA_IFNAME => link.name = text(content),
            IFLA_IFALIAS => link.alias = text(content),
            IFLA_MTU => link.mtu = word(content)?,
            IFLA_MASTER => link.master = word(content),
            IFLA_LINKINFO => parse_info(&mut link, content),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(link: &mut Link, info: &[u8]) {
    let find = |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, c)| c);
    let byte = |data, wanted| {
        let mut of = attributes(data);
        of.find(|(kind, _)| *kind == wanted).and_then(|(_, c)| c.first()).is_some_and(|b| *b != 0)
    };
    link.kind = find(IFLA_INFO_KIND).map(text);
    if link.is_bridge()
        && let Some(data) = find(IFLA_INFO_DATA)
    {
        // The protocol's state is a number of four bytes, 0 to 2.
        let stp = attributes(data).find(|(kind, _)| *kind == IFLA_BR_STP_STATE);
        let stp = stp.and_then(|(_, content)| word(content)).unwrap_or_default() != 0;
        link.bridge = Some((stp, byte(data, IFLA_BR_MCAST_SNOOPING)));
    }
    if find(IFLA_INFO_SLAVE_KIND).map(text).as_deref() == Some("bridge")
        && let Some(data) = find(IFLA_INFO_SLAVE_DATA)
    {
        link.port = Some(Port {
            isolated: byte(data, IFLA_BRPORT_ISOLATED),
            learning: byte(data, IFLA_BRPORT_LEARNING),
            flood: byte(data, IFLA_BRPORT_UNICAST_FLOOD),
        });
    }
}

pub(super) fn parse_address(message: &[u8]) -> Option<Address> {
    let [_, prefix, _, scope] = *message.first_chunk()?;
    let link = word(message.get(4..)?)?;
    let mut ip = None;
    for (kind, content) in attributes(message.get(8..)?) {
        // Of a point-to-point link IFA_ADDRESS is the other end's.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && ip.is_none()) {
            ip = parse_ip(content);
        }
    }
    let ip = ip?;
    Some(Address { link, ip, prefix, automatic: scope == SCOPE_LINK && ip.is_ipv6() })
}

pub(super) fn parse_route(message: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, table, _, _, kind] = *message.first_chunk()?;
    if table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let any: IpAddr = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut route = Route { link: None, to: any, prefix, metric: 0, mtu: None };
    for (kind, content) in attributes(message.get(12..)?) {
        match kind {
            RTA_OIF => route.link = word(content),
            RTA_DST => route.to = parse_ip(content)?,
            RTA_PRIORITY => route.metric = word(content)?,
            // The first of several ways is as good as any.
            RTA_MULTIPATH => route.link = word(content.get(NEXTHOP_INDEX..)?),
            RTA_METRICS => {
                let mut metrics = attributes(content);
                let mtu = metrics.find(|(kind, _)| *kind == RTAX_MTU);
                route.mtu = mtu.and_then(|(_, content)| word(content));
            }
            _ => {}
        }
    }
    Some(route)
}

/// Those that somebody wrote down.
pub(super) fn parse_neighbour(message: &[u8]) -> Option<Neighbour> {
    (state(message)? & NUD_PERMANENT != 0).then_some(())?;
    known(message)
}

/// Of those that the kernel has found out, too.
pub(super) fn known(message: &[u8]) -> Option<Neighbour> {
    let link = word(message.get(4..)?)?;
    let (mut ip, mut mac) = (None, None);
    for (kind, content) in attributes(message.get(12..)?) {
        match kind {
            NDA_DST => ip = parse_ip(content),
            NDA_LLADDR => mac = Some(content.to_vec()),
            _ => {}
        }
    }
    Some(Neighbour { link, ip: ip?, mac: mac? })
}

/// Those that lead to a port for good, and are not the port's own address.
pub(super) fn parse_station(message: &[u8]) -> Option<Station> {
    (state(message)? & NUD_NOARP != 0).then_some(())?;
    let link = word(message.get(4..)?)?;
    let mac = attributes(message.get(12..)?).find(|(kind, _)| *kind == NDA_LLADDR)?.1.to_vec();
    Some(Station { link, mac })
}

fn state(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*message.get(8..)?.first_chunk()?))
}
