//! A VM's network card, and what of the host's network is its own.
//!
//! ```text
//!   create ──▶ lease, with the record      launch ──▶ declared ▶ tap opened ▶ applied ▶ VMM has it
//!   a clone that has waited: its tap is open ─▶ declared ▶ applied ▶ it goes on
//!   the machine's end, a launch that failed ──▶ declared no more: the tap is gone with its holder
//!   the record's end ──▶ its ports go, its addresses are remembered
//! ```
//!
//! Nothing of a tap is stored: its name is made of the VM's id, so that one
//! that was left is found by it.

use std::net::Ipv4Addr;
use std::time::Duration;

use inn_domain::Network;
use inn_domain::network::{
    AddressWish, AttachDeniedReason, NetworkWay, PortMap, admit_attachment, admit_port_target,
    admit_wish, gateway4, gateway6, tap_name,
};
use inn_fail_point::{Point, fail_point};
use inn_store::{Durability, LeaseRecord, NetworkRecord};
use inn_units::{ForeignNetwork, VmId};
use inn_vmm::{CardLimits, Nic, NicBackend, Tap};
use tokio::time::Instant;

use super::failure::{Failure, StepError};
use super::registry::{CreateError, Vms};
use super::task::VmTask;
use crate::guest::{GuestAddressing, GuestNetwork, GuestNetwork6};
use crate::network::{LeaseDeniedReason, NetworkError, NewPortMap};
use crate::node::Node;

/// Locally administered (IEEE 802-2014, 8.4), and the same in every boot.
pub(crate) fn mac(id: VmId) -> [u8; 6] {
    let [a, b, c, d, e] = *id.as_bytes();
    [0x02, a, b, c, d, e]
}

/// A guest's in QEMU's user network (docs/system/devices/net.rst): gateway and
/// DNS server are beside it.
pub(crate) const USER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

impl Vms {
    /// In the networks' order: the ports and the addresses of a VM that is
    /// about to be stored.
    pub(super) fn admit_network(
        &self,
        node: &Node,
        id: VmId,
        spec: &inn_domain::VmSpec,
        ports: Vec<NewPortMap>,
    ) -> Result<(Vec<PortMap>, Option<LeaseRecord>), CreateError> {
        let networks = &node.networks;
        let network = admitted(node, spec, !ports.is_empty())?;
        let maps = networks.admit_ports(node, ports, Some(id), None)?;
        let lease = network.map(|network| networks.choose_lease(id, &network, spec.addresses));
        let lease = lease.transpose().map_err(|denied| not_leased(node, denied))?;
        Ok((maps, lease))
    }

    /// The same for one that takes another one's place: it has that one's
    /// ports and its addresses, if it asks for them, and addresses at all once
    /// it is there.
    pub(super) fn admit_successor_network(
        &self,
        node: &Node,
        record: &inn_store::VmRecord,
        ports: &[NewPortMap],
        old: VmId,
    ) -> Result<Vec<PortMap>, CreateError> {
        let spec = &record.spec;
        if let Some(network) = admitted(node, spec, !ports.is_empty())? {
            let first = node.networks.choose_first(record.id, &network, spec.addresses, Some(old));
            first.map_err(|denied| not_leased(node, denied))?;
        }
        Ok(node.networks.admit_ports(node, ports.to_vec(), Some(record.id), Some(old))?)
    }
}

fn not_leased(node: &Node, denied: LeaseDeniedReason) -> CreateError {
    NetworkError::Lease(denied.named(|id| node.vms.name_of(id))).into()
}

/// The network that such a VM is on, where it is on one of ours.
fn admitted(
    node: &Node,
    spec: &inn_domain::VmSpec,
    ports: bool,
) -> Result<Option<NetworkRecord>, AttachDeniedReason> {
    let networks = &node.networks;
    let network = networks.of(&spec.network);
    let mode = &networks.mode;
    let known = network.is_some() || node.may_lend(&spec.network);
    admit_attachment(&spec.network, &spec.policy, mode.way, &mode.why, known)?;
    admit_wish(spec.addresses, &spec.network, mode.way, &mode.why)?;
    if ports {
        admit_port_target(&spec.network)?;
    }
    Ok(network)
}

impl Node {
    /// Whether VMs may be on this network, which is not the node's.
    pub(super) fn may_lend(&self, network: &Network) -> bool {
        match network {
            Network::Foreign(ForeignNetwork::Libvirt(_)) => true,
            Network::Foreign(ForeignNetwork::Bridge(bridge)) => {
                self.runtimes.libvirt_settings().bridges.contains(bridge)
            }
            Network::None | Network::AllowAll | Network::Named(_) => false,
        }
    }
}

impl VmTask {
    /// The card of a machine that is about to be launched, and the host's
    /// network ready for it.
    pub(super) async fn attach(&self, limits: CardLimits) -> Result<Option<Nic>, StepError> {
        let (spec, id) = (&self.shared.spec, self.shared.id);
        let networks = &self.node.networks;
        if spec.network == Network::None {
            return Ok(None);
        }
        let mac = mac(id);
        let Some(network) = self.network()? else {
            let backend = match &spec.network {
                Network::Foreign(network) => NicBackend::Foreign(network.clone()),
                _ => NicBackend::User,
            };
            return Ok(Some(Nic { mac, backend }));
        };
        if !self.is_draft {
            self.keep_lease(&network).await?;
            fail_point(Point::NetworkLeased);
            networks.attach(id);
        }
        let name = tap_name(id);
        let opening = tokio::task::spawn_blocking(move || inn_host::tap::open(name.as_str()));
        let device = match opening.await {
            Ok(Ok(device)) => device,
            Ok(Err(error)) => {
                return Err(Failure::of(&error, "make that right, then start the VM again").into());
            }
            Err(error) => {
                return Err(Failure::new(
                    format!("opening its tap: {error}"),
                    "start the VM again",
                )
                .into());
            }
        };
        fail_point(Point::NetworkTap);
        if !self.is_draft {
            self.connect().await?;
        }
        let mtu = networks.mtu(&network);
        Ok(Some(Nic { mac, backend: NicBackend::Tap(Tap::new(device, mtu).limited(limits)) }))
    }

    /// Connects a card that is there and leads nowhere yet, where it is a tap.
    /// How long that took.
    pub(super) async fn join(&self) -> Result<Option<Duration>, StepError> {
        if !self.shared.has_card() {
            return Ok(None);
        }
        let Some(network) = self.network()? else { return Ok(None) };
        let joining = Instant::now();
        self.keep_lease(&network).await?;
        self.node.networks.attach(self.shared.id);
        self.connect().await?;
        Ok(Some(joining.elapsed()))
    }

    /// Where it is on one of ours.
    fn network(&self) -> Result<Option<NetworkRecord>, StepError> {
        // The configuration may be another one than when it was made.
        let network = admitted(&self.node, &self.shared.spec, false).map_err(|denied| {
            Failure::new(denied.to_string(), "make that right, then start the VM again")
        })?;
        let is_ours = !matches!(self.shared.spec.network, Network::Foreign(_));
        if is_ours && network.is_none() && self.node.networks.mode.way != NetworkWay::User {
            return Err(Failure::new(
                "the node's own network could not be made: the agent's log says why",
                "make that right and restart the agent, or put the VM on a named network",
            )
            .into());
        }
        Ok(network)
    }

    /// Its tap is open, and becomes a port of its bridge.
    async fn connect(&self) -> Result<(), StepError> {
        let networks = &self.node.networks;
        let change = networks.tap_is_open(self.shared.id);
        networks.applied(change).await.map_err(|why| {
            Failure::new(
                format!("the host's network is not ready for it: {why}"),
                "`inn network plan` shows what is to be, and the agent's log what was refused",
            )
            .try_this("inn network plan")
        })?;
        fail_point(Point::NetworkApplied);
        Ok(())
    }

    /// One that took another's place, or whose network is another, has none yet.
    async fn keep_lease(&self, network: &NetworkRecord) -> Result<(), StepError> {
        let networks = &self.node.networks;
        let id = self.shared.id;
        if networks.lease(id).is_some_and(|lease| lease.network == network.id) {
            return Ok(());
        }
        let _order = networks.in_order().await;
        let lease = networks.choose_lease(id, network, self.shared.spec.addresses);
        let lease = lease.map_err(|denied| {
            let denied = denied.named(|id| self.node.vms.name_of(id));
            Failure::of(&denied, "make room for it on its network, then start it again")
        })?;
        let kept = self.node.store.set_lease(lease, Durability::Host).await;
        kept.map_err(|error| Failure::of(&error, "it is tried again at the next start"))?;
        networks.lease_is_kept(lease);
        Ok(())
    }

    /// What a guest that is PID 1 is told of its network.
    pub(super) fn guest_network(&self) -> Option<GuestAddressing> {
        match &self.shared.spec.network {
            Network::Foreign(_) => Some(GuestAddressing::Dhcp),
            network => self.static_network(network).map(GuestAddressing::Static),
        }
    }

    fn static_network(&self, network: &Network) -> Option<GuestNetwork> {
        let networks = &self.node.networks;
        match network {
            Network::None => None,
            network => match networks.of(network) {
                Some(record) => {
                    let lease = match networks.lease(self.shared.id) {
                        // Its card leads nowhere.
                        None if self.is_draft => {
                            let wish = AddressWish::default();
                            networks.choose_lease(self.shared.id, &record, wish).ok()?
                        }
                        lease => lease?,
                    };
                    network_of(&record, &lease)
                }
                None => Some(GuestNetwork {
                    address: USER_ADDRESS,
                    prefix: 24,
                    gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
                    dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
                    ipv6: None,
                }),
            },
        }
    }
}

/// What a guest with these addresses is told; none without IPv4.
pub(super) fn network_of(record: &NetworkRecord, lease: &LeaseRecord) -> Option<GuestNetwork> {
    let net = record.spec.ipv4?;
    let gateway = gateway4(net)?;
    let ipv6 = record.spec.ipv6.zip(lease.ipv6);
    Some(GuestNetwork {
        address: lease.ipv4?,
        prefix: net.prefix_len(),
        gateway: Some(gateway),
        dns: vec![gateway],
        ipv6: ipv6.map(|(net, address)| GuestNetwork6 {
            address,
            prefix: net.prefix_len(),
            gateway: Some(gateway6(net)),
        }),
    })
}
