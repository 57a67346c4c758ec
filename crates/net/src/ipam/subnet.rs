use std::net::Ipv6Addr;

use inn_units::NetworkId;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where networks that say none get their IPv4 subnets: /24s, in this order.
/// A part of each private range (RFC 1918), away from what others begin with
/// (Docker 172.17 to 172.31 and 192.168, libvirt 192.168.122, Kubernetes 10.42,
/// 10.43, 10.96 and 10.244); last a part of the carriers' range (RFC 6598), for
/// hosts whose own site has routed all of 10.0.0.0/8 and 172.16.0.0/12.
const RANGES: [[u8; 2]; 3] = [[10, 213], [172, 30], [100, 126]];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no subnet is free for a network: each of 10.213.0.0/16, 172.30.0.0/16 and 100.126.0.0/16 \
     is routed elsewhere; say one with --subnet"
)]
pub struct NoSubnet;

/// `routed`: where the host has routes to, and what its networks have. A
/// default route is none of them.
pub fn choose_subnet4(routed: &[IpNet]) -> Result<Ipv4Net, NoSubnet> {
    let routed: Vec<Ipv4Net> = routed.iter().filter_map(v4).collect();
    RANGES
        .into_iter()
        .flat_map(|[a, b]| (0..=255).map(move |c| [a, b, c, 0]))
        .filter_map(|octets| Ipv4Net::new(octets.into(), 24).ok())
        .find(|net| !routed.iter().any(|other| overlap(*net, *other)))
        .ok_or(NoSubnet)
}

/// A /64 of the site `fdGG:GGGG:GGGG::/48`, `global` being drawn once by the
/// node (RFC 4193, 3.2), and the network's id its subnet.
pub fn choose_subnet6(global: [u8; 5], network: NetworkId, routed: &[IpNet]) -> Ipv6Net {
    let [a, b, c, d, e] = global;
    let site = u128::from(u64::from_be_bytes([0, 0, 0xfd, a, b, c, d, e])) << 80;
    let bytes = network.as_bytes();
    let mut subnet = u16::from_be_bytes([bytes[0], bytes[1]]);
    // As many as there are: with a host that has routes to all of them, any of
    // them is as bad as the other.
    for _ in 0..=u16::MAX {
        let net = ula(site, subnet);
        let taken = |other: &IpNet| match other {
            IpNet::V6(other) if other.prefix_len() > 0 => {
                other.contains(&net) || net.contains(other)
            }
            _ => false,
        };
        if !routed.iter().any(taken) {
            return net;
        }
        subnet = subnet.wrapping_add(1);
    }
    ula(site, subnet)
}

fn ula(site: u128, subnet: u16) -> Ipv6Net {
    let address = Ipv6Addr::from_bits(site | (u128::from(subnet) << 64));
    Ipv6Net::new(address, 64).expect("64 is a prefix's length")
}

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) if net.prefix_len() > 0 => Some(*net),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}
