//! Which address a VM has, and which a network.
//!
//! ```text
//!   a VM's IPv4    its wish, if it is free
//!                  else its lease, for as long as there is one
//!                  else one that nobody has had, else the one free the longest
//!   a VM's IPv6    its wish, else what its MAC makes of the network (EUI-64)
//!   a network's    the first of our ranges that no route of the host touches
//! ```
//!
//! Pure: what was given before comes in as values, and whoever calls keeps
//! what comes out. Late reuse is for caches: an address that another VM had a
//! moment ago is still in somebody's ARP table, DNS cache or allow list.

mod subnet;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use inn_domain::network::gateway4;
use inn_units::VmId;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use subnet::{NoSubnet, choose_subnet4, choose_subnet6};

/// An address that was given to a VM. Kept when it is released, so that it is
/// given again late, and to the same VM first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease<Address> {
    pub vm: VmId,
    pub address: Address,
    pub released: Option<SystemTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressDeniedReason {
    #[error("{wish} is not in {net}: choose one that is, or none")]
    Outside { wish: IpAddr, net: IpNet },
    #[error("{wish} is {what} of {net}: choose another one, or none")]
    Reserved { wish: IpAddr, what: &'static str, net: IpNet },
    #[error("{wish} is the VM {by}'s: choose another one, or none")]
    Taken { wish: IpAddr, by: VmId },
    #[error(
        "all {size} addresses for VMs in {net} are in use: delete a VM, or make a larger network"
    )]
    Full { net: IpNet, size: u32 },
}

/// The first host's address is the gateway's (see `DeclaredNetwork::gateway4`).
pub fn allocate4(
    net: Ipv4Net,
    leases: &[Lease<Ipv4Addr>],
    vm: VmId,
    wish: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, AddressDeniedReason> {
    let net = net.trunc();
    let usable = |address: Ipv4Addr| net.contains(&address) && reserved4(net, address).is_none();
    if let Some(wish) = wish {
        admit(wish.into(), net.into(), reserved4(net, wish))?;
        free(leases, vm, wish)?;
        return Ok(wish);
    }
    let held_by_other =
        |address| leases.iter().any(|l| l.address == address && l.vm != vm && l.released.is_none());
    // A network that was made anew with another subnet has old leases.
    let own = leases
        .iter()
        .filter(|lease| lease.vm == vm && usable(lease.address) && !held_by_other(lease.address));
    // The one that it has, before the one that it had last.
    match own.max_by_key(|l| (l.released.is_none(), l.released)) {
        Some(lease) => Ok(lease.address),
        None => another4(net, leases),
    }
}

/// One that nobody has, and whose last holder, if there was one, has been gone
/// the longest.
pub fn another4(net: Ipv4Net, leases: &[Lease<Ipv4Addr>]) -> Result<Ipv4Addr, AddressDeniedReason> {
    let net = net.trunc();
    let usable = |address: Ipv4Addr| net.contains(&address) && reserved4(net, address).is_none();
    let leases: Vec<_> = leases.iter().filter(|lease| usable(lease.address)).collect();
    let used: BTreeSet<Ipv4Addr> = leases.iter().map(|lease| lease.address).collect();
    let (first, last) = match (net.hosts().nth(1), net.hosts().next_back()) {
        (Some(first), Some(last)) if usable(first) => (first.to_bits(), last.to_bits()),
        _ => return Err(AddressDeniedReason::Full { net: net.into(), size: 0 }),
    };
    if let Some(fresh) = never_used(&used, first, last) {
        return Ok(fresh);
    }
    // All were given once: the one whose last holder has been gone the longest.
    let mut idle: BTreeMap<Ipv4Addr, Option<SystemTime>> = BTreeMap::new();
    for lease in &leases {
        let since = idle.entry(lease.address).or_insert(lease.released);
        *since = since.zip(lease.released).map(|(a, b)| a.max(b));
    }
    idle.into_iter()
        .filter_map(|(address, since)| Some((since?, address)))
        .min()
        .map(|(_, address)| address)
        .ok_or(AddressDeniedReason::Full { net: net.into(), size: last - first + 1 })
}

/// Above all that were given, and when the network's end is reached, the lowest
/// of those left out.
fn never_used(used: &BTreeSet<Ipv4Addr>, first: u32, last: u32) -> Option<Ipv4Addr> {
    let above = used.last().map_or(first, |highest| highest.to_bits().saturating_add(1));
    if (first..=last).contains(&above) {
        return Some(Ipv4Addr::from_bits(above));
    }
    let mut next = first;
    for address in used {
        if address.to_bits() > next {
            break;
        }
        next = address.to_bits().saturating_add(1).max(next);
    }
    (next <= last).then(|| Ipv4Addr::from_bits(next))
}

/// In a /64. Without a wish it needs no lease to be the same tomorrow: it is
/// made of the VM's MAC, which is made of its id.
pub fn allocate6(
    net: Ipv6Net,
    leases: &[Lease<Ipv6Addr>],
    vm: VmId,
    mac: [u8; 6],
    wish: Option<Ipv6Addr>,
) -> Result<Ipv6Addr, AddressDeniedReason> {
    let net = net.trunc();
    if let Some(wish) = wish {
        admit(wish.into(), net.into(), reserved6(wish))?;
        free(leases, vm, wish)?;
        return Ok(wish);
    }
    let prefix = net.network().to_bits();
    let host = (1_u128 << (128 - u32::from(net.prefix_len().clamp(1, 127)))) - 1;
    let mut interface = u128::from(eui64(mac)) & host;
    // Another VM's wish may lie there already. Each of them makes one step
    // necessary at most, and so do the reserved ones.
    for _ in 0..leases.len() + 256 {
        let address = Ipv6Addr::from_bits(prefix | interface);
        if reserved6(address).is_none() && free(leases, vm, address).is_ok() {
            return Ok(address);
        }
        interface = (interface + 1) & host;
    }
    let size = u32::try_from(host).unwrap_or(u32::MAX);
    Err(AddressDeniedReason::Full { net: net.into(), size })
}

/// The interface identifier that a card of this MAC makes for itself (RFC
/// 4291, appendix A).
pub fn eui64(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The address that it has on its link without anybody's help.
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from_bits((0xfe80_u128 << 112) | u128::from(eui64(mac)))
}

fn reserved4(net: Ipv4Net, address: Ipv4Addr) -> Option<&'static str> {
    match address {
        address if address == net.network() => Some("the own address"),
        address if address == net.broadcast() => Some("the broadcast address"),
        address if Some(address) == gateway4(net) => Some("the gateway"),
        _ => None,
    }
}

fn reserved6(address: Ipv6Addr) -> Option<&'static str> {
    match u64::try_from(address.to_bits() & u128::from(u64::MAX)).unwrap_or_default() {
        // RFC 4291, 2.6.1.
        0 => Some("the routers' anycast address"),
        1 => Some("the gateway"),
        // RFC 2526.
        0xfdff_ffff_ffff_ff80..=0xfdff_ffff_ffff_ffff => Some("a reserved anycast address"),
        _ => None,
    }
}

fn admit(
    wish: IpAddr,
    net: IpNet,
    reserved: Option<&'static str>,
) -> Result<(), AddressDeniedReason> {
    match reserved {
        _ if !net.contains(&wish) => Err(AddressDeniedReason::Outside { wish, net }),
        Some(what) => Err(AddressDeniedReason::Reserved { wish, what, net }),
        None => Ok(()),
    }
}

fn free<Address: Copy + PartialEq + Into<IpAddr>>(
    leases: &[Lease<Address>],
    vm: VmId,
    wish: Address,
) -> Result<(), AddressDeniedReason> {
    let holder = leases.iter().find(|l| l.address == wish && l.vm != vm && l.released.is_none());
    match holder {
        Some(lease) => Err(AddressDeniedReason::Taken { wish: wish.into(), by: lease.vm }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
