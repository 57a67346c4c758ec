use core::net::IpAddr;

use inn_units::{InterfaceName, PortMapId, VmId};

use super::PortRange;

/// Ports of the host that lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMap {
    pub id: PortMapId,
    pub transport: Transport,
    pub listen: Listen,
    pub ports: PortRange,
    pub target: MapTarget,
    /// Where `ports.first` leads; the others follow in order.
    pub target_port: u16,
    /// The target sees the host's address on its bridge in place of the
    /// client's.
    pub masquerade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// Every address that the host has, of both families.
    Any,
    Address(IpAddr),
    /// What comes in through it, and no other; not the host itself.
    Interface(InterfaceName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapTarget {
    /// Wherever it is: the map follows it over restarts and addresses.
    Vm(VmId),
    Address(IpAddr),
}
