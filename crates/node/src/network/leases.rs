//! Which addresses VMs have on our bridges.
//!
//! ```text
//!   a VM is made ────────────▶ chosen, or as wished ▶ stored with its record
//!   others are asked for ────▶ chosen ▶ stored, untold ▶ in force ▶ its guest told ▶ noted
//!   it has others, or is gone ──▶ released: given to another as late as can be
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use inn_domain::network::{AddressWish, NetworkSpec};
use inn_net::ipam::{self, AddressDeniedReason, Lease};
use inn_store::{LeaseRecord, NetworkRecord, Store, StoreError};
use inn_units::{NetworkName, VmId};
use jiff::Timestamp;

use super::state::Networks;
use crate::vm::mac;

/// What is to become of a VM's addresses. `Some(None)` is one of the node's
/// choice: of IPv4 another one, of IPv6 the one of its MAC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AddressChange {
    pub(crate) ipv4: Option<Option<Ipv4Addr>>,
    pub(crate) ipv6: Option<Option<Ipv6Addr>>,
}

/// Why a VM does not get the addresses that are asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseDeniedReason {
    #[error(transparent)]
    Address(#[from] AddressDeniedReason),
    #[error("{address} is the VM {by}'s: choose another one")]
    Taken { address: IpAddr, by: String },
    #[error("the network {network} has no {family}; leave that out")]
    NoSubnet { network: NetworkName, family: &'static str },
}

impl LeaseDeniedReason {
    /// With a VM's name in place of its id.
    pub(crate) fn named(self, name_of: impl FnOnce(VmId) -> Option<String>) -> Self {
        match self {
            Self::Address(AddressDeniedReason::Taken { wish, by }) => {
                let by = name_of(by).unwrap_or_else(|| by.to_string());
                Self::Taken { address: wish, by }
            }
            other => other,
        }
    }
}

impl Networks {
    /// In order: the addresses of a VM on this network, its own where it has
    /// some there.
    pub(crate) fn choose_lease(
        &self,
        vm: VmId,
        network: &NetworkRecord,
        wish: AddressWish,
    ) -> Result<LeaseRecord, LeaseDeniedReason> {
        let own = self.lease(vm).filter(|lease| lease.network == network.id);
        own.map_or_else(|| self.choose_first(vm, network, wish, None), Ok)
    }

    /// In order: its first ones, those of `old` being free by the time that it
    /// gets them.
    pub(crate) fn choose_first(
        &self,
        vm: VmId,
        network: &NetworkRecord,
        wish: AddressWish,
        old: Option<VmId>,
    ) -> Result<LeaseRecord, LeaseDeniedReason> {
        let NetworkSpec { ipv4, ipv6, .. } = &network.spec;
        if wish.ipv4.is_some() && ipv4.is_none() {
            return Err(lacks(network, "IPv4"));
        }
        if wish.ipv6.is_some() && ipv6.is_none() {
            return Err(lacks(network, "IPv6"));
        }
        let stays = |lease: &LeaseRecord| Some(lease.vm) != old;
        let ipv4 = ipv4.map(|net| {
            let leases = self.leases_of(network, |lease| lease.ipv4.filter(|_| stays(lease)));
            ipam::allocate4(net, &leases, vm, wish.ipv4)
        });
        let ipv6 = ipv6.map(|net| {
            let leases = self.leases_of(network, |lease| lease.ipv6.filter(|_| stays(lease)));
            ipam::allocate6(net, &leases, vm, mac(vm), wish.ipv6)
        });
        let (ipv4, ipv6) = (ipv4.transpose()?, ipv6.transpose()?);
        Ok(LeaseRecord { vm, network: network.id, ipv4, ipv6, released: None, untold: false })
    }

    /// In order: what a VM has after a change, nobody being told of it yet.
    pub(crate) fn choose_change(
        &self,
        vm: VmId,
        network: &NetworkRecord,
        change: AddressChange,
    ) -> Result<LeaseRecord, LeaseDeniedReason> {
        let mut lease = self.choose_lease(vm, network, AddressWish::default())?;
        if let Some(wish) = change.ipv4 {
            let net = network.spec.ipv4.ok_or_else(|| lacks(network, "IPv4"))?;
            let leases = self.leases_of(network, |lease| lease.ipv4);
            lease.ipv4 = Some(match wish {
                Some(_) => ipam::allocate4(net, &leases, vm, wish)?,
                None => ipam::another4(net, &leases)?,
            });
        }
        if let Some(wish) = change.ipv6 {
            let net = network.spec.ipv6.ok_or_else(|| lacks(network, "IPv6"))?;
            let leases = self.leases_of(network, |lease| lease.ipv6);
            lease.ipv6 = Some(ipam::allocate6(net, &leases, vm, mac(vm), wish)?);
        }
        Ok(lease)
    }

    fn leases_of<A>(
        &self,
        network: &NetworkRecord,
        address: impl Fn(&LeaseRecord) -> Option<A>,
    ) -> Vec<Lease<A>> {
        let state = self.read();
        let all = state.leases.iter().filter(|lease| lease.network == network.id);
        let lease = |of: &LeaseRecord| {
            let released = of.released.map(SystemTime::from);
            Some(Lease { vm: of.vm, address: address(of)?, released })
        };
        all.filter_map(lease).collect()
    }

    /// What is stored of a VM's addresses is true from now on. What to wait for
    /// until it is in force.
    pub(crate) fn lease_is_kept(&self, lease: LeaseRecord) -> u64 {
        replace(&mut self.write().leases, lease, Timestamp::now());
        self.poke()
    }

    /// A VM's guest has these addresses, unless it is to have others by now.
    pub(crate) async fn lease_is_told(
        &self,
        store: &Store,
        told: LeaseRecord,
    ) -> Result<(), StoreError> {
        if !told.untold {
            return Ok(());
        }
        store.lease_is_told(told).await?;
        let mut state = self.write();
        if let Some(lease) = state.leases.iter_mut().find(|lease| **lease == told) {
            lease.untold = false;
        }
        Ok(())
    }
}

fn lacks(network: &NetworkRecord, family: &'static str) -> LeaseDeniedReason {
    LeaseDeniedReason::NoSubnet { network: network.spec.name.clone(), family }
}

/// As the store does it (`insert_lease`).
fn replace(leases: &mut Vec<LeaseRecord>, lease: LeaseRecord, now: Timestamp) {
    for other in leases.iter_mut().filter(|other| other.vm == lease.vm) {
        if other.released.is_none() && other.ipv4.is_some() && other.ipv4 != lease.ipv4 {
            (other.released, other.ipv6, other.untold) = (Some(now), None, false);
        }
    }
    leases.retain(|other| {
        let same4 = lease.ipv4.is_some() && other.ipv4 == lease.ipv4;
        let same6 = lease.ipv6.is_some() && other.ipv6 == lease.ipv6;
        let taken = other.network == lease.network && (same4 || same6);
        match other.released {
            None => other.vm != lease.vm,
            Some(_) => !taken,
        }
    });
    leases.push(lease);
}

#[cfg(test)]
mod tests {
    use inn_units::NetworkId;

    use super::*;

    fn lease(vm: u8, host: u8) -> LeaseRecord {
        LeaseRecord {
            vm: VmId::from_bytes([vm; 5]),
            network: NetworkId::from_bytes([7; 5]),
            ipv4: Some([10, 0, 0, host].into()),
            ipv6: None,
            released: None,
            untold: false,
        }
    }

    #[test]
    fn what_a_vm_had_before_is_remembered_until_another_has_it() {
        let now = Timestamp::UNIX_EPOCH;
        let mut leases = vec![lease(1, 2), lease(2, 3)];
        replace(&mut leases, lease(1, 9), now);
        let before = LeaseRecord { released: Some(now), ..lease(1, 2) };
        assert_eq!(leases, [before, lease(2, 3), lease(1, 9)]);
        replace(&mut leases, LeaseRecord { untold: true, ..lease(1, 9) }, now);
        assert_eq!(leases.len(), 3, "the same address is no other one");
        replace(&mut leases, lease(2, 2), now);
        let had: Vec<_> = leases
            .iter()
            .map(|l| (l.vm.as_bytes()[0], l.ipv4.unwrap().octets()[3], l.released.is_some()))
            .collect();
        assert_eq!(had, [(2, 3, true), (1, 9, false), (2, 2, false)]);
    }
}
