//! Router advertisements (RFC 4861): the host is the way out, the prefix is on
//! the link, and addresses come by DHCPv6. See docs/adr/0037.

use std::time::Duration;

use inn_domain::network::DeclaredNetwork;

use crate::dhcp::domain;
use crate::link::bridge_mac;

/// A router solicitation's type, of ICMPv6.
pub(crate) const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;

/// How long the host is taken for a router without being heard of: an agent
/// that is down for less is missed by nobody (RFC 8319 allows 65535 s).
const LIFETIME: u16 = 64_800;

/// Between two that nobody asked for (RFC 8319 allows 65535 s): what has
/// changed is sent at once.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1800);

const HOP_LIMIT: u8 = 64;
/// Managed addresses, and other configuration too: RFC 4861, 4.2.
const MANAGED: u8 = 0xC0;
/// On-link, and not autonomous: RFC 4861, 4.6.2.
const ON_LINK: u8 = 0x80;

/// Its checksum is the kernel's to fill in. None for a network without IPv6.
pub(crate) fn advertisement(network: &DeclaredNetwork) -> Option<Vec<u8>> {
    let (gateway, net) = (network.gateway6()?, network.spec.ipv6?);
    let mut bytes = vec![ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, MANAGED];
    bytes.extend(LIFETIME.to_be_bytes());
    // Reachable time and retransmission timer: the guest's own.
    bytes.extend([0; 8]);
    // Source link-layer address (RFC 4861, 4.6.1).
    bytes.extend([1, 1]);
    bytes.extend(bridge_mac(network.id));
    // MTU (4.6.4).
    bytes.extend([5, 1, 0, 0]);
    bytes.extend(u32::from(network.mtu).to_be_bytes());
    // Prefix information (4.6.2), for ever.
    bytes.extend([3, 4, net.prefix_len(), ON_LINK]);
    bytes.extend([0xff; 8]);
    bytes.extend([0; 4]);
    bytes.extend(net.network().octets());
    // Recursive DNS servers (RFC 8106, 5.1).
    bytes.extend([25, 3, 0, 0]);
    bytes.extend(u32::from(LIFETIME).to_be_bytes());
    bytes.extend(gateway.octets());
    // DNS search list (RFC 8106, 5.2): names as DNS has them, up to a multiple
    // of eight bytes.
    let mut names = Vec::new();
    for label in domain(&network.spec.name).split('.') {
        names.push(u8::try_from(label.len()).ok()?);
        names.extend(label.as_bytes());
    }
    names.push(0);
    names.resize(names.len().next_multiple_of(8), 0);
    bytes.extend([31, u8::try_from(1 + names.len() / 8).ok()?, 0, 0]);
    bytes.extend(u32::from(LIFETIME).to_be_bytes());
    bytes.extend(names);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::network;

    #[test]
    fn an_advertisement_has_what_a_guest_needs() {
        let bytes = advertisement(&network()).unwrap();
        assert_eq!(bytes[..8], [134, 0, 0, 0, 64, 0xC0, 0xfd, 0x20]);
        let mut options = &bytes[16..];
        let mut seen = Vec::new();
        while let [kind, length, ..] = *options {
            let (option, rest) = options.split_at(usize::from(length) * 8);
            seen.push((kind, option[2..].to_vec()));
            options = rest;
        }
        let kinds: Vec<u8> = seen.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [1, 5, 3, 25, 31]);
        assert_eq!(seen[0].1, bridge_mac(network().id));
        assert_eq!(seen[1].1[2..], [0, 0, 5, 120]);
        assert_eq!(seen[2].1[..2], [64, 0x80]);
        let prefix: [u8; 16] = seen[2].1[14..30].try_into().unwrap();
        assert_eq!(std::net::Ipv6Addr::from(prefix).to_string(), "fd00:1:2:3::");
        assert!(seen[4].1[6..].starts_with(b"\x03web\x03inn\x08internal\x00"));
    }

    #[test]
    fn a_network_without_ipv6_advertises_nothing() {
        let mut network = network();
        network.spec.ipv6 = None;
        assert_eq!(advertisement(&network), None);
    }
}
