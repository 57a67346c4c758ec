//! The kernel's network configuration by rtnetlink(7): links, addresses and
//! routes of both families, which ioctls cannot do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::{CREATE, Error, Payload, Protocol, REPLACE, Socket, attributes, text, word};

/// linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_STATIC: u8 = 4;
const RTPROT_RA: u8 = 9;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;

/// linux/if_link.h and linux/if_addr.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_STATS64: u16 = 23;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// linux/if_addr.h
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// The scope of an address that the kernel makes by itself.
const SCOPE_LINK: u8 = 253;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Vec<u8>,
    pub up: bool,
    pub loopback: bool,
    pub mtu: u32,
    /// linux/if_link.h, `struct rtnl_link_stats64`: packets in and out, bytes
    /// in and out, errors in and out, dropped in and out.
    pub counters: [u64; 8],
}

/// An address or a route, and what the kernel needs to make it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub link: u32,
    pub ip: Option<IpAddr>,
    pub prefix: u8,
    /// Made by the kernel itself, and gone with its reason.
    pub automatic: bool,
    payload: Vec<u8>,
}

impl Held {
    /// One that no kernel told of: for plans, in tests.
    pub fn new(link: u32, ip: Option<IpAddr>, prefix: u8, automatic: bool) -> Self {
        let mut payload = Payload::new(&[ip.map_or(0, family), prefix, 0, 0, 0, 0, 0, 0]);
        if let Some(ip) = ip {
            with_ip(ip, |bytes| {
                payload.put(IFA_ADDRESS, bytes);
            });
        }
        Self { link, ip, prefix, automatic, payload: payload.as_bytes().to_vec() }
    }

    /// An address like this one, for as long as it is good, to be used at once as
    /// [`Rtnetlink::add_own_address`] has it.
    pub fn moved_to(&self, ip: IpAddr) -> Self {
        let fixed = self.payload.get(..8).unwrap_or_default();
        let mut payload = Payload::new(fixed);
        for (kind, content) in attributes(self.payload.get(8..).unwrap_or_default()) {
            match kind {
                IFA_ADDRESS | IFA_LOCAL => with_ip(ip, |bytes| {
                    payload.put(kind, bytes);
                }),
                IFA_FLAGS => {
                    let flags = word(content).unwrap_or_default() | u32::from(IFA_F_NODAD);
                    payload.put_u32(kind, flags);
                }
                _ => {
                    payload.put(kind, content);
                }
            }
        }
        let mut payload = payload.as_bytes().to_vec();
        if let Some(flags) = payload.get_mut(2) {
            *flags |= IFA_F_NODAD;
        }
        Self { ip: Some(ip), payload, ..self.clone() }
    }

    pub fn is_ipv4(&self) -> bool {
        self.payload.first() == Some(&AF_INET)
    }
}

#[derive(Debug)]
pub struct Rtnetlink {
    socket: Socket,
}

impl Rtnetlink {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let messages = self.socket.dump(RTM_GETLINK, RTM_NEWLINK, &[0; 16])?;
        Ok(messages.iter().filter_map(|message| parse_link(message)).collect())
    }

    /// The one of this name.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        let mut payload = Payload::new(&[0; 16]);
        payload.put_text(IFLA_IFNAME, name);
        let message = self.socket.ask(RTM_GETLINK, RTM_NEWLINK, payload.as_bytes())?;
        parse_link(&message).ok_or_else(|| Errno::NODEV.into())
    }

    pub fn addresses(&mut self) -> Result<Vec<Held>, Error> {
        let messages = self.socket.dump(RTM_GETADDR, RTM_NEWADDR, &[0; 8])?;
        Ok(messages.into_iter().filter_map(parse_address).collect())
    }

    /// Of the main table.
    pub fn routes(&mut self) -> Result<Vec<Held>, Error> {
        let messages = self.socket.dump(RTM_GETROUTE, RTM_NEWROUTE, &[0; 12])?;
        Ok(messages.into_iter().filter_map(parse_route).collect())
    }

    pub fn set_link(&mut self, index: u32, up: bool, mtu: Option<u32>) -> Result<(), Error> {
        let mut fixed = vec![0; 4];
        fixed.extend(index.to_ne_bytes());
        fixed.extend((if up { IFF_UP } else { 0 }).to_ne_bytes());
        // Which of the flags are meant.
        fixed.extend(IFF_UP.to_ne_bytes());
        let mut payload = Payload::new(&fixed);
        if let Some(mtu) = mtu {
            payload.put_u32(IFLA_MTU, mtu);
        }
        self.socket.order(RTM_SETLINK, 0, payload.as_bytes())
    }

    /// EBUSY where its driver takes one only while the link is down.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), Error> {
        let mut fixed = vec![0; 4];
        fixed.extend(index.to_ne_bytes());
        fixed.extend([0; 8]);
        let mut payload = Payload::new(&fixed);
        payload.put(IFLA_ADDRESS, &mac);
        self.socket.order(RTM_SETLINK, 0, payload.as_bytes())
    }

    pub fn add_address(&mut self, link: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        self.add(link, (ip, prefix), 0)
    }

    /// Of one that whoever gave it has given to nobody else: it can be used at
    /// once. For any other IPv6 address the kernel asks first, for a second or
    /// two (RFC 4862, 5.4).
    pub fn add_own_address(&mut self, link: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        self.add(link, (ip, prefix), IFA_F_NODAD)
    }

    fn add(&mut self, link: u32, (ip, prefix): (IpAddr, u8), flags: u8) -> Result<(), Error> {
        let mut fixed = vec![family(ip), prefix, flags, 0];
        fixed.extend(link.to_ne_bytes());
        let mut payload = Payload::new(&fixed);
        with_ip(ip, |bytes| {
            payload.put(IFA_LOCAL, bytes).put(IFA_ADDRESS, bytes);
        });
        self.socket.order(RTM_NEWADDR, CREATE | REPLACE, payload.as_bytes())
    }

    pub fn add_route(
        &mut self,
        link: u32,
        to: Option<(IpAddr, u8)>,
        via: Option<IpAddr>,
        metric: u32,
    ) -> Result<(), Error> {
        let family_of = via.or(to.map(|(ip, _)| ip)).map_or(AF_INET, family);
        let length = to.map_or(0, |(_, prefix)| prefix);
        // Scope 0 is the universe; a route without a gateway has the link's.
        let scope = if via.is_some() || family_of == AF_INET6 { 0 } else { SCOPE_LINK };
        let mut fixed = vec![family_of, length, 0, 0];
        fixed.extend([RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]);
        let mut payload = Payload::new(&fixed);
        if let Some((ip, _)) = to {
            with_ip(ip, |bytes| {
                payload.put(RTA_DST, bytes);
            });
        }
        if let Some(ip) = via {
            with_ip(ip, |bytes| {
                payload.put(RTA_GATEWAY, bytes);
            });
        }
        payload.put_u32(RTA_OIF, link);
        if metric != 0 {
            payload.put_u32(RTA_PRIORITY, metric);
        }
        self.socket.order(RTM_NEWROUTE, CREATE | REPLACE, payload.as_bytes())
    }

    pub fn remove_address(&mut self, held: &Held) -> Result<(), Error> {
        self.socket.order(RTM_DELADDR, 0, &held.payload)
    }

    pub fn remove_route(&mut self, held: &Held) -> Result<(), Error> {
        self.socket.order(RTM_DELROUTE, 0, &held.payload)
    }

    pub fn restore_address(&mut self, held: &Held) -> Result<(), Error> {
        self.socket.order(RTM_NEWADDR, CREATE | REPLACE, &held.payload)
    }

    pub fn restore_route(&mut self, held: &Held) -> Result<(), Error> {
        self.socket.order(RTM_NEWROUTE, CREATE | REPLACE, &held.payload)
    }
}

/// The link of a message that tells of a link's end, with its last counters.
pub fn removed_link(kind: u16, message: &[u8]) -> Option<Link> {
    if kind == RTM_DELLINK { parse_link(message) } else { None }
}

fn parse_link(message: &[u8]) -> Option<Link> {
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
            IFLA_MTU => link.mtu = word(content)?,
            IFLA_STATS64 => {
                for (counter, bytes) in link.counters.iter_mut().zip(content.chunks_exact(8)) {
                    let bytes: [u8; 8] = bytes.try_into().ok()?;
                    *counter = u64::from_ne_bytes(bytes);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(message: Vec<u8>) -> Option<Held> {
    let [_, prefix, _, scope] = *message.first_chunk()?;
    let link = word(message.get(4..)?)?;
    let mut ip = None;
    for (kind, content) in attributes(message.get(8..)?) {
        // Of a point-to-point link IFA_ADDRESS is the other end's.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && ip.is_none()) {
            ip = parse_ip(content);
        }
    }
    let ip = Some(ip?);
    let automatic = scope == SCOPE_LINK && matches!(ip, Some(IpAddr::V6(_)));
    Some(Held { link, ip, prefix, automatic, payload: message })
}

fn parse_route(message: Vec<u8>) -> Option<Held> {
    let [_, prefix, _, _, table, protocol, _, kind] = *message.first_chunk()?;
    if table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let (mut link, mut ip) = (None, None);
    for (kind, content) in attributes(message.get(12..)?) {
        match kind {
            RTA_OIF => link = word(content),
            RTA_DST => ip = parse_ip(content),
            _ => {}
        }
    }
    let automatic = matches!(protocol, RTPROT_KERNEL | RTPROT_RA);
    Some(Held { link: link?, ip, prefix, automatic, payload: message })
}

pub fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

pub fn with_ip<T>(ip: IpAddr, act: impl FnOnce(&[u8]) -> T) -> T {
    match ip {
        IpAddr::V4(ip) => act(&ip.octets()),
        IpAddr::V6(ip) => act(&ip.octets()),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback() {
        let mut netlink = Rtnetlink::open().unwrap();
        let links = netlink.links().unwrap();
        let lo = links.iter().find(|link| link.loopback).expect("every machine has one");
        assert_eq!(lo.name, "lo");
        assert_eq!(netlink.link("lo").unwrap().index, lo.index);
        assert!(netlink.link("none-such").is_err_and(|error| error.is(Errno::NODEV)));
        for held in netlink.addresses().unwrap() {
            assert!(links.iter().any(|link| link.index == held.link), "{held:?}");
        }
        for held in netlink.routes().unwrap() {
            assert!(links.iter().any(|link| link.index == held.link), "{held:?}");
        }
    }

    #[test]
    fn an_address_is_moved_with_its_lifetime() {
        let old: IpAddr = "fec0::2".parse().unwrap();
        let new: IpAddr = "fec0::3".parse().unwrap();
        let told = |flags: u8, ip: IpAddr| {
            let mut payload = Payload::new(&[AF_INET6, 64, flags, 0, 1, 0, 0, 0]);
            with_ip(ip, |bytes| {
                payload.put(IFA_ADDRESS, bytes);
            });
            payload.put(6, &[7; 16]).put_u32(IFA_FLAGS, 0x300 | u32::from(flags));
            parse_address(payload.as_bytes().to_vec()).unwrap()
        };
        assert_eq!(told(0, old).moved_to(new), told(IFA_F_NODAD, new));
        assert_eq!(Held::new(1, Some(old), 64, false).moved_to(new).ip, Some(new));
    }

    #[test]
    fn a_refusal_has_the_kernels_number() {
        let mut netlink = Rtnetlink::open().unwrap();
        let error = netlink.set_link(0x7FFF_FFFF, true, None).unwrap_err();
        assert!(error.is(Errno::PERM) || error.is(Errno::NODEV), "{error}");
        // The socket goes on.
        assert!(!netlink.links().unwrap().is_empty());
    }
}
