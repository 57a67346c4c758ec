//! Whether a VM may be attached as it asks, and whether its policy makes sense.

use inn_units::{ForeignNetwork, InterfaceName, NetworkName};

use super::{Action, AddressWish, Direction, Far, Policy, PolicyRule, Protocol, RateLimits};
use crate::Network;

/// Each rule is some instructions for each packet that fits none before it.
pub const MOST_RULES: usize = 256;

/// Of one rule.
pub const MOST_PORTS: usize = 64;

/// Below that not even a handshake would get through.
const LEAST_BYTES: u64 = 1024;

/// How VMs of this node get to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkWay {
    /// By a tap on a bridge of ours.
    Bridge,
    /// By the VMM's own user-mode network.
    User,
    /// Not at all.
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachDeniedReason {
    #[error(
        "there is no network {name}; `inn network list` shows those there are, `inn network create {name} --subnet CIDR` makes one"
    )]
    NoNetwork { name: NetworkName },
    #[error(
        "{what} cannot be had with user-mode networking ({why}); run the agent as root with network.mode = \"bridge\" for {what}"
    )]
    NotInUserMode { what: &'static str, why: String },
    #[error("this node has no network (network.mode is none); make the VM with the network none")]
    Off,
    #[error(
        "a VM without a network has no address, no policy and no port maps; give it a network, or leave them out"
    )]
    WithoutNetwork,
    #[error(
        "the node has no part in {network}, and so no {what} there; leave that out, or put the VM on a network of the node's"
    )]
    NotItsNetwork { what: &'static str, network: ForeignNetwork },
    #[error(
        "this node puts no VMs on the host's bridge {name}; name it in runtimes.libvirt.bridge, or choose another network"
    )]
    NoBridge { name: InterfaceName },
    #[error("it is being deleted")]
    BeingDeleted,
    #[error("rule {rule} of the policy {why}")]
    Rule { rule: usize, why: String },
    #[error("{given} rules are too many for a policy; give it {MOST_RULES} at most")]
    TooManyRules { given: usize },
    #[error("a limit of {given} a second would let nothing through; give it {least} at least")]
    RateTooSmall { given: u64, least: u64 },
}

/// Whether a VM may have this network, with this policy. `why_user` is why
/// the node has no bridges, `known` whether there is a network of that name, or
/// where it is a bridge of the host's whether VMs may be put on it.
pub fn admit_attachment(
    network: &Network,
    policy: &Policy,
    way: NetworkWay,
    why_user: &str,
    known: bool,
) -> Result<(), AttachDeniedReason> {
    use AttachDeniedReason as Denied;
    admit_policy(policy)?;
    let user = |what| Denied::NotInUserMode { what, why: why_user.to_owned() };
    match (network, way) {
        (Network::None, _) if *policy != Policy::AllowAll => Err(Denied::WithoutNetwork),
        (Network::None, _) => Ok(()),
        (_, NetworkWay::Off) => Err(Denied::Off),
        (Network::Foreign(network), _) if *policy != Policy::AllowAll => {
            Err(Denied::NotItsNetwork { what: "policy", network: network.clone() })
        }
        (Network::Foreign(ForeignNetwork::Bridge(name)), _) if !known => {
            Err(Denied::NoBridge { name: name.clone() })
        }
        (Network::Named(_), NetworkWay::User) => Err(user("a named network")),
        (Network::AllowAll, NetworkWay::User) if *policy != Policy::AllowAll => {
            Err(user("a policy"))
        }
        (Network::Named(name), NetworkWay::Bridge) if !known => {
            Err(Denied::NoNetwork { name: name.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether ports of the node's may lead to a VM on this network.
pub fn admit_port_target(network: &Network) -> Result<(), AttachDeniedReason> {
    match network {
        Network::None => Err(AttachDeniedReason::WithoutNetwork),
        Network::Foreign(network) => {
            Err(AttachDeniedReason::NotItsNetwork { what: "port maps", network: network.clone() })
        }
        Network::AllowAll | Network::Named(_) => Ok(()),
    }
}

/// Whether a VM on this network may have addresses of its maker's choice.
pub fn admit_wish(
    wish: AddressWish,
    network: &Network,
    way: NetworkWay,
    why_user: &str,
) -> Result<(), AttachDeniedReason> {
    const WHAT: &str = "an address of your choice";
    if wish == AddressWish::default() {
        return Ok(());
    }
    match (network, way) {
        (Network::None, _) => Err(AttachDeniedReason::WithoutNetwork),
        (Network::Foreign(network), _) => {
            Err(AttachDeniedReason::NotItsNetwork { what: WHAT, network: network.clone() })
        }
        (_, NetworkWay::User) => {
            Err(AttachDeniedReason::NotInUserMode { what: WHAT, why: why_user.to_owned() })
        }
        (_, NetworkWay::Bridge | NetworkWay::Off) => Ok(()),
    }
}

pub fn admit_policy(policy: &Policy) -> Result<(), AttachDeniedReason> {
    let Policy::Rules { rules, rates } = policy else { return Ok(()) };
    if rules.len() > MOST_RULES {
        return Err(AttachDeniedReason::TooManyRules { given: rules.len() });
    }
    for (i, rule) in rules.iter().enumerate() {
        if let Err(why) = check_rule(rule) {
            return Err(AttachDeniedReason::Rule { rule: i + 1, why });
        }
    }
    check_rates(rates)
}

fn check_rule(rule: &PolicyRule) -> Result<(), String> {
    if !rule.ports.is_empty() && !matches!(rule.protocol, Some(Protocol::Tcp | Protocol::Udp)) {
        return Err("has ports and no protocol that has them; say tcp or udp".into());
    }
    if rule.ports.len() > MOST_PORTS {
        return Err(format!("has more than {MOST_PORTS} ports or ranges; make it two rules"));
    }
    if let Some(range) = rule.ports.iter().find(|range| range.last < range.first) {
        return Err(format!("has the ports {}-{}, which go down", range.first, range.last));
    }
    let Far::Domain(name) = &rule.far else { return Ok(()) };
    if rule.direction == Direction::Ingress {
        return Err("is about who may come in by name; names are for egress, give it a CIDR".into());
    }
    if rule.action == Action::Deny {
        return Err(
            "denies a name; addresses have many names, so allow those that are to be reached"
                .into(),
        );
    }
    check_domain(name)
}

/// RFC 1035, 2.3.4, and RFC 1123, 2.1, in lower case; `*.` in front stands for
/// all below.
fn check_domain(name: &str) -> Result<(), String> {
    let bare = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
    };
    let numeric = bare.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_ok());
    if bare.len() > 253 || !bare.split('.').all(label) || numeric {
        let shown: String = name.chars().take(80).collect();
        return Err(format!("has the name `{shown}`; write it as in example.org or *.example.org"));
    }
    Ok(())
}

fn check_rates(rates: &RateLimits) -> Result<(), AttachDeniedReason> {
    let bytes = [rates.egress_bytes, rates.ingress_bytes].map(|rate| (rate, LEAST_BYTES));
    let packets = [rates.egress_packets, rates.ingress_packets].map(|rate| (rate, 1));
    for (rate, least) in bytes.into_iter().chain(packets) {
        match rate {
            Some(given) if given < least => {
                return Err(AttachDeniedReason::RateTooSmall { given, least });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PortRange;

    fn rule(far: Far) -> PolicyRule {
        PolicyRule {
            direction: Direction::Egress,
            action: Action::Allow,
            protocol: None,
            ports: vec![],
            far,
        }
    }

    fn rules(rules: Vec<PolicyRule>) -> Policy {
        Policy::Rules { rules, rates: RateLimits::default() }
    }

    #[test]
    fn a_policy_says_what_can_be_kept() {
        let domain = |name: &str| rule(Far::Domain(name.into()));
        for good in ["example.org", "*.example.org", "a", "_dmarc.example.org", "1.example"] {
            assert_eq!(admit_policy(&rules(vec![domain(good)])), Ok(()), "{good}");
        }
        let ports = |protocol, ports: &[(u16, u16)]| PolicyRule {
            protocol,
            ports: ports
                .iter()
                .map(|(first, last)| PortRange { first: *first, last: *last })
                .collect(),
            ..rule(Far::Any)
        };
        for (bad, words) in [
            (domain("Example.org"), "example.org or"),
            (domain("a..b"), "example.org or"),
            (domain("192.0.2.1"), "example.org or"),
            (domain("*"), "example.org or"),
            (domain("a.*.b"), "example.org or"),
            (PolicyRule { direction: Direction::Ingress, ..domain("a.b") }, "a CIDR"),
            (PolicyRule { action: Action::Deny, ..domain("a.b") }, "many names"),
            (ports(None, &[(1, 1)]), "tcp or udp"),
            (ports(Some(Protocol::Icmp), &[(1, 1)]), "tcp or udp"),
            (ports(Some(Protocol::Tcp), &[(2, 1)]), "go down"),
            (ports(Some(Protocol::Tcp), &[(1, 1); 65]), "two rules"),
        ] {
            let denied = admit_policy(&rules(vec![rule(Far::Any), bad])).unwrap_err().to_string();
            assert!(denied.contains(words) && denied.contains("rule 2"), "{denied}");
        }
        let many = rules(vec![rule(Far::Any); MOST_RULES + 1]);
        assert!(admit_policy(&many).unwrap_err().to_string().contains("257"));
        let slow = RateLimits { ingress_packets: Some(0), ..RateLimits::default() };
        assert!(admit_policy(&Policy::Rules { rules: vec![], rates: slow }).is_err());
    }

    #[test]
    fn what_cannot_be_had_is_said_by_name() {
        let named = Network::Named("web".parse().unwrap());
        let admit = |network: &Network, policy: &Policy, way, known| {
            admit_attachment(network, policy, way, "the agent is not root", known)
                .map_err(|denied| denied.to_string())
        };
        let (all, none) = (Policy::AllowAll, Policy::None);
        let foreign = |text: &str| Network::Foreign(text.parse().unwrap());
        let (libvirts, bridge) = (foreign("libvirt:default"), foreign("bridge:br0"));
        use NetworkWay::{Bridge, Off, User};
        for (network, policy, way, known) in [
            (&Network::AllowAll, &all, User, false),
            (&Network::AllowAll, &none, Bridge, true),
            (&named, &none, Bridge, true),
            (&Network::None, &all, Off, false),
            (&libvirts, &all, User, false),
            (&bridge, &all, Bridge, true),
        ] {
            assert_eq!(admit(network, policy, way, known), Ok(()));
        }
        for (network, policy, way, words) in [
            (&named, &all, User, "a named network cannot be had"),
            (&Network::AllowAll, &none, User, "a policy cannot be had"),
            (&Network::AllowAll, &none, User, "the agent is not root"),
            (&named, &all, Bridge, "inn network create web"),
            (&Network::AllowAll, &all, Off, "network.mode is none"),
            (&Network::None, &none, Bridge, "without a network"),
            (&libvirts, &none, Bridge, "no part in libvirt:default, and so no policy"),
            (&libvirts, &all, Off, "network.mode is none"),
            (&bridge, &all, Bridge, "name it in runtimes.libvirt.bridge"),
        ] {
            let denied = admit(network, policy, way, false).unwrap_err();
            assert!(denied.contains(words), "{denied}");
        }
        assert_eq!(admit_port_target(&named), Ok(()));
        let denied = admit_port_target(&bridge).unwrap_err().to_string();
        assert!(denied.contains("bridge:br0, and so no port maps"), "{denied}");
    }
}
