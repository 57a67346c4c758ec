//! Networks, policies and port maps as JSON in the database's columns, and
//! where those meet the domain's. Frozen as [`crate::row`] is.

use std::net::IpAddr;

use inn_domain::Network;
use inn_domain::network::{
    Action, Direction, Far, Listen, MapTarget, NetworkKind, NetworkSpec, Policy, PolicyRule,
    PortMap, PortRange, Protocol, RateLimits, Transport, Uplink,
};
use inn_units::{ForeignNetwork, InterfaceName, NetworkName, PortMapId, VmId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredNetwork {
    None,
    AllowAll,
    Named(NetworkName),
    Foreign(ForeignNetwork),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredNetworkSpec {
    name: NetworkName,
    kind: StoredNetworkKind,
    /// As CIDR.
    ipv4: Option<String>,
    ipv6: Option<String>,
    /// Whatever the default route leads through, if it is `None`.
    uplink: Option<InterfaceName>,
    mtu: Option<u16>,
    peers: bool,
    host: bool,
    metadata: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredNetworkKind {
    Nat,
    Routed,
    Isolated,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredPolicy {
    None,
    #[default]
    AllowAll,
    Rules {
        rules: Vec<StoredRule>,
        #[serde(default)]
        rates: StoredRates,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredRule {
    direction: StoredDirection,
    action: StoredAction,
    protocol: Option<StoredProtocol>,
    ports: Vec<(u16, u16)>,
    far: StoredFar,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredDirection {
    Egress,
    Ingress,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredAction {
    Allow,
    Deny,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredProtocol {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredFar {
    Any,
    Net(String),
    Domain(String),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredRates {
    egress_bytes: Option<u64>,
    ingress_bytes: Option<u64>,
    egress_packets: Option<u64>,
    ingress_packets: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredPortMap {
    transport: StoredTransport,
    listen: StoredListen,
    first: u16,
    last: u16,
    target: StoredTarget,
    target_port: u16,
    #[serde(default)]
    masquerade: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredTransport {
    Tcp,
    Udp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredListen {
    Any,
    Address(IpAddr),
    Interface(InterfaceName),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredTarget {
    Vm(VmId),
    Address(IpAddr),
}

impl From<Network> for StoredNetwork {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self::None,
            Network::AllowAll => Self::AllowAll,
            Network::Named(name) => Self::Named(name),
            Network::Foreign(network) => Self::Foreign(network),
        }
    }
}

impl From<StoredNetwork> for Network {
    fn from(row: StoredNetwork) -> Self {
        match row {
            StoredNetwork::None => Self::None,
            StoredNetwork::AllowAll => Self::AllowAll,
            StoredNetwork::Named(name) => Self::Named(name),
            StoredNetwork::Foreign(network) => Self::Foreign(network),
        }
    }
}

impl From<&NetworkSpec> for StoredNetworkSpec {
    fn from(spec: &NetworkSpec) -> Self {
        Self {
            name: spec.name.clone(),
            kind: match spec.kind {
                NetworkKind::Nat => StoredNetworkKind::Nat,
                NetworkKind::Routed => StoredNetworkKind::Routed,
                NetworkKind::Isolated => StoredNetworkKind::Isolated,
            },
            ipv4: spec.ipv4.map(|net| net.to_string()),
            ipv6: spec.ipv6.map(|net| net.to_string()),
            uplink: match &spec.uplink {
                Uplink::DefaultRoute => None,
                Uplink::Interface(name) => Some(name.clone()),
            },
            mtu: spec.mtu,
            peers: spec.peers,
            host: spec.host,
            metadata: spec.metadata,
        }
    }
}

impl StoredNetworkSpec {
    pub(crate) fn into_spec(self) -> Result<NetworkSpec, String> {
        let ipv4 = self.ipv4.map(|text| text.parse().map_err(|_| format!("{text} is no subnet")));
        let ipv6 = self.ipv6.map(|text| text.parse().map_err(|_| format!("{text} is no subnet")));
        Ok(NetworkSpec {
            name: self.name,
            kind: match self.kind {
                StoredNetworkKind::Nat => NetworkKind::Nat,
                StoredNetworkKind::Routed => NetworkKind::Routed,
                StoredNetworkKind::Isolated => NetworkKind::Isolated,
            },
            ipv4: ipv4.transpose()?,
            ipv6: ipv6.transpose()?,
            uplink: self.uplink.map_or(Uplink::DefaultRoute, Uplink::Interface),
            mtu: self.mtu,
            peers: self.peers,
            host: self.host,
            metadata: self.metadata,
        })
    }
}

impl From<&Policy> for StoredPolicy {
    fn from(policy: &Policy) -> Self {
        match policy {
            Policy::None => Self::None,
            Policy::AllowAll => Self::AllowAll,
            Policy::Rules { rules, rates } => Self::Rules {
                rules: rules.iter().map(StoredRule::from).collect(),
                rates: StoredRates {
                    egress_bytes: rates.egress_bytes,
                    ingress_bytes: rates.ingress_bytes,
                    egress_packets: rates.egress_packets,
                    ingress_packets: rates.ingress_packets,
                },
            },
        }
    }
}

impl From<&PolicyRule> for StoredRule {
    fn from(rule: &PolicyRule) -> Self {
        Self {
            direction: match rule.direction {
                Direction::Egress => StoredDirection::Egress,
                Direction::Ingress => StoredDirection::Ingress,
            },
            action: match rule.action {
                Action::Allow => StoredAction::Allow,
                Action::Deny => StoredAction::Deny,
            },
            protocol: rule.protocol.map(|protocol| match protocol {
                Protocol::Tcp => StoredProtocol::Tcp,
                Protocol::Udp => StoredProtocol::Udp,
                Protocol::Icmp => StoredProtocol::Icmp,
            }),
            ports: rule.ports.iter().map(|range| (range.first, range.last)).collect(),
            far: match &rule.far {
                Far::Any => StoredFar::Any,
                Far::Net(net) => StoredFar::Net(net.to_string()),
                Far::Domain(name) => StoredFar::Domain(name.clone()),
            },
        }
    }
}

impl StoredPolicy {
    pub(crate) fn into_policy(self) -> Result<Policy, String> {
        Ok(match self {
            Self::None => Policy::None,
            Self::AllowAll => Policy::AllowAll,
            Self::Rules { rules, rates } => Policy::Rules {
                rules: rules.into_iter().map(StoredRule::into_rule).collect::<Result<_, _>>()?,
                rates: RateLimits {
                    egress_bytes: rates.egress_bytes,
                    ingress_bytes: rates.ingress_bytes,
                    egress_packets: rates.egress_packets,
                    ingress_packets: rates.ingress_packets,
                },
            },
        })
    }
}

impl StoredRule {
    fn into_rule(self) -> Result<PolicyRule, String> {
        Ok(PolicyRule {
            direction: match self.direction {
                StoredDirection::Egress => Direction::Egress,
                StoredDirection::Ingress => Direction::Ingress,
            },
            action: match self.action {
                StoredAction::Allow => Action::Allow,
                StoredAction::Deny => Action::Deny,
            },
            protocol: self.protocol.map(|protocol| match protocol {
                StoredProtocol::Tcp => Protocol::Tcp,
                StoredProtocol::Udp => Protocol::Udp,
                StoredProtocol::Icmp => Protocol::Icmp,
            }),
            ports: self.ports.into_iter().map(|(first, last)| PortRange { first, last }).collect(),
            far: match self.far {
                StoredFar::Any => Far::Any,
                StoredFar::Net(text) => {
                    Far::Net(text.parse().map_err(|_| format!("{text} is no subnet"))?)
                }
                StoredFar::Domain(name) => Far::Domain(name),
            },
        })
    }
}

impl From<&PortMap> for StoredPortMap {
    fn from(map: &PortMap) -> Self {
        Self {
            transport: match map.transport {
                Transport::Tcp => StoredTransport::Tcp,
                Transport::Udp => StoredTransport::Udp,
            },
            listen: match &map.listen {
                Listen::Any => StoredListen::Any,
                Listen::Address(address) => StoredListen::Address(*address),
                Listen::Interface(name) => StoredListen::Interface(name.clone()),
            },
            first: map.ports.first,
            last: map.ports.last,
            target: match map.target {
                MapTarget::Vm(id) => StoredTarget::Vm(id),
                MapTarget::Address(address) => StoredTarget::Address(address),
            },
            target_port: map.target_port,
            masquerade: map.masquerade,
        }
    }
}

impl StoredPortMap {
    pub(crate) fn into_map(self, id: PortMapId) -> PortMap {
        PortMap {
            id,
            transport: match self.transport {
                StoredTransport::Tcp => Transport::Tcp,
                StoredTransport::Udp => Transport::Udp,
            },
            listen: match self.listen {
                StoredListen::Any => Listen::Any,
                StoredListen::Address(address) => Listen::Address(address),
                StoredListen::Interface(name) => Listen::Interface(name),
            },
            ports: PortRange { first: self.first, last: self.last },
            target: match self.target {
                StoredTarget::Vm(id) => MapTarget::Vm(id),
                StoredTarget::Address(address) => MapTarget::Address(address),
            },
            target_port: self.target_port,
            masquerade: self.masquerade,
        }
    }
}
