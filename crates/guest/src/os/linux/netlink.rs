//! The kernel's network configuration by rtnetlink(7): links, addresses and
//! routes of both families, which ioctls cannot do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The kernel answers at once; this only keeps a fault from being for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel's parts of a dump are at most 32 KiB (net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;

/// linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const HEADER: usize = 16;

/// linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
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
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// The scope of an address that the kernel makes by itself.
const SCOPE_LINK: u8 = 253;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Vec<u8>,
    pub(super) up: bool,
    pub(super) loopback: bool,
    pub(super) mtu: u32,
    /// linux/if_link.h, `struct rtnl_link_stats64`: packets in and out, bytes
    /// in and out, errors in and out, dropped in and out.
    pub(super) counters: [u64; 8],
}

/// An address or a route, and what the kernel needs to make it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) link: u32,
    pub(super) ip: Option<IpAddr>,
    pub(super) prefix: u8,
    /// Made by the kernel itself, and gone with its reason.
    pub(super) automatic: bool,
    payload: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    pub(super) fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        // NETLINK_ROUTE is protocol 0.
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let messages = self.dump(RTM_GETLINK, RTM_NEWLINK, &[0; 16])?;
        Ok(messages.iter().filter_map(|message| parse_link(message)).collect())
    }

    pub(super) fn addresses(&mut self) -> io::Result<Vec<Held>> {
        let messages = self.dump(RTM_GETADDR, RTM_NEWADDR, &[0; 8])?;
        Ok(messages.into_iter().filter_map(parse_address).collect())
    }

    /// Of the main table.
    pub(super) fn routes(&mut self) -> io::Result<Vec<Held>> {
        let messages = self.dump(RTM_GETROUTE, RTM_NEWROUTE, &[0; 12])?;
        Ok(messages.into_iter().filter_map(parse_route).collect())
    }

    pub(super) fn set_link(&mut self, index: u32, up: bool, mtu: Option<u32>) -> io::Result<()> {
        let mut payload = vec![0; 4];
        payload.extend(index.to_ne_bytes());
        payload.extend((if up { IFF_UP } else { 0 }).to_ne_bytes());
        // Which of the flags are meant.
        payload.extend(IFF_UP.to_ne_bytes());
        if let Some(mtu) = mtu {
            attribute(&mut payload, IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.order(RTM_SETLINK, 0, &payload)
    }

    pub(super) fn add_address(&mut self, link: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let mut payload = vec![family(ip), prefix, 0, 0];
        payload.extend(link.to_ne_bytes());
        with_ip(ip, |bytes| {
            attribute(&mut payload, IFA_LOCAL, bytes);
            attribute(&mut payload, IFA_ADDRESS, bytes);
        });
        self.order(RTM_NEWADDR, CREATE | REPLACE, &payload)
    }

    pub(super) fn add_route(
        &mut self,
        link: u32,
        to: Option<(IpAddr, u8)>,
        via: Option<IpAddr>,
        metric: u32,
    ) -> io::Result<()> {
        let family_of = via.or(to.map(|(ip, _)| ip)).map_or(AF_INET, family);
        let length = to.map_or(0, |(_, prefix)| prefix);
        // Scope 0 is the universe; a route without a gateway has the link's.
        let scope = if via.is_some() || family_of == AF_INET6 { 0 } else { SCOPE_LINK };
        let mut payload = vec![family_of, length, 0, 0];
        payload.extend([RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]);
        if let Some((ip, _)) = to {
            with_ip(ip, |bytes| attribute(&mut payload, RTA_DST, bytes));
        }
        if let Some(ip) = via {
            with_ip(ip, |bytes| attribute(&mut payload, RTA_GATEWAY, bytes));
        }
        attribute(&mut payload, RTA_OIF, &link.to_ne_bytes());
        if metric != 0 {
            attribute(&mut payload, RTA_PRIORITY, &metric.to_ne_bytes());
        }
        self.order(RTM_NEWROUTE, CREATE | REPLACE, &payload)
    }

    pub(super) fn remove_address(&mut self, held: &Held) -> io::Result<()> {
        self.order(RTM_DELADDR, 0, &held.payload)
    }

    pub(super) fn remove_route(&mut self, held: &Held) -> io::Result<()> {
        self.order(RTM_DELROUTE, 0, &held.payload)
    }

    pub(super) fn restore_address(&mut self, held: &Held) -> io::Result<()> {
        self.order(RTM_NEWADDR, CREATE | REPLACE, &held.payload)
    }

    pub(super) fn restore_route(&mut self, held: &Held) -> io::Result<()> {
        self.order(RTM_NEWROUTE, CREATE | REPLACE, &held.payload)
    }

    fn order(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.send(kind, flags | ACK, payload)?;
        self.receive(|_, _| ())
    }

    fn dump(&mut self, ask: u16, answer: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(ask, DUMP, payload)?;
        let mut messages = Vec::new();
        self.receive(|kind, message| {
            if kind == answer {
                messages.push(message.to_vec());
            }
        })?;
        Ok(messages)
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + payload.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(payload);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Until the kernel says that the answer is complete, or what is wrong.
    fn receive(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (count, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for (header, payload) in messages(&buffer[..count]) {
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        // struct nlmsgerr: the negative number; 0 is "done".
                        let number = payload.get(..4).map_or(0, |b| i32::from_ne_bytes(four(b)));
                        return match number {
                            0 => Ok(()),
                            number => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
                        };
                    }
                    kind => each(kind, payload),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    sequence: u32,
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = usize::try_from(u32::from_ne_bytes(four(header))).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes(four(&header[8..]));
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((Header { kind, sequence }, payload))
    })
}

/// Type and content of each attribute (linux/rtnetlink.h, `struct rtattr`).
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let content = bytes.get(4..length)?;
        // The two highest bits are flags (linux/netlink.h).
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3FFF;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

fn attribute(payload: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = u16::try_from(4 + content.len()).expect("attributes are small");
    payload.extend(length.to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(content);
    payload.resize(align(payload.len()), 0);
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Of a slice that was checked to have them.
fn four(bytes: &[u8]) -> [u8; 4] {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    word
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4).map(|bytes| u32::from_ne_bytes(four(bytes)))
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
            IFLA_IFNAME => {
                let name = content.split(|byte| *byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
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
    let [_, prefix, _, scope] = four(message.get(..4)?);
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
    let [_, prefix, _, _] = four(message.get(..4)?);
    let [table, protocol, _, kind] = four(message.get(4..8)?);
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

pub(super) fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(four(bytes)).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

pub(super) fn with_ip<T>(ip: IpAddr, act: impl FnOnce(&[u8]) -> T) -> T {
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
        for held in netlink.addresses().unwrap() {
            assert!(links.iter().any(|link| link.index == held.link), "{held:?}");
        }
        for held in netlink.routes().unwrap() {
            assert!(links.iter().any(|link| link.index == held.link), "{held:?}");
        }
    }

    #[test]
    fn a_refusal_has_the_kernels_number() {
        let mut netlink = Rtnetlink::open().unwrap();
        let error = netlink.set_link(0x7FFF_FFFF, true, None).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
        // The socket goes on.
        assert!(!netlink.links().unwrap().is_empty());
    }

    #[test]
    fn attributes_survive_both_ways() {
        let mut payload = Vec::new();
        attribute(&mut payload, 3, b"eth0\0");
        attribute(&mut payload, 1, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(payload.len() % 4, 0);
        let all: Vec<_> = attributes(&payload).collect();
        assert_eq!(all, [(3, &b"eth0\0"[..]), (1, &[1, 2, 3, 4, 5, 6][..])]);
        // Cut anywhere, nothing is made up.
        for end in 0..payload.len() {
            assert!(attributes(&payload[..end]).count() <= 2);
        }
    }
}
