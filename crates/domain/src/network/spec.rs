use inn_units::{InterfaceName, NetworkName};
use ipnet::{Ipv4Net, Ipv6Net};

/// A network of this host: a bridge, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    pub name: NetworkName,
    pub kind: NetworkKind,
    /// The host has its first address, and is the VMs' gateway.
    pub ipv4: Option<Ipv4Net>,
    /// A /64; the host has its address 1.
    pub ipv6: Option<Ipv6Net>,
    pub uplink: Uplink,
    /// The uplink's, if it is not said.
    pub mtu: Option<u16>,
    /// Whether its VMs reach one another.
    pub peers: bool,
    /// Whether its VMs reach the services of the host itself, beyond the DHCP
    /// and DNS that Innkeeper serves there.
    pub host: bool,
    /// Whether its VMs reach the metadata address of clouds, 169.254.169.254
    /// and `fd00:ec2::254`, through the host.
    pub metadata: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// VMs leave with the uplink's address.
    Nat,
    /// VMs leave with their own: the world has a route to them.
    Routed,
    /// VMs do not leave.
    Isolated,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// Whatever the default route leads through, family by family.
    DefaultRoute,
    Interface(InterfaceName),
}
