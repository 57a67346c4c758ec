//! A VM's addresses, which may change while it runs.
//!
//! ```text
//!   asked for ─▶ chosen ─▶ stored, untold ─▶ tables, DHCP, DNS, port maps have it
//!                               │                 └─▶ its guest is told ─▶ noted
//!                               └─ the agent dies, or nobody answers in the VM:
//!                                  at the next session, start or wake
//! ```
//!
//! A guest that is PID 1 has its addresses from the node. One with a system of
//! its own asks for them by DHCP: what it has is denied to it at its renewal.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::Power;
use inn_domain::network::AttachDeniedReason;
use inn_fail_point::{Point, fail_point};
use inn_store::{LeaseRecord, StoreError};
use tokio::time::timeout;

use super::attach::{mac, network_of};
use super::doorbell::can_be_knocked_at;
use super::handle::{NotReady, VmHandle, VmShared};
use crate::error::Chain;
use crate::guest::{
    GuestError, GuestNetwork, GuestSession, InterfaceName, InterfaceSetup, NetworkSetup,
    RefusedKind, Route,
};
use crate::network::{AddressChange, LeaseDeniedReason};
use crate::node::Node;

/// After which a guest that was told and not confirmed has its old addresses
/// back; it is confirmed at once.
const CONFIRM: Duration = Duration::from_secs(30);

/// For a guest to take them: netlink, under an emulated CPU on a busy host.
const TOLD: Duration = Duration::from_secs(20);

/// For the session of a VM that is up, or was just woken.
const ANSWERS: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(transparent)]
    Denied(#[from] AttachDeniedReason),
    #[error(
        "no bridge of the node's gives it addresses: put it on one, `inn network list` shows them"
    )]
    NotOurs,
    #[error(transparent)]
    Lease(LeaseDeniedReason),
    #[error("its addresses cannot be kept")]
    Store(#[from] StoreError),
    #[error("its addresses are kept and not in force: {0}")]
    NotApplied(Arc<str>),
}

#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("it has not answered within {} s", TOLD.as_secs())]
    Silent,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl VmHandle {
    /// Gives the VM other addresses, at once where it runs: in force once this
    /// returns, with what keeps its guest from having them.
    pub(crate) async fn change_addresses(
        &self,
        node: &Arc<Node>,
        change: AddressChange,
    ) -> Result<Option<String>, AddressError> {
        let shared = &self.shared;
        let order = shared.requests.lock().await;
        if self.view().desired.power == Power::Deleted {
            return Err(AttachDeniedReason::BeingDeleted.into());
        }
        let networks = &node.networks;
        let network = networks.of(&shared.spec.network).ok_or(AddressError::NotOurs)?;
        let networks_order = networks.in_order().await;
        let lease = networks.choose_change(shared.id, &network, change);
        let mut lease =
            lease.map_err(|denied| AddressError::Lease(denied.named(|id| node.vms.name_of(id))))?;
        let before = networks.lease(shared.id);
        let change = if before == Some(lease) {
            networks.poke()
        } else {
            lease.untold = !shared.spec.is_full();
            node.store.set_lease(lease, self.durability()).await?;
            fail_point(Point::AddressStored);
            networks.lease_is_kept(lease)
        };
        drop(networks_order);
        drop(order);
        networks.applied(change).await.map_err(AddressError::NotApplied)?;
        fail_point(Point::AddressApplied);
        tracing::info!(vm = %shared.spec.name, ipv4 = ?lease.ipv4, ipv6 = ?lease.ipv6, "other addresses");
        Ok(self.have_guest_take(node, before != Some(lease)).await)
    }

    /// What keeps it from that. A VM that rests paused is woken for it, as who
    /// knocks at its old address is heard no more; one that is asleep or down
    /// begins with it.
    async fn have_guest_take(&self, node: &Arc<Node>, moved: bool) -> Option<String> {
        let name = &self.shared.spec.name;
        if self.shared.spec.is_full() {
            let runs = moved && self.view().observed.machine.is_some();
            return runs.then(|| {
                format!(
                    "its guest has it once it asks by DHCP again, within the hour; \
                     `inn vm restart {name}` makes it ask now"
                )
            });
        }
        let desired = self.view().desired;
        if desired.rest.is_some() && !can_be_knocked_at(&desired) {
            return None;
        }
        let later = |why: &dyn std::fmt::Display| {
            Some(format!(
                "its guest has the old one until it is told again ({why}): when its agent \
                 is back, or by `inn vm restart {name}`"
            ))
        };
        let used = match self.in_use(node).await {
            Ok(used) => used,
            Err(why) => return later(&why),
        };
        let told = match timeout(ANSWERS, self.session()).await {
            Ok(Ok(session)) => self.shared.tell_addresses(node, &session).await,
            // It begins with them.
            Ok(Err(NotReady::Gone | NotReady::Down(_))) => return None,
            Ok(Err(NotReady::Paused(_))) => return later(&"it is paused"),
            Ok(Err(NotReady::NoAgent(_) | NotReady::Silent)) | Err(_) => {
                return later(&"it does not answer");
            }
        };
        drop(used);
        match told {
            Ok(()) => None,
            Err(error) => later(&Chain(&error)),
        }
    }
}

impl VmShared {
    /// Has its guest take what it has yet to be told of, if there is something.
    async fn tell_addresses(&self, node: &Node, session: &GuestSession) -> Result<(), TellError> {
        let _one = self.telling.lock().await;
        // It may get others meanwhile.
        while let Some(lease) = node.networks.lease(self.id).filter(|lease| lease.untold) {
            let network = node.networks.of(&self.spec.network);
            if let Some(network) = network.and_then(|network| network_of(&network, &lease)) {
                let told = timeout(TOLD, take(session, setup(mac(self.id), network))).await;
                told.map_err(|_| TellError::Silent)??;
            }
            fail_point(Point::AddressTold);
            node.networks.lease_is_told(&node.store, lease).await?;
        }
        Ok(())
    }

    /// The same on a new session, with what the guest was told on it before:
    /// what fails is tried again on the next one.
    pub(super) async fn catch_up_with_addresses(
        &self,
        node: &Node,
        session: &GuestSession,
        told: Option<LeaseRecord>,
    ) {
        if !session.hello().is_init {
            return;
        }
        let noted = match told {
            Some(told) => node.networks.lease_is_told(&node.store, told).await,
            None => Ok(()),
        };
        let done = match noted {
            Ok(()) => self.tell_addresses(node, session).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = done {
            let error = Chain(&error).to_string();
            tracing::warn!(vm = %self.spec.name, error, "its guest has other addresses still");
        }
    }
}

async fn take(session: &GuestSession, setup: NetworkSetup) -> Result<(), GuestError> {
    match session.apply_network(setup.clone(), CONFIRM).await {
        // An agent that has died since has told it, and had no time to confirm.
        Err(GuestError::Refused { kind: RefusedKind::AlreadyExists, .. }) => {
            session.confirm_network().await?;
            session.apply_network(setup, CONFIRM).await?;
        }
        applied => drop(applied?),
    }
    session.confirm_network().await
}

/// Its name servers stay: they are the gateway's addresses.
fn setup(mac: [u8; 6], network: GuestNetwork) -> NetworkSetup {
    let GuestNetwork { address, prefix, gateway, dns: _, ipv6 } = network;
    let mut addresses = vec![(IpAddr::V4(address), prefix)];
    let mut gateways: Vec<IpAddr> = gateway.map(IpAddr::V4).into_iter().collect();
    if let Some(ipv6) = ipv6 {
        addresses.push((IpAddr::V6(ipv6.address), ipv6.prefix));
        gateways.extend(ipv6.gateway.map(IpAddr::V6));
    }
    let route = |via| Route { to: None, via, metric: None };
    let card = InterfaceSetup {
        which: InterfaceName::Mac(mac),
        dhcp4: false,
        dhcp6: false,
        addresses,
        routes: gateways.into_iter().map(route).collect(),
        mtu: None,
    };
    NetworkSetup { interfaces: vec![card], dns: Vec::new(), search: Vec::new() }
}
