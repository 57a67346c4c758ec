use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use inn_units::{InterfaceName, NetworkId, VmId, VmName};
use ipnet::{Ipv4Net, Ipv6Net};

use super::{NetworkSpec, Policy, PortMap};

/// All of the host's network that is ours, as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    pub instance: Instance,
    pub networks: Vec<DeclaredNetwork>,
    /// Of VMs that have a machine, or are about to.
    pub attachments: Vec<Attachment>,
    pub maps: Vec<DeclaredMap>,
}

/// What an agent that is not the system's adds to names that others might
/// have; nothing for the system's.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(pub Option<String>);

impl Instance {
    /// Of our tables, in every family that has one.
    pub fn table(&self) -> String {
        match &self.0 {
            Some(suffix) => format!("innkeeper-{suffix}"),
            None => "innkeeper".to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredNetwork {
    pub id: NetworkId,
    pub spec: NetworkSpec,
    /// Through which its VMs leave, as it was found, family by family; none
    /// where there is no way out.
    pub uplink4: Option<InterfaceName>,
    pub uplink6: Option<InterfaceName>,
    pub mtu: u16,
}

impl DeclaredNetwork {
    pub fn bridge(&self) -> InterfaceName {
        bridge_name(self.id)
    }

    /// The host's own address in it.
    pub fn gateway4(&self) -> Option<Ipv4Addr> {
        self.spec.ipv4.and_then(gateway4)
    }

    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.spec.ipv6.map(gateway6)
    }
}

/// A VM's network card, and what it may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub vm: VmId,
    pub name: VmName,
    pub network: NetworkId,
    pub mac: [u8; 6],
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub policy: Policy,
}

impl Attachment {
    pub fn tap(&self) -> InterfaceName {
        tap_name(self.vm)
    }
}

/// A port map, and where its target is at present: nowhere, as long as its VM
/// has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredMap {
    pub map: PortMap,
    /// At most one of each family.
    pub targets: Vec<IpAddr>,
}

/// The host's address in an IPv4 network of ours: the first.
pub fn gateway4(net: Ipv4Net) -> Option<Ipv4Addr> {
    net.hosts().next()
}

/// The host's address in an IPv6 network of ours: 1.
pub fn gateway6(net: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from_bits(net.network().to_bits() | 1)
}

/// 15 characters, as many as the kernel takes (linux/if.h, IFNAMSIZ).
pub fn bridge_name(id: NetworkId) -> InterfaceName {
    interface(format!("inn-b{id}"))
}

/// Of a VM's one card.
pub fn tap_name(id: VmId) -> InterfaceName {
    interface(format!("inn-t{id}"))
}

fn interface(name: String) -> InterfaceName {
    name.parse().expect("a prefix and ten hex digits are an interface's name")
}
