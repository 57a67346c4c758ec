use std::collections::BTreeMap;
use std::net::IpAddr;

use inn_domain::network::Instance;

/// What the kernel has, of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// All of the host's.
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// Of the main table.
    pub routes: Vec<Route>,
    /// Those that somebody wrote down, and the kernel did not find out.
    pub neighbours: Vec<Neighbour>,
    pub stations: Vec<Station>,
    /// By their names below /proc/sys; what this kernel has not, is not there.
    pub settings: BTreeMap<String, String>,
}

impl Observed {
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub fn link_of(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Empty for most.
    pub alias: String,
    pub mac: Vec<u8>,
    pub up: bool,
    pub loopback: bool,
    pub mtu: u32,
    /// The index of its bridge.
    pub master: Option<u32>,
    /// `bridge`, `tun`; none of a real card.
    pub kind: Option<String>,
    /// Only of a bridge: whether it runs the spanning tree protocol, and looks
    /// into multicast.
    pub bridge: Option<(bool, bool)>,
    /// Only of a bridge's port.
    pub port: Option<Port>,
}

impl Link {
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    /// Whether this instance made it.
    pub fn is_ours(&self, instance: &Instance) -> bool {
        self.alias.starts_with(&mark(instance))
    }
}

/// How the alias of all that is an instance's begins.
pub(super) fn mark(instance: &Instance) -> String {
    format!("{}: ", instance.table())
}

/// linux/if_link.h, `IFLA_BRPORT_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// Reaches the bridge and not its like.
    pub isolated: bool,
    /// Believes a frame's sender.
    pub learning: bool,
    /// Gets what is for stations that nobody knows.
    pub flood: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: IpAddr,
    pub prefix: u8,
    /// The kernel's own, of the link alone.
    pub automatic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub link: Option<u32>,
    /// Unspecified with a prefix of 0: the default.
    pub to: IpAddr,
    pub prefix: u8,
    /// The lower, the better.
    pub metric: u32,
    pub mtu: Option<u32>,
}

/// Who has an address on a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub link: u32,
    pub ip: IpAddr,
    pub mac: Vec<u8>,
}

/// Which port leads to a MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    pub link: u32,
    pub mac: Vec<u8>,
}
