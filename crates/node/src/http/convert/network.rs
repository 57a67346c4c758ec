//! Networks, policies and port maps, inwards and back.

use std::net::IpAddr;

use inn_api as api;
use inn_domain::Network;
use inn_domain::network::{
    Action, Direction, Far, Listen, MapTarget, NetworkKind, NetworkWay, Policy, PolicyRule,
    PortMap, PortRange, Protocol, RateLimits, Transport, Uplink, bridge_name, gateway4, gateway6,
};
use inn_store::NetworkRecord;
use inn_units::VmId;
use ipnet::IpNet;

use crate::http::problem::Failed;
use crate::network::{NewNetwork, NewPortMap, NewTarget, vms_on};
use crate::node::Node;
use crate::vm::{USER_ADDRESS, VmHandle};

/// Where programs look for a VM by its name.
pub(in crate::http) const DOMAIN: &str = "inn.internal";

pub(in crate::http) fn network_in(network: api::Network) -> Network {
    match network {
        api::Network::None => Network::None,
        api::Network::AllowAll => Network::AllowAll,
        api::Network::Named(name) => Network::Named(name),
        api::Network::Foreign(network) => Network::Foreign(network),
    }
}

pub(in crate::http) fn network(network: &Network) -> api::Network {
    match network {
        Network::None => api::Network::None,
        Network::AllowAll => api::Network::AllowAll,
        Network::Named(name) => api::Network::Named(name.clone()),
        Network::Foreign(network) => api::Network::Foreign(network.clone()),
    }
}

pub(in crate::http) fn new_network(create: api::NetworkCreate) -> Result<NewNetwork, Failed> {
    let wrong = |text: &str, example: &str| {
        let shown: String = text.chars().take(80).collect();
        Failed::invalid(format!("`{shown}` is no subnet; write it as in {example}"))
    };
    let ipv4 = create
        .ipv4
        .map(|text| text.parse().map_err(|_| wrong(&text, "10.99.0.0/24")))
        .transpose()?;
    let ipv6 = create
        .ipv6
        .map(|text| text.parse().map_err(|_| wrong(&text, "fd00:99::/64")))
        .transpose()?;
    Ok(NewNetwork {
        name: create.name,
        kind: match create.kind {
            api::NetworkKind::Nat => NetworkKind::Nat,
            api::NetworkKind::Routed => NetworkKind::Routed,
            api::NetworkKind::Isolated => NetworkKind::Isolated,
        },
        ipv4,
        ipv6,
        uplink: create.uplink,
        mtu: create.mtu,
        peers: create.peers,
        host: create.host,
        metadata: create.metadata,
    })
}

pub(in crate::http) fn host_network(node: &Node, record: &NetworkRecord) -> api::HostNetwork {
    let spec = &record.spec;
    let gateway4 = spec.ipv4.and_then(gateway4).map(IpAddr::V4);
    api::HostNetwork {
        id: record.id,
        name: spec.name.clone(),
        kind: match spec.kind {
            NetworkKind::Nat => api::NetworkKind::Nat,
            NetworkKind::Routed => api::NetworkKind::Routed,
            NetworkKind::Isolated => api::NetworkKind::Isolated,
        },
        ipv4: spec.ipv4.map(|net| net.to_string()),
        ipv6: spec.ipv6.map(|net| net.to_string()),
        gateways: gateway4.into_iter().chain(spec.ipv6.map(gateway6).map(IpAddr::V6)).collect(),
        bridge: bridge_name(record.id),
        uplink: match &spec.uplink {
            Uplink::DefaultRoute => None,
            Uplink::Interface(name) => Some(name.clone()),
        },
        mtu: spec.mtu,
        peers: spec.peers,
        host: spec.host,
        metadata: spec.metadata,
        vms: vms_on(node, record).iter().map(ToString::to_string).collect(),
        problems: node.networks.problems(record.id),
        created_at: record.created_at,
    }
}

/// `vm_of` finds a VM by its name or id.
pub(in crate::http) fn new_port_map(
    create: api::PortMapCreate,
    itself: bool,
    vm_of: impl Fn(&str) -> Result<VmId, Failed>,
) -> Result<NewPortMap, Failed> {
    let port = create.host_port;
    let about = |why: &str| Failed::invalid(format!("the map of port {port} {why}"));
    let listen = match (create.host_address, create.interface) {
        (None, None) => Listen::Any,
        (Some(address), None) => Listen::Address(address),
        (None, Some(name)) => Listen::Interface(name),
        (Some(_), Some(_)) => return Err(about("has an address and an interface; give it one")),
    };
    let target = match (&create.vm, create.target_address, itself) {
        (None, None, true) => NewTarget::Itself,
        (_, _, true) => return Err(about("is the new VM's own; leave vm and targetAddress out")),
        (Some(vm), None, false) => NewTarget::Vm(vm_of(vm)?),
        (None, Some(address), false) => NewTarget::Address(address),
        (None, None, false) => return Err(about("leads nowhere; give it vm or targetAddress")),
        (Some(_), Some(_), false) => {
            return Err(about("has a VM and an address to lead to; give it one"));
        }
    };
    Ok(NewPortMap {
        transport: match create.protocol {
            api::Transport::Tcp => Transport::Tcp,
            api::Transport::Udp => Transport::Udp,
        },
        listen,
        ports: PortRange { first: port, last: create.host_port_end.unwrap_or(port) },
        target,
        target_port: create.target_port.unwrap_or(port),
        masquerade: create.masquerade,
    })
}

pub(in crate::http) fn port_map(node: &Node, map: &PortMap) -> api::PortMap {
    let vm = match map.target {
        MapTarget::Vm(id) => node.vms.of_id(id),
        MapTarget::Address(_) => None,
    };
    let (host_address, interface) = match &map.listen {
        Listen::Any => (None, None),
        Listen::Address(address) => (Some(*address), None),
        Listen::Interface(name) => (None, Some(name.clone())),
    };
    let mut targets = match map.target {
        MapTarget::Vm(_) if node.networks.mode.way == NetworkWay::User => {
            vec![IpAddr::V4(USER_ADDRESS)]
        }
        MapTarget::Vm(id) => node.networks.addresses(id),
        MapTarget::Address(address) => vec![address],
    };
    if let Some(listen) = host_address {
        targets.retain(|target| target.is_ipv4() == listen.is_ipv4());
    }
    api::PortMap {
        id: map.id,
        name: port_map_name(map),
        protocol: match map.transport {
            Transport::Tcp => api::Transport::Tcp,
            Transport::Udp => api::Transport::Udp,
        },
        host_port: map.ports.first,
        host_port_end: (!map.ports.is_single()).then_some(map.ports.last),
        host_address,
        interface,
        vm: vm.map(|vm| vm.spec().name.clone()),
        vm_id: match map.target {
            MapTarget::Vm(id) => Some(id),
            MapTarget::Address(_) => None,
        },
        target_address: match map.target {
            MapTarget::Vm(_) => None,
            MapTarget::Address(address) => Some(address),
        },
        target_port: map.target_port,
        // The VMM's own network shows its guest nobody else.
        masquerade: map.masquerade || node.networks.mode.way == NetworkWay::User,
        targets,
        error: node.networks.unforwarded(map.id),
    }
}

fn port_map_name(map: &PortMap) -> String {
    let place = match &map.listen {
        Listen::Any => String::new(),
        Listen::Address(IpAddr::V4(address)) => format!("{address}:"),
        Listen::Address(IpAddr::V6(address)) => format!("[{address}]:"),
        Listen::Interface(name) => format!("{name}:"),
    };
    let PortRange { first, last } = map.ports;
    let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
    format!("{place}{ports}/{}", map.transport)
}

pub(in crate::http) fn policy_in(policy: api::Policy) -> Result<Policy, Failed> {
    let api::Policy { mode, rules, rates } = policy;
    let bare = rules.is_empty() && rates.is_empty();
    match mode {
        api::PolicyMode::None | api::PolicyMode::AllowAll if !bare => Err(Failed::invalid(
            "a policy has rules and rates with the mode rules only; say that, or leave them out",
        )),
        api::PolicyMode::None => Ok(Policy::None),
        api::PolicyMode::AllowAll => Ok(Policy::AllowAll),
        api::PolicyMode::Rules => Ok(Policy::Rules {
            rules: rules
                .into_iter()
                .enumerate()
                .map(|(i, rule)| rule_in(i + 1, rule))
                .collect::<Result<_, _>>()?,
            rates: RateLimits {
                egress_bytes: rates.egress_bps,
                ingress_bytes: rates.ingress_bps,
                egress_packets: rates.egress_pps,
                ingress_packets: rates.ingress_pps,
            },
        }),
    }
}

fn rule_in(number: usize, rule: api::PolicyRule) -> Result<PolicyRule, Failed> {
    let about = |why: String| Failed::invalid(format!("rule {number} of the policy {why}"));
    let far = match (rule.cidr, rule.domain) {
        (None, None) => Far::Any,
        (None, Some(name)) => Far::Domain(name.to_ascii_lowercase()),
        (Some(text), None) => Far::Net(net_of(&text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            about(format!("has `{shown}`, which is no subnet; write it as in 192.0.2.0/24"))
        })?),
        (Some(_), Some(_)) => return Err(about("has a CIDR and a name; give it one".to_owned())),
    };
    Ok(PolicyRule {
        direction: match rule.direction {
            api::PolicyDirection::Egress => Direction::Egress,
            api::PolicyDirection::Ingress => Direction::Ingress,
        },
        action: match rule.action {
            api::PolicyAction::Allow => Action::Allow,
            api::PolicyAction::Deny => Action::Deny,
        },
        protocol: rule.protocol.map(|protocol| match protocol {
            api::PolicyProtocol::Tcp => Protocol::Tcp,
            api::PolicyProtocol::Udp => Protocol::Udp,
            api::PolicyProtocol::Icmp => Protocol::Icmp,
        }),
        ports: rule
            .ports
            .into_iter()
            .map(|range| PortRange { first: range.first, last: range.last })
            .collect(),
        far,
    })
}

/// An address alone is a subnet of one.
fn net_of(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok();
    net.map(|net| net.trunc()).or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

pub(in crate::http) fn policy(policy: &Policy) -> api::Policy {
    match policy {
        Policy::None => api::Policy { mode: api::PolicyMode::None, ..api::Policy::default() },
        Policy::AllowAll => api::Policy::default(),
        Policy::Rules { rules, rates } => api::Policy {
            mode: api::PolicyMode::Rules,
            rules: rules.iter().map(rule).collect(),
            rates: api::RateLimits {
                egress_bps: rates.egress_bytes,
                ingress_bps: rates.ingress_bytes,
                egress_pps: rates.egress_packets,
                ingress_pps: rates.ingress_packets,
            },
        },
    }
}

fn rule(rule: &PolicyRule) -> api::PolicyRule {
    let (cidr, domain) = match &rule.far {
        Far::Any => (None, None),
        Far::Net(net) => (Some(net.to_string()), None),
        Far::Domain(name) => (None, Some(name.clone())),
    };
    api::PolicyRule {
        direction: match rule.direction {
            Direction::Egress => api::PolicyDirection::Egress,
            Direction::Ingress => api::PolicyDirection::Ingress,
        },
        action: match rule.action {
            Action::Allow => api::PolicyAction::Allow,
            Action::Deny => api::PolicyAction::Deny,
        },
        protocol: rule.protocol.map(|protocol| match protocol {
            Protocol::Tcp => api::PolicyProtocol::Tcp,
            Protocol::Udp => api::PolicyProtocol::Udp,
            Protocol::Icmp => api::PolicyProtocol::Icmp,
        }),
        ports: rule
            .ports
            .iter()
            .map(|range| api::PortRange { first: range.first, last: range.last })
            .collect(),
        cidr,
        domain,
    }
}

pub(in crate::http) fn policy_state(node: &Node, vm: &VmHandle) -> api::VmPolicyState {
    let now = vm.policy();
    let denied = node.networks.denied(vm.id(), &now);
    api::VmPolicyState {
        policy: policy(&now),
        denied: denied
            .into_iter()
            .map(|count| api::DeniedCount {
                by: count.by,
                packets: count.packets,
                bytes: count.bytes,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_comes_back_as_it_went_in() {
        let text = r#"{"mode":"rules","rules":[{"direction":"egress","action":"allow",
            "protocol":"tcp","ports":["443"],"domain":"example.org"},{"direction":"ingress",
            "action":"deny","cidr":"10.0.0.0/8"},{"direction":"egress","action":"deny"}],
            "rates":{"egressPps":9}}"#;
        let wanted: api::Policy = serde_json::from_str(text).unwrap();
        assert_eq!(policy(&policy_in(wanted.clone()).unwrap()), wanted);
        for mode in [api::PolicyMode::None, api::PolicyMode::AllowAll] {
            let wanted = api::Policy { mode, ..api::Policy::default() };
            assert_eq!(policy(&policy_in(wanted.clone()).unwrap()), wanted);
            let odd = api::Policy {
                mode,
                rules: vec![],
                rates: api::RateLimits { egress_bps: Some(1 << 20), ..api::RateLimits::default() },
            };
            assert!(policy_in(odd).is_err());
        }
        let rule = |cidr: &str| api::Policy {
            mode: api::PolicyMode::Rules,
            rules: vec![serde_json::from_value(serde_json::json!({ "cidr": cidr })).unwrap()],
            rates: api::RateLimits::default(),
        };
        let one = policy(&policy_in(rule("192.0.2.7")).unwrap());
        assert_eq!(one.rules[0].cidr.as_deref(), Some("192.0.2.7/32"));
        let wide = policy(&policy_in(rule("192.0.2.7/24")).unwrap());
        assert_eq!(wide.rules[0].cidr.as_deref(), Some("192.0.2.0/24"));
        assert!(policy_in(rule("here")).unwrap_err().0.detail.contains("rule 1"));
    }

    #[test]
    fn a_port_map_is_named_by_where_it_listens() {
        let map = |listen, first, last| PortMap {
            id: inn_units::PortMapId::from_bytes([1; 8]),
            transport: Transport::Udp,
            listen,
            ports: PortRange { first, last },
            target: MapTarget::Vm(VmId::from_bytes([1; 5])),
            target_port: 80,
            masquerade: false,
        };
        assert_eq!(port_map_name(&map(Listen::Any, 80, 80)), "80/udp");
        let v6 = Listen::Address("2001:db8::1".parse().unwrap());
        assert_eq!(port_map_name(&map(v6, 80, 90)), "[2001:db8::1]:80-90/udp");
        let eth = Listen::Interface("eth0".parse().unwrap());
        assert_eq!(port_map_name(&map(eth, 80, 80)), "eth0:80/udp");
    }
}
