//! Whether a network may be made, changed hands, or go: pure, with a named
//! reason that says who is in the way.

use core::net::IpAddr;

use inn_units::{InterfaceName, NetworkName, VmName};
use ipnet::IpNet;

use super::{NetworkKind, NetworkSpec, Uplink};

/// RFC 791 and RFC 8200: below that the protocol does not work.
const LEAST_MTU4: u16 = 576;
const LEAST_MTU6: u16 = 1280;

/// The host, a VM, and the two addresses that nobody has.
const LONGEST_PREFIX4: u8 = 30;

/// Leases are looked for one by one: 65,534 addresses are enough.
const SHORTEST_PREFIX4: u8 = 16;

/// SLAAC forms its addresses in a /64 (RFC 4862, 5.5.3; RFC 7421).
const PREFIX6: u8 = 64;

/// Names that mean something else where a network is chosen.
const RESERVED: [&str; 2] = ["none", "default"];

/// Where the host itself has a route to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    pub to: IpNet,
    pub through: InterfaceName,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkDeniedReason {
    #[error("there is a network {name} already; choose another name, or delete that one")]
    NameTaken { name: NetworkName },
    #[error("the name {name} means something else; choose another one")]
    NameReserved { name: NetworkName },
    #[error("a network needs a subnet; give it one of IPv4, of IPv6, or of both")]
    NoSubnet,
    #[error("the subnet {subnet} is {why}; take another one, such as {example}")]
    BadSubnet { subnet: IpNet, why: &'static str, example: &'static str },
    #[error("the subnet {subnet} overlaps {other} of the network {holder}; take another one")]
    OverlapsNetwork { subnet: IpNet, other: IpNet, holder: NetworkName },
    #[error(
        "the subnet {subnet} overlaps {other}, to which this host has a route through {through}; \
         take another one"
    )]
    OverlapsRoute { subnet: IpNet, other: IpNet, through: InterfaceName },
    #[error("an MTU of {given} is too small; give it {least} at least")]
    MtuTooSmall { given: u16, least: u16 },
    #[error("there is no interface {name} on this host; name one that is there")]
    NoUplink { name: InterfaceName },
    #[error("no VM leaves an isolated network, so that an uplink is of no use; leave it out")]
    UplinkOfIsolated,
    #[error("{} on it; delete {them} first", in_words(.vms), them = if .vms.len() == 1 { "it" } else { "them" })]
    InUse { vms: Vec<VmName> },
    #[error("the network default is made by the agent, and made again; it cannot be deleted")]
    IsDefault,
}

fn in_words(vms: &[VmName]) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = vms.iter().take(SHOWN).map(VmName::as_str).collect();
    match vms.len() {
        1 => format!("the VM {} is", names[0]),
        n if n <= SHOWN => format!("the VMs {} are", names.join(", ")),
        n => format!("the VMs {} and {} more are", names.join(", "), n - SHOWN),
    }
}

/// What of the host decides whether a network finds its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPlace {
    /// Without those of our own bridges.
    pub routes: Vec<HostRoute>,
    pub interfaces: Vec<InterfaceName>,
}

/// Whether a network that somebody asks for may be made beside `others`.
pub fn admit_network<'a>(
    spec: &NetworkSpec,
    others: impl IntoIterator<Item = &'a NetworkSpec>,
    host: &HostPlace,
) -> Result<(), NetworkDeniedReason> {
    if RESERVED.contains(&spec.name.as_str()) {
        return Err(NetworkDeniedReason::NameReserved { name: spec.name.clone() });
    }
    admit_place(spec, others, host)
}

/// The same for any network, that of the agent's own included.
pub fn admit_place<'a>(
    spec: &NetworkSpec,
    others: impl IntoIterator<Item = &'a NetworkSpec>,
    host: &HostPlace,
) -> Result<(), NetworkDeniedReason> {
    use NetworkDeniedReason as Denied;
    let subnets = subnets(spec);
    if subnets.is_empty() {
        return Err(Denied::NoSubnet);
    }
    check_subnets(&subnets)?;
    check_mtu(spec)?;
    match (&spec.uplink, spec.kind) {
        (Uplink::Interface(_), NetworkKind::Isolated) => return Err(Denied::UplinkOfIsolated),
        (Uplink::Interface(name), _) if !host.interfaces.contains(name) => {
            return Err(Denied::NoUplink { name: name.clone() });
        }
        _ => {}
    }
    for other in others {
        if other.name == spec.name {
            return Err(Denied::NameTaken { name: spec.name.clone() });
        }
        let theirs = self::subnets(other);
        if let Some((subnet, other_net)) = first_overlap(&subnets, &theirs) {
            let holder = other.name.clone();
            return Err(Denied::OverlapsNetwork { subnet, other: other_net, holder });
        }
    }
    for route in &host.routes {
        // A default route leads to all that nobody has.
        if route.to.prefix_len() == 0 {
            continue;
        }
        if let Some((subnet, other)) = first_overlap(&subnets, std::slice::from_ref(&route.to)) {
            let through = route.through.clone();
            return Err(Denied::OverlapsRoute { subnet, other, through });
        }
    }
    Ok(())
}

/// Whether a network may go, while `vms` are on it.
pub fn admit_network_deletion(
    spec: &NetworkSpec,
    mut vms: Vec<VmName>,
) -> Result<(), NetworkDeniedReason> {
    if spec.name.as_str() == "default" {
        return Err(NetworkDeniedReason::IsDefault);
    }
    if vms.is_empty() {
        return Ok(());
    }
    vms.sort();
    Err(NetworkDeniedReason::InUse { vms })
}

fn subnets(spec: &NetworkSpec) -> Vec<IpNet> {
    spec.ipv4.map(IpNet::V4).into_iter().chain(spec.ipv6.map(IpNet::V6)).collect()
}

fn first_overlap(ours: &[IpNet], theirs: &[IpNet]) -> Option<(IpNet, IpNet)> {
    ours.iter()
        .find_map(|our| theirs.iter().find(|their| overlap(our, their)).map(|their| (*our, *their)))
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn check_subnets(subnets: &[IpNet]) -> Result<(), NetworkDeniedReason> {
    for subnet in subnets {
        let example = match subnet {
            IpNet::V4(_) => "10.99.0.0/24",
            IpNet::V6(_) => "fd00:99::/64",
        };
        let bad = |why| NetworkDeniedReason::BadSubnet { subnet: *subnet, why, example };
        let length = subnet.prefix_len();
        let wrong_size = match subnet {
            IpNet::V4(_) if length > LONGEST_PREFIX4 => Some("too small for the host and a VM"),
            IpNet::V4(_) if length < SHORTEST_PREFIX4 => Some("larger than a /16"),
            IpNet::V6(_) if length != PREFIX6 => Some("no /64, as VMs need it"),
            _ => None,
        };
        if let Some(why) = wrong_size {
            return Err(bad(why));
        }
        if subnet.addr() != subnet.network() {
            return Err(bad("not written by its first address"));
        }
        let network = subnet.network();
        let special = network.is_loopback() || network.is_multicast() || network.is_unspecified();
        let link_local = match network {
            IpAddr::V4(address) => address.is_link_local() || address.octets()[0] >= 240,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if special || link_local {
            return Err(bad("no subnet that machines have addresses in"));
        }
    }
    Ok(())
}

fn check_mtu(spec: &NetworkSpec) -> Result<(), NetworkDeniedReason> {
    let least = if spec.ipv6.is_some() { LEAST_MTU6 } else { LEAST_MTU4 };
    match spec.mtu {
        Some(given) if given < least => Err(NetworkDeniedReason::MtuTooSmall { given, least }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, ipv4: &str) -> NetworkSpec {
        NetworkSpec {
            name: name.parse().unwrap(),
            kind: NetworkKind::Nat,
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: None,
            uplink: Uplink::DefaultRoute,
            mtu: None,
            peers: false,
            host: false,
            metadata: false,
        }
    }

    fn refused(spec: &NetworkSpec, others: &[NetworkSpec], host: &HostPlace) -> String {
        admit_network(spec, others, host).unwrap_err().to_string()
    }

    #[test]
    fn what_is_in_the_way_is_told_by_name() {
        let host = HostPlace {
            routes: vec![
                HostRoute { to: "0.0.0.0/0".parse().unwrap(), through: "eth0".parse().unwrap() },
                HostRoute { to: "10.20.0.0/16".parse().unwrap(), through: "wg0".parse().unwrap() },
            ],
            interfaces: vec!["eth0".parse().unwrap()],
        };
        let there = [network("web", "10.1.0.0/24")];
        assert_eq!(admit_network(&network("db", "10.2.0.0/24"), &there, &host), Ok(()));
        let denied = refused(&network("db", "10.1.0.128/25"), &there, &host);
        assert!(denied.contains("10.1.0.0/24 of the network web"), "{denied}");
        let denied = refused(&network("db", "10.1.0.0/16"), &there, &host);
        assert!(denied.contains("the network web"), "{denied}");
        let denied = refused(&network("db", "10.20.3.0/24"), &there, &host);
        assert!(denied.contains("10.20.0.0/16") && denied.contains("wg0"), "{denied}");
        assert!(refused(&network("web", "10.3.0.0/24"), &there, &host).contains("already"));
        for name in RESERVED {
            assert!(refused(&network(name, "10.3.0.0/24"), &[], &host).contains("else"));
        }
    }

    #[test]
    fn a_subnet_is_one_that_machines_can_be_in() {
        let host = HostPlace::default();
        for (subnet, why) in [
            ("10.0.0.0/31", "too small"),
            ("10.0.0.0/15", "larger than a /16"),
            ("10.0.0.1/24", "first address"),
            ("127.0.0.0/24", "no subnet"),
            ("169.254.0.0/24", "no subnet"),
            ("224.0.0.0/24", "no subnet"),
            ("240.0.0.0/24", "no subnet"),
        ] {
            let denied = refused(&network("a", subnet), &[], &host);
            assert!(denied.contains(why), "{subnet}: {denied}");
        }
        let mut spec = network("a", "10.0.0.0/24");
        spec.ipv6 = Some("fd00::/56".parse().unwrap());
        assert!(refused(&spec, &[], &host).contains("no /64"));
        spec.ipv6 = Some("fd00::/64".parse().unwrap());
        spec.mtu = Some(1279);
        assert!(refused(&spec, &[], &host).contains("1280"));
        spec.ipv6 = None;
        assert_eq!(admit_network(&spec, &[], &host), Ok(()));
        spec.ipv4 = None;
        assert_eq!(admit_network(&spec, &[], &host), Err(NetworkDeniedReason::NoSubnet));
    }

    #[test]
    fn an_uplink_is_there_and_of_use() {
        let host = HostPlace { interfaces: vec!["eth0".parse().unwrap()], routes: vec![] };
        let mut spec = network("a", "10.0.0.0/24");
        spec.uplink = Uplink::Interface("eth0".parse().unwrap());
        assert_eq!(admit_network(&spec, &[], &host), Ok(()));
        spec.kind = NetworkKind::Isolated;
        assert_eq!(admit_network(&spec, &[], &host), Err(NetworkDeniedReason::UplinkOfIsolated));
        spec.kind = NetworkKind::Routed;
        spec.uplink = Uplink::Interface("eth1".parse().unwrap());
        assert!(refused(&spec, &[], &host).contains("eth1"));
    }

    #[test]
    fn a_network_goes_after_its_vms() {
        let spec = network("a", "10.0.0.0/24");
        assert_eq!(admit_network_deletion(&spec, vec![]), Ok(()));
        let vms = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let denied = admit_network_deletion(&spec, vms(&["b", "a"])).unwrap_err();
        assert_eq!(denied.to_string(), "the VMs a, b are on it; delete them first");
        let denied = admit_network_deletion(&spec, vms(&["e", "d", "c", "b"])).unwrap_err();
        assert!(denied.to_string().starts_with("the VMs b, c, d and 1 more are"), "{denied}");
        let own = network("default", "10.0.0.0/24");
        assert_eq!(admit_network_deletion(&own, vec![]), Err(NetworkDeniedReason::IsDefault));
    }
}
