//! Whether the kernel hands what a bridge carries from port to port to the
//! host's firewall (br_netfilter, which Docker loads): then a port map's target
//! is put in while a frame is still the bridge's, which hands it from one VM to
//! the other itself, and isolated ports refuse that. Our tables cannot undo it.

use std::fs;

use inn_domain::network::{Declared, Listen};

/// Of the calling thread's network namespace; no files without the module.
const SETTINGS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// Which of them are on, for IPv4 and IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BrNetfilter(pub [bool; 2]);

impl BrNetfilter {
    pub fn read() -> Self {
        let is_on = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/net/bridge/{name}"));
            text.is_ok_and(|text| text.trim() == "1")
        };
        Self(SETTINGS.map(is_on))
    }

    /// What VMs cannot do for it, and the way out; nothing, where no map leads
    /// to one.
    pub fn blocks(self, declared: &Declared) -> Option<String> {
        let leads_to_a_vm = |four: bool| {
            let inside = |ip: &std::net::IpAddr| {
                ip.is_ipv4() == four
                    && declared.networks.iter().any(|network| match ip {
                        std::net::IpAddr::V4(ip) => {
                            network.spec.ipv4.is_some_and(|net| net.contains(ip))
                        }
                        std::net::IpAddr::V6(ip) => {
                            network.spec.ipv6.is_some_and(|net| net.contains(ip))
                        }
                    })
            };
            // One at an interface of the host's is not for VMs.
            let mut maps = declared.maps.iter();
            maps.any(|map| {
                !matches!(map.map.listen, Listen::Interface(_)) && map.targets.iter().any(inside)
            })
        };
        let families = SETTINGS.into_iter().zip(self.0).zip([true, false]);
        let on: Vec<String> = families
            .filter(|((_, on), four)| *on && leads_to_a_vm(*four))
            .map(|((name, _), _)| format!("net.bridge.{name}=0"))
            .collect();
        (!on.is_empty()).then(|| {
            format!(
                "the kernel's br_netfilter has frames between ports of a bridge judged as if they \
                 were routed, so a VM gets no answer from a mapped port of its own network that it \
                 asks for by the host's address: `sysctl {}` lets it through, where nothing else \
                 on this host (Docker, Kubernetes) relies on it",
                on.join(" ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use inn_domain::network::{NetworkKind, Transport};

    use super::*;
    use crate::table::tests::{map, network};

    #[test]
    fn it_is_named_where_a_map_leads_to_a_vm() {
        let mut declared =
            Declared { networks: vec![network(1, NetworkKind::Nat)], ..Declared::default() };
        let both = BrNetfilter([true, true]);
        assert_eq!(both.blocks(&declared), None);
        let targets = (&["10.77.1.2", "192.0.2.9"][..], 80);
        declared.maps.push(map(Listen::Any, Transport::Tcp, (80, 80), targets));
        let said = both.blocks(&declared).unwrap();
        assert!(said.contains("`sysctl net.bridge.bridge-nf-call-iptables=0`"), "{said}");
        assert_eq!(BrNetfilter([false, true]).blocks(&declared), None);
        assert_eq!(BrNetfilter::default().blocks(&declared), None);
        declared.maps[0].targets = vec!["192.0.2.9".parse().unwrap()];
        assert_eq!(both.blocks(&declared), None, "it leads to none of ours");
    }
}
