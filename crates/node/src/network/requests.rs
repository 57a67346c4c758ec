//! What somebody asks of networks and ports: admitted, stored, and then true.

use std::net::IpAddr;

use inn_domain::Network;
use inn_domain::network::{
    AttachDeniedReason, HostPlace, HostRoute, Listen, MapTarget, NetworkKind, NetworkSpec,
    NetworkWay, PortMap, PortRange, Transport, Uplink, admit_forwards, admit_network,
    admit_network_deletion, admit_place, admit_port_target, admit_ports, beyond_forwards,
};
use inn_fail_point::{Point, fail_point};
use inn_net::ipam;
use inn_net::link::Observed;
use inn_store::NetworkRecord;
use inn_units::{InterfaceName, NetworkId, NetworkName, PortMapId, VmId, VmName};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use tokio::sync::MutexGuard;

use super::error::{NetworkError, PortsError};
use super::forwards::{admit_addresses, is_of, unprivileged};
use super::host::{host_ports, with_owner};
use super::kernel;
use super::state::{DEFAULT, Networks};
use crate::node::Node;

/// A network that somebody asks for.
#[derive(Debug, Clone)]
pub(crate) struct NewNetwork {
    pub(crate) name: NetworkName,
    pub(crate) kind: NetworkKind,
    /// Chosen, where neither is given.
    pub(crate) ipv4: Option<Ipv4Net>,
    pub(crate) ipv6: Option<Ipv6Net>,
    pub(crate) uplink: Option<InterfaceName>,
    pub(crate) mtu: Option<u16>,
    pub(crate) peers: bool,
    pub(crate) host: bool,
    pub(crate) metadata: bool,
}

/// A port map that somebody asks for.
#[derive(Debug, Clone)]
pub(crate) struct NewPortMap {
    pub(crate) transport: Transport,
    pub(crate) listen: Listen,
    pub(crate) ports: PortRange,
    pub(crate) target: NewTarget,
    pub(crate) target_port: u16,
    pub(crate) masquerade: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum NewTarget {
    /// The VM that is being made.
    Itself,
    Vm(VmId),
    Address(IpAddr),
}

/// Of which the site of our IPv6 networks is made (RFC 4193, 3.2.2), as hex.
const SITE: &str = "network_site";

impl Networks {
    /// Decides and stores nothing for others meanwhile.
    pub(crate) async fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().await
    }

    pub(crate) async fn create(
        &self,
        node: &Node,
        new: NewNetwork,
    ) -> Result<NetworkRecord, NetworkError> {
        self.must_be_bridges("a network")?;
        let _order = self.in_order().await;
        let host = kernel::observe().await?;
        let record = self.place(node, new, &host).await?;
        let others = self.all();
        let place = host_place(&host, &self.instance);
        admit_network(&record.spec, others.iter().map(|other| &other.spec), &place)?;
        self.keep(node, record).await
    }

    /// Makes the network of VMs that name none, once.
    pub(super) async fn make_default(&self, node: &Node) -> Result<(), NetworkError> {
        if !self.mode.is_bridge() || self.find(DEFAULT).is_some() {
            return Ok(());
        }
        let _order = self.in_order().await;
        let host = kernel::observe().await?;
        let new = NewNetwork {
            name: DEFAULT.parse().expect("a DNS label"),
            kind: NetworkKind::Nat,
            ipv4: None,
            ipv6: None,
            uplink: None,
            mtu: None,
            peers: false,
            host: false,
            metadata: false,
        };
        let record = self.place(node, new, &host).await?;
        let others = self.all();
        let place = host_place(&host, &self.instance);
        admit_place(&record.spec, others.iter().map(|other| &other.spec), &place)?;
        self.keep(node, record).await.map(drop)
    }

    async fn keep(
        &self,
        node: &Node,
        record: NetworkRecord,
    ) -> Result<NetworkRecord, NetworkError> {
        node.store.add_network(record.clone()).await?;
        fail_point(Point::NetworkStored);
        self.write().networks.push(record.clone());
        tracing::info!(network = %record.spec.name, id = %record.id, "made a network");
        self.poke();
        Ok(record)
    }

    /// With the subnets that it does not say.
    async fn place(
        &self,
        node: &Node,
        new: NewNetwork,
        host: &Observed,
    ) -> Result<NetworkRecord, NetworkError> {
        let id = NetworkId::from_bytes(random()?);
        let (mut ipv4, mut ipv6) = (new.ipv4, new.ipv6);
        if ipv4.is_none() && ipv6.is_none() {
            let mut taken = inn_net::link::routed(host);
            for network in self.all() {
                taken.extend(network.spec.ipv4.map(IpNet::V4));
                taken.extend(network.spec.ipv6.map(IpNet::V6));
            }
            ipv4 = Some(ipam::choose_subnet4(&taken)?);
            ipv6 = Some(ipam::choose_subnet6(site(node).await?, id, &taken));
        }
        let spec = NetworkSpec {
            name: new.name,
            kind: new.kind,
            ipv4,
            ipv6,
            uplink: new.uplink.map_or(Uplink::DefaultRoute, Uplink::Interface),
            mtu: new.mtu,
            peers: new.peers,
            host: new.host,
            metadata: new.metadata,
        };
        Ok(NetworkRecord { id, spec, created_at: Timestamp::now() })
    }

    pub(crate) async fn delete(
        &self,
        node: &Node,
        network: &NetworkRecord,
    ) -> Result<(), NetworkError> {
        let _order = self.in_order().await;
        admit_network_deletion(&network.spec, vms_on(node, network))?;
        node.store.forget_network(network.id).await?;
        fail_point(Point::NetworkForgotten);
        {
            let mut state = self.write();
            state.networks.retain(|known| known.id != network.id);
            state.leases.retain(|lease| lease.network != network.id);
        }
        tracing::info!(network = %network.spec.name, id = %network.id, "deleted a network");
        let change = self.poke();
        // What is wrong stays to be seen in the node's view of its networks.
        let _ = self.applied(change).await;
        Ok(())
    }

    /// Maps ports: all of them, or none; with what to wait for until they are
    /// in force.
    pub(crate) async fn add_ports(
        &self,
        node: &Node,
        new: Vec<NewPortMap>,
    ) -> Result<(Vec<PortMap>, u64), PortsError> {
        let order = self.in_order().await;
        let maps = self.admit_ports(node, new, None, None)?;
        node.store.add_port_maps(&maps).await?;
        fail_point(Point::PortsStored);
        let change = self.ports_are_kept(&maps);
        drop(order);
        fail_point(Point::PortsDeclared);
        Ok((maps, change))
    }

    /// What is stored of ports is true from now on. What to wait for.
    pub(crate) fn ports_are_kept(&self, maps: &[PortMap]) -> u64 {
        if maps.is_empty() {
            return self.wanted();
        }
        self.write().maps.extend(maps.iter().cloned());
        self.poke()
    }

    /// In order: whether these ports may be mapped, to the VM `itself` where
    /// they say so, and in place of those of the VM `instead_of`.
    pub(crate) fn admit_ports(
        &self,
        node: &Node,
        new: Vec<NewPortMap>,
        itself: Option<VmId>,
        instead_of: Option<VmId>,
    ) -> Result<Vec<PortMap>, PortsError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        if self.mode.way == NetworkWay::Off {
            return Err(AttachDeniedReason::Off.into());
        }
        let mut maps = Vec::with_capacity(new.len());
        for new in new {
            let target = match new.target {
                NewTarget::Address(address) => MapTarget::Address(address),
                NewTarget::Vm(id) => {
                    if let Some(vm) = node.vms.of_id(id) {
                        admit_port_target(&vm.spec().network)?;
                    }
                    MapTarget::Vm(id)
                }
                // Only a VM that is being made has such.
                NewTarget::Itself => match itself {
                    Some(id) => MapTarget::Vm(id),
                    None => continue,
                },
            };
            maps.push(PortMap {
                id: PortMapId::from_bytes(random().map_err(PortsError::NoRandomness)?),
                transport: new.transport,
                listen: new.listen,
                ports: new.ports,
                target,
                target_port: new.target_port,
                masquerade: new.masquerade,
            });
        }
        let api = node.listens_at.get().map(std::net::SocketAddr::port);
        let mut host = host_ports(api, &node.config.live().reserved_ports);
        // Thousands may be there: they are not copied.
        let state = self.read();
        if !self.mode.is_bridge() {
            // What VMMs listen on is in the maps that it is for.
            host.listening.retain(|socket| !is_of(socket, &state.maps));
        }
        let others: Vec<PortMap>;
        let there = match instead_of {
            None => &state.maps,
            Some(old) => {
                let of_others = |map: &&PortMap| map.target != MapTarget::Vm(old);
                others = state.maps.iter().filter(of_others).cloned().collect();
                &others
            }
        };
        let admitted = match self.mode.is_bridge() {
            true => admit_ports(&maps, there, &host),
            false => {
                if let Some(what) = maps.iter().find_map(beyond_forwards) {
                    self.must_be_bridges(what)?;
                }
                admit_ports(&maps, there, &host)
                    .and_then(|()| admit_addresses(&maps))
                    .and_then(|()| admit_forwards(&maps, there, unprivileged()))
            }
        };
        admitted.map_err(|reason| {
            let reason = with_owner(reason);
            PortsError::of(&reason, |id| node.vms.name_of(id))
        })?;
        Ok(maps)
    }

    pub(crate) async fn delete_ports(
        &self,
        node: &Node,
        ids: &[PortMapId],
    ) -> Result<(), PortsError> {
        let order = self.in_order().await;
        node.store.forget_port_maps(ids).await?;
        fail_point(Point::PortsForgotten);
        self.write().maps.retain(|map| !ids.contains(&map.id));
        let change = self.poke();
        drop(order);
        let _ = self.applied(change).await;
        Ok(())
    }

    /// All of it, for people and for `nft -f`.
    pub(crate) async fn script(&self, node: &Node) -> Result<String, NetworkError> {
        self.must_be_bridges("a plan of the host's network")?;
        let host = kernel::observe().await?;
        let declared = self.declared(&node.vms, &host);
        let links = inn_net::link::plan(&declared, &host);
        let mut text = String::new();
        for line in links.to_string().lines() {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&inn_net::table::tables(&declared).script());
        Ok(text)
    }

    pub(super) fn must_be_bridges(&self, what: &'static str) -> Result<(), AttachDeniedReason> {
        match self.mode.way {
            NetworkWay::Bridge => Ok(()),
            NetworkWay::User => {
                Err(AttachDeniedReason::NotInUserMode { what, why: self.mode.why.clone() })
            }
            NetworkWay::Off => Err(AttachDeniedReason::Off),
        }
    }
}

/// Those that are to come, too.
pub(crate) fn vms_on(node: &Node, network: &NetworkRecord) -> Vec<VmName> {
    let is_on = |wanted: &Network| match wanted {
        Network::None | Network::Foreign(_) => false,
        Network::AllowAll => network.spec.name.as_str() == DEFAULT,
        Network::Named(name) => *name == network.spec.name,
    };
    node.vms.names_where(|spec| is_on(&spec.network))
}

fn host_place(host: &Observed, instance: &inn_domain::network::Instance) -> HostPlace {
    let foreign = |name: &str| host.link(name).is_none_or(|link| !link.is_ours(instance));
    let routes = host.routes.iter().filter_map(|route| {
        let link = host.link_of(route.link?)?;
        let to = IpNet::new(route.to, route.prefix).ok()?;
        let through = link.name.parse().ok()?;
        (!link.loopback && foreign(&link.name)).then_some(HostRoute { to, through })
    });
    let interfaces = host.links.iter().filter(|link| foreign(&link.name));
    HostPlace {
        routes: routes.collect(),
        interfaces: interfaces.filter_map(|link| link.name.parse().ok()).collect(),
    }
}

/// Drawn once by the node.
async fn site(node: &Node) -> Result<[u8; 5], NetworkError> {
    if let Some(text) = node.store.node_value(SITE).await?
        && let Ok(id) = text.parse::<NetworkId>()
    {
        return Ok(*id.as_bytes());
    }
    let drawn: [u8; 5] = random()?;
    // Ten hex digits, as ids are written.
    let text = NetworkId::from_bytes(drawn).to_string();
    node.store.set_node_value(SITE, text).await?;
    Ok(drawn)
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

impl From<getrandom::Error> for NetworkError {
    fn from(error: getrandom::Error) -> Self {
        Self::NoRandomness(error)
    }
}
