use std::net::IpAddr;

use inn_domain::Network;
use inn_domain::network::{NetworkWay, PortMap};

use super::state::Networks;
use crate::vm::{USER_ADDRESS, VmHandle};

/// How far the way between a VM and the network goes.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) attached: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// That lead to it, each with why it does not.
    pub(crate) ports: Vec<(PortMap, Option<String>)>,
    pub(crate) error: Option<String>,
    pub(crate) blocked: Vec<String>,
}

impl Networks {
    /// None of a VM that has no network.
    pub(crate) fn standing(&self, vm: &VmHandle) -> Option<Standing> {
        if vm.spec().network == Network::None {
            return None;
        }
        let id = vm.id();
        let addresses = match (&vm.spec().network, self.mode.way) {
            // `GET /api/vms/{vm}/ip` asks for them.
            (Network::Foreign(_), _) => Vec::new(),
            (_, NetworkWay::User) => vec![IpAddr::V4(USER_ADDRESS)],
            _ => self.addresses(id),
        };
        let ports = self.maps_of(id).into_iter().map(|map| {
            let error = self.unforwarded(map.id);
            (map, error)
        });
        let ports = ports.collect();
        let applied = self.applied.borrow();
        Some(Standing {
            attached: self.is_attached(id),
            addresses,
            error: applied.error.as_deref().map(str::to_owned),
            blocked: applied.in_the_way().collect(),
            ports,
        })
    }
}

impl Standing {
    /// What does not hold, a sentence each.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let ports = self.ports.iter().filter_map(|(_, error)| error.clone());
        self.error.iter().cloned().chain(ports).chain(self.blocked.iter().cloned()).collect()
    }
}
