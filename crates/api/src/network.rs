use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use inn_units::{ForeignNetwork, InterfaceName, NetworkId, NetworkName, ParseError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::limits::given;

/// What a VM's network card is on: `none`, `allow_all`, a network's name, or one
/// that is not the node's (`libvirt:NAME`, `bridge:NAME`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// No network device at all.
    None,
    /// The node's own network.
    #[default]
    AllowAll,
    Named(NetworkName),
    Foreign(ForeignNetwork),
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::AllowAll => f.pad("allow_all"),
            Self::Named(name) => name.fmt(f),
            Self::Foreign(network) => network.fmt(f),
        }
    }
}

impl FromStr for Network {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "none" => Self::None,
            // The node's own network has this name.
            "allow_all" | "allow-all" | "default" => Self::AllowAll,
            name => match ForeignNetwork::parse(name) {
                Some(foreign) => Self::Foreign(foreign?),
                None => Self::Named(name.parse()?),
            },
        })
    }
}

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How VMs of a network leave it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// With the address of the node's uplink.
    #[default]
    Nat,
    /// With their own addresses: the world has a route to them.
    Routed,
    /// Not at all.
    Isolated,
}

/// What `POST /api/networks` takes. One of `ipv4` and `ipv6` at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkCreate {
    /// A DNS label: its VMs are found at `VM.NETWORK.inn.internal`.
    #[schema(value_type = String, example = "web")]
    pub name: NetworkName,
    #[serde(default)]
    pub kind: NetworkKind,
    /// Its IPv4 subnet; the node has the first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.99.0.0/24")]
    pub ipv4: Option<String>,
    /// Its IPv6 subnet, a /64; the node has its address 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "fd00:99::/64")]
    pub ipv6: Option<String>,
    /// The node's interface that VMs leave through; that of the default route
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "eth0")]
    pub uplink: Option<InterfaceName>,
    /// The uplink's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether its VMs reach one another.
    #[serde(default)]
    pub peers: bool,
    /// Whether its VMs reach services of the node itself.
    #[serde(default)]
    pub host: bool,
    /// Whether its VMs reach the metadata address of clouds.
    #[serde(default)]
    pub metadata: bool,
}

/// A network of this node: a bridge, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostNetwork {
    #[schema(value_type = String)]
    pub id: NetworkId,
    #[schema(value_type = String)]
    pub name: NetworkName,
    pub kind: NetworkKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// The node's own addresses in it.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// The interface on the node.
    #[schema(value_type = String)]
    pub bridge: InterfaceName,
    /// As it was asked for; that of the default route where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub uplink: Option<InterfaceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    pub peers: bool,
    pub host: bool,
    pub metadata: bool,
    /// The names of the VMs on it.
    pub vms: Vec<String>,
    /// Which of its servers do not run (DHCP, router advertisements, DNS), and
    /// why; they are started again by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostNetworkList {
    pub items: Vec<HostNetwork>,
    /// What to give as `after` to go on, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What the node does to its host's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPlan {
    /// For `nft -f`: makes the node's tables as they should be. What is to be
    /// done to bridges and addresses stands before it, as comments.
    pub script: String,
}

/// A VM's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmAddress {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<std::net::Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// `WEB.NETWORK.inn.internal`, where the node answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub source: AddressSource,
    /// Of addresses that have just been changed: why the guest has others
    /// still, and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
}

/// Other addresses for a VM: an address of its network's, or null for one of
/// the node's choice, of IPv4 another one, of IPv6 the one of its MAC. What is
/// absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmAddressChange {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ipv4: Option<Option<std::net::Ipv4Addr>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ipv6: Option<Option<std::net::Ipv6Addr>>,
}

/// How an address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AddressSource {
    /// The node, or the libvirt whose network it is on, has leased it to the VM.
    Lease,
    /// The host's neighbours have it, by the VM's MAC.
    Neighbour,
    /// The guest says so.
    Guest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_none_the_nodes_or_one_by_name() {
        for (text, network) in [
            ("none", Network::None),
            ("allow_all", Network::AllowAll),
            ("web", Network::Named("web".parse().unwrap())),
            ("libvirt:default", Network::Foreign("libvirt:default".parse().unwrap())),
            ("bridge:br0", Network::Foreign("bridge:br0".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Network>().unwrap(), network);
            assert_eq!(network.to_string(), text);
            let json = serde_json::to_string(&network).unwrap();
            assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
        }
        assert_eq!("default".parse::<Network>().unwrap(), Network::AllowAll);
        assert!("Allow All".parse::<Network>().is_err());
    }
}
