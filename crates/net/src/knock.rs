//! Who wants something of a VM that stands still: frames for it that go into
//! its tap, which nobody reads.
//!
//! They wait there, some hundred of them, and are delivered once its machine
//! goes on; what is lost is sent again by TCP. So whoever is woken by one need
//! not have it.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// All that is looked at: an Ethernet header and IPv6's, or an ARP packet.
const HEAD: usize = 96;

/// linux/if_ether.h.
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// IANA's numbers of protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// RFC 4861, 4.3.
const SOLICITATION: u8 = 135;

/// A VM's tap, watched.
#[derive(Debug)]
pub struct Door {
    socket: AsyncFd<OwnedFd>,
    whose: Whose,
}

#[derive(Debug, Clone)]
struct Whose {
    mac: [u8; 6],
    addresses: Vec<IpAddr>,
}

impl Door {
    /// Of the tap of that name in the calling thread's network namespace, behind
    /// which is the card of this MAC, with these addresses.
    pub fn watch(tap: &str, mac: [u8; 6], addresses: Vec<IpAddr>) -> io::Result<Self> {
        let socket = readable(inn_host::packet::open(tap)?)?;
        Ok(Self { socket, whose: Whose { mac, addresses } })
    }

    /// Resolves once somebody sends to it by TCP or UDP, or asks where it is in
    /// order to. Fails where the tap is gone. Cancel safe.
    pub async fn knocked(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut head = [0; HEAD];
            match recv(self.socket.get_ref(), &mut head, RecvFlags::empty()) {
                Ok((length, _)) if self.whose.knocks(&head[..length.min(HEAD)]) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Whose {
    /// Whether such a frame wants something of it. What is sent to all, as
    /// router advertisements are, does not; nor does a probe of whether a
    /// neighbour that is known is still there.
    fn knocks(&self, frame: &[u8]) -> bool {
        let Some((ethernet, packet)) = frame.split_at_checked(14) else { return false };
        let (to, kind) = (&ethernet[..6], &ethernet[12..14]);
        let at = |from: usize, length: usize| packet.get(from..from + length).unwrap_or_default();
        if to == self.mac {
            let protocol = match kind {
                kind if kind == IPV4 => at(9, 1),
                kind if kind == IPV6 => at(6, 1),
                _ => return false,
            };
            return matches!(protocol, [TCP | UDP]);
        }
        let is_mine = |address: &[u8]| {
            inn_netlink::route::parse_ip(address).is_some_and(|ip| self.addresses.contains(&ip))
        };
        match kind {
            // RFC 826: a request's target.
            kind if kind == ARP => to == [0xff; 6] && at(6, 2) == [0, 1] && is_mine(at(24, 4)),
            // Behind IPv6's 40 bytes: type, and after 8 bytes the target.
            kind if kind == IPV6 => {
                at(6, 1) == [ICMPV6] && at(40, 1) == [SOLICITATION] && is_mine(at(48, 16))
            }
            _ => false,
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe; an `OwnedFd` owns its one descriptor")]
fn readable(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 1, 2, 3, 4, 5];

    fn whose() -> Whose {
        let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        Whose { mac: MAC, addresses }
    }

    fn frame(to: [u8; 6], kind: [u8; 2], packet: &[(usize, &[u8])]) -> Vec<u8> {
        let mut frame = vec![0; 96];
        frame[..6].copy_from_slice(&to);
        frame[12..14].copy_from_slice(&kind);
        for (at, bytes) in packet {
            frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
        }
        frame
    }

    #[test]
    fn who_sends_to_it_or_asks_for_it_knocks_and_nobody_else() {
        let (all, other) = ([0xff; 6], [2, 9, 9, 9, 9, 9]);
        let solicited = [0x33, 0x33, 0xff, 0, 0, 2];
        let target: [u8; 16] = "fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let stranger: [u8; 16] = "fd00::3".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let asks = |to, target: &[u8]| {
            frame(to, IPV6, &[(6, &[ICMPV6]), (40, &[SOLICITATION]), (48, target)])
        };
        let arp = |to, kind: &[u8], target: &[u8]| frame(to, ARP, &[(6, kind), (24, target)]);
        for (knocks, what, sent) in [
            (true, "TCP", frame(MAC, IPV4, &[(9, &[TCP])])),
            (true, "UDP", frame(MAC, IPV4, &[(9, &[UDP])])),
            (true, "TCP over IPv6", frame(MAC, IPV6, &[(6, &[TCP])])),
            (false, "a ping", frame(MAC, IPV4, &[(9, &[1])])),
            (false, "another's", frame(other, IPV4, &[(9, &[TCP])])),
            (false, "sent to all", frame(all, IPV4, &[(9, &[UDP])])),
            (true, "ARP", arp(all, &[0, 1], &[10, 0, 0, 2])),
            (false, "ARP for another", arp(all, &[0, 1], &[10, 0, 0, 3])),
            (false, "an ARP answer", arp(all, &[0, 2], &[10, 0, 0, 2])),
            (false, "an ARP probe", arp(MAC, &[0, 1], &[10, 0, 0, 2])),
            (true, "a solicitation", asks(solicited, &target)),
            (false, "one for another", asks(solicited, &stranger)),
            (
                false,
                "a router's advertisement",
                frame([0x33; 6], IPV6, &[(6, &[58]), (40, &[134])]),
            ),
        ] {
            assert_eq!(whose().knocks(&sent), knocks, "{what}");
            for cut in 0..sent.len().min(30) {
                let _any = whose().knocks(&sent[..cut]);
            }
        }
    }
}
