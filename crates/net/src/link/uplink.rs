//! The way out of the host, family by family.

use std::net::IpAddr;

use inn_units::InterfaceName;
use ipnet::IpNet;

use super::observed::{Observed, Route};

/// What every link of IPv6 carries (RFC 8200, 5): with less it would have none.
const LEAST_MTU: u32 = 1280;

/// Ethernet's, where there is no way out that could be narrower.
const USUAL_MTU: u32 = 1500;

/// The interface that the best default route leads through.
pub fn uplink4(observed: &Observed) -> Option<InterfaceName> {
    uplink(observed, IpAddr::is_ipv4)
}

pub fn uplink6(observed: &Observed) -> Option<InterfaceName> {
    uplink(observed, IpAddr::is_ipv6)
}

fn uplink(observed: &Observed, family: fn(&IpAddr) -> bool) -> Option<InterfaceName> {
    let link = default(observed, family)?.link?;
    observed.link_of(link)?.name.parse().ok()
}

fn default(observed: &Observed, family: fn(&IpAddr) -> bool) -> Option<Route> {
    let leads = |route: &Route| {
        route.prefix == 0
            && family(&route.to)
            && route.link.is_some_and(|link| {
                observed.link_of(link).is_some_and(|link| !link.loopback && link.up)
            })
    };
    observed.routes.iter().filter(|route| leads(route)).min_by_key(|route| route.metric).copied()
}

/// What leaves by these without being cut up: the interface's own, or the
/// route's where that says less.
pub fn mtu(observed: &Observed, uplinks: &[Option<InterfaceName>]) -> u16 {
    let mut least = None;
    for uplink in uplinks.iter().flatten() {
        let Some(link) = observed.link(uplink.as_str()) else { continue };
        let of_route = |route: &Route| {
            (route.prefix == 0 && route.link == Some(link.index)).then_some(route.mtu).flatten()
        };
        let mtus = observed.routes.iter().filter_map(of_route).chain([link.mtu]);
        least = mtus.chain(least).min();
    }
    let mtu = least.unwrap_or(USUAL_MTU).clamp(LEAST_MTU, u32::from(u16::MAX));
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// Where the host has a way to, for the choice of a subnet that is free; not
/// by its default routes.
pub fn routed(observed: &Observed) -> Vec<IpNet> {
    let routes = observed.routes.iter().map(|route| (route.to, route.prefix));
    let own = observed.addresses.iter().map(|address| (address.ip, address.prefix));
    let nets = routes.chain(own).filter(|(_, prefix)| *prefix > 0);
    nets.filter_map(|(ip, prefix)| IpNet::new(ip, prefix).ok().map(|net| net.trunc())).collect()
}
