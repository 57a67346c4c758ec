use std::collections::HashMap;
use std::net::IpAddr;

use inn_domain::network::{Attachment, Declared, DeclaredMap, DeclaredNetwork, MapTarget, Uplink};
use inn_net::link::{self, Observed};
use inn_store::LeaseRecord;
use inn_units::VmId;

use super::state::Networks;
use crate::vm::{Vms, mac};

impl Networks {
    /// Everything as it should be now, on a host that looks like this.
    pub(super) fn declared(&self, vms: &Vms, host: &Observed) -> Declared {
        let (default4, default6) = (link::uplink4(host), link::uplink6(host));
        let state = self.read();
        let networks = state.networks.iter().map(|record| {
            let (uplink4, uplink6) = match &record.spec.uplink {
                Uplink::DefaultRoute => (default4.clone(), default6.clone()),
                Uplink::Interface(name) => (Some(name.clone()), Some(name.clone())),
            };
            let probed = || link::mtu(host, &[uplink4.clone(), uplink6.clone()]);
            DeclaredNetwork {
                id: record.id,
                mtu: record.spec.mtu.unwrap_or_else(probed),
                spec: record.spec.clone(),
                uplink4,
                uplink6,
            }
        });
        let networks: Vec<_> = networks.collect();
        // Thousands of maps lead to a thousand VMs.
        let leases: HashMap<VmId, &LeaseRecord> = state
            .leases
            .iter()
            .filter(|lease| lease.released.is_none())
            .map(|lease| (lease.vm, lease))
            .collect();
        let lease_of = |vm: VmId| leases.get(&vm).copied();
        let attachments = state.attached.iter().filter_map(|id| {
            let (vm, lease) = (vms.of_id(*id)?, lease_of(*id)?);
            Some(Attachment {
                vm: *id,
                name: vm.spec().name.clone(),
                network: lease.network,
                mac: mac(*id),
                ipv4: lease.ipv4,
                ipv6: lease.ipv6,
                policy: vm.policy(),
            })
        });
        let attachments = attachments.collect();
        let maps = state.maps.iter().filter_map(|map| {
            let targets = match map.target {
                MapTarget::Address(address) => vec![address],
                MapTarget::Vm(id) => {
                    // One that has yet to take another's place has none.
                    vms.of_id(id)?;
                    let lease = lease_of(id);
                    let ipv4 = lease.and_then(|lease| lease.ipv4).map(IpAddr::V4);
                    let ipv6 = lease.and_then(|lease| lease.ipv6).map(IpAddr::V6);
                    ipv4.into_iter().chain(ipv6).collect()
                }
            };
            Some(DeclaredMap { map: map.clone(), targets })
        });
        let maps = maps.collect();
        Declared { instance: self.instance.clone(), networks, attachments, maps }
    }
}
