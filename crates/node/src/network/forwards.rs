//! Port maps of VMs on the VMM's own network: each machine is told which of the
//! host's ports lead to it.
//!
//! ```text
//!   a map made or removed ───────┐
//!   a machine launched, adopted ─┼─▶ pass: each machine's maps ▶ those it should have ─▶ Applied
//!   every minute, port restore ──┘         (read, plan and apply are the runtime's)
//! ```
//!
//! They last as long as the machine, whether an agent runs or not. What cannot
//! be had is tried again, and stays with its map until then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use inn_domain::network::{
    Listen, ListeningSocket, MapTarget, PortDeniedReason, PortMap, Transport, admit_port_target,
    beyond_forwards,
};
use inn_fail_point::{Point, fail_point};
use inn_units::{PortMapId, VmId, VmName};
use inn_vmm::{Forward, ForwardTransport, Forwarded, Machine, MachineIdentity};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::host::listening;
use super::state::Applied;
use crate::error::Chain;
use crate::node::Node;
use crate::runtime::AnyMachine;

/// Between two passes that nothing has called for.
const EVERY: Duration = Duration::from_secs(60);

/// Of a pass in which something could not be had, unless something changes
/// before.
const AGAIN: Duration = Duration::from_secs(2);

/// Ports below it need a privilege, which VMMs have not (ip-sysctl.rst).
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The first port that an ordinary program may listen on.
pub(super) fn unprivileged() -> u16 {
    const USUAL: u16 = 1024;
    let text = std::fs::read_to_string(UNPRIVILEGED).unwrap_or_default();
    text.trim().parse().unwrap_or(USUAL)
}

/// Whether a program can listen at these addresses at all.
pub(super) fn admit_addresses(maps: &[PortMap]) -> Result<(), PortDeniedReason> {
    let of = |map: &PortMap| match map.listen {
        Listen::Address(address) => Some(address),
        _ => None,
    };
    let nowhere = |address: &IpAddr| std::net::UdpSocket::bind((*address, 0)).is_err();
    match maps.iter().filter_map(of).find(nowhere) {
        None => Ok(()),
        Some(address) => {
            Err(PortDeniedReason::BadListen { address, why: "this host does not have it" })
        }
    }
}

/// Whether it is a VMM that listens there, for one of these maps.
pub(super) fn is_of(socket: &ListeningSocket, maps: &[PortMap]) -> bool {
    maps.iter().any(|map| {
        map.transport == socket.transport
            && (map.ports.first..=map.ports.last).contains(&socket.port)
            && match &map.listen {
                Listen::Any => socket.address == IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Listen::Address(address) => *address == socket.address,
                Listen::Interface(_) => false,
            }
    })
}

/// What a machine should have, and for which map each.
type Wanted = BTreeMap<Forward, PortMapId>;

/// Of one VM, from its maps; without those that cannot be forwarded.
fn wanted<'a>(maps: impl IntoIterator<Item = &'a PortMap>) -> Wanted {
    let mut wanted = Wanted::new();
    for map in maps.into_iter().filter(|map| beyond_forwards(map).is_none()) {
        let address = match map.listen {
            Listen::Address(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let transport = match map.transport {
            Transport::Tcp => ForwardTransport::Tcp,
            Transport::Udp => ForwardTransport::Udp,
        };
        for (port, to) in (map.ports.first..=map.ports.last).zip(map.target_port..=u16::MAX) {
            wanted.insert(Forward { transport, address, port, to }, map.id);
        }
    }
    wanted
}

/// A machine as it was left: what it has.
#[derive(Debug, PartialEq)]
struct Left {
    machine: MachineIdentity,
    forwards: BTreeSet<Forward>,
}

pub(super) struct ForwardTask {
    node: Arc<Node>,
    left: BTreeMap<VmId, Left>,
}

/// A machine that is to be told.
struct Told {
    vm: VmId,
    name: VmName,
    machine: Arc<AnyMachine>,
    wanted: Wanted,
    done: std::io::Result<Forwarded>,
}

impl ForwardTask {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, left: BTreeMap::new() }
    }

    pub(super) async fn run(mut self) {
        let mut last = Instant::now();
        let mut failed = false;
        loop {
            let due = last + if failed { AGAIN } else { EVERY };
            let networks = &self.node.networks;
            tokio::select! {
                // Cancel safe: the permit stays.
                () = networks.changed.notified() => {}
                // It only waits.
                () = sleep_until(due) => networks.look_closely(),
            }
            failed = self.pass().await;
            last = Instant::now();
        }
    }

    /// Whether something could not be had.
    async fn pass(&mut self) -> bool {
        let node = Arc::clone(&self.node);
        let networks = &node.networks;
        let change = networks.wanted();
        if networks.looks_closely() {
            // Of a machine without any, nobody could have taken one.
            self.left.retain(|_, left| left.forwards.is_empty());
        }
        let mut of_vm: BTreeMap<VmId, Vec<PortMap>> = BTreeMap::new();
        let mut unforwarded: BTreeMap<PortMapId, String> = BTreeMap::new();
        for map in networks.maps() {
            if let Some(what) = beyond_forwards(&map) {
                unforwarded.insert(map.id, format!("{what} needs bridges: {}", networks.mode.why));
            }
            if let MapTarget::Vm(id) = map.target {
                of_vm.entry(id).or_default().push(map);
            }
        }
        let mut telling = JoinSet::new();
        let mut there = BTreeSet::new();
        for vm in node.vms.all() {
            let Some(machine) = vm.machine() else { continue };
            // Nothing of theirs is asked of a VMM that has no network of its own.
            if admit_port_target(&vm.spec().network).is_err() {
                continue;
            }
            there.insert(vm.id());
            let wanted = wanted(of_vm.get(&vm.id()).into_iter().flatten());
            let forwards: BTreeSet<Forward> = wanted.keys().copied().collect();
            let left = Left { machine: machine.identity().clone(), forwards };
            if self.left.get(&vm.id()) == Some(&left) {
                continue;
            }
            let (id, name) = (vm.id(), vm.spec().name.clone());
            telling.spawn(async move {
                let done = machine.set_forwards(&left.forwards).await;
                Told { vm: id, name, machine, wanted, done }
            });
        }
        self.left.retain(|vm, _| there.contains(vm));
        let mut mended = Vec::new();
        while let Some(told) = telling.join_next().await {
            match told {
                Ok(told) => mended.extend(self.told(told, &mut unforwarded).await),
                Err(error) => tracing::error!(%error, "a machine was not told of its ports"),
            }
        }
        if !mended.is_empty() {
            fail_point(Point::PortsForwarded);
        }
        let failed = !unforwarded.is_empty();
        networks.applied.send_modify(|now| {
            let mut all =
                if now.change == change { std::mem::take(&mut now.mended) } else { vec![] };
            all.extend(mended);
            *now = Applied { change, unforwarded, mended: all, ..Applied::default() };
        });
        failed
    }

    /// What was not as it should be, in words.
    async fn told(
        &mut self,
        told: Told,
        unforwarded: &mut BTreeMap<PortMapId, String>,
    ) -> Vec<String> {
        let Told { vm, name, machine, wanted, done } = told;
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                // Until it has been asked again nobody knows what it has.
                self.left.remove(&vm);
                // One that has ended is told of by its own task.
                tracing::debug!(vm = %name, error = %Chain(&error), "its ports are not set");
                let why = format!("the VMM of {name} does not answer: {}", Chain(&error));
                unforwarded.extend(wanted.values().map(|map| (*map, why.clone())));
                return Vec::new();
            }
        };
        if !done.refused.is_empty() {
            let listening = spawn_blocking(listening).await.unwrap_or_default();
            for (forward, said) in &done.refused {
                let why = why(forward, said, &listening);
                tracing::warn!(vm = %name, %forward, why, "a port does not lead to it");
                if let Some(map) = wanted.get(forward) {
                    unforwarded.insert(*map, why);
                }
            }
        }
        let refused = |forward: &Forward| done.refused.iter().any(|(other, _)| other == forward);
        let forwards = wanted.into_keys().filter(|forward| !refused(forward)).collect();
        self.left.insert(vm, Left { machine: machine.identity().clone(), forwards });
        let made = done.made.iter().map(|forward| format!("made {forward} of the VM {name}"));
        let gone = done.removed.iter().map(|forward| format!("removed {forward} of the VM {name}"));
        let mended: Vec<String> = gone.chain(made).collect();
        for what in &mended {
            tracing::debug!(what, "changed what a VMM forwards");
        }
        mended
    }
}

/// With who has the port, where that can be seen.
fn why(forward: &Forward, said: &str, listening: &[ListeningSocket]) -> String {
    let transport = match forward.transport {
        ForwardTransport::Tcp => Transport::Tcp,
        ForwardTransport::Udp => Transport::Udp,
    };
    let Forward { port, address, .. } = forward;
    let holder = listening.iter().find(|socket| {
        socket.transport == transport
            && socket.port == *port
            && (address.is_unspecified()
                || socket.address.is_unspecified()
                || socket.address == IpAddr::V4(*address))
    });
    match holder {
        Some(ListeningSocket { owner, address, .. }) => {
            format!(
                "{owner} listens on port {port}/{transport} at {address}; end it, and the map holds again"
            )
        }
        None => format!("the VMM cannot listen on port {port}/{transport} at {address}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use inn_domain::network::PortRange;

    use super::*;

    fn map(listen: Listen, first: u16, last: u16, target_port: u16) -> PortMap {
        PortMap {
            id: PortMapId::from_bytes([1; 8]),
            transport: Transport::Udp,
            listen,
            ports: PortRange { first, last },
            target: MapTarget::Vm(VmId::from_bytes([1; 5])),
            target_port,
            masquerade: false,
        }
    }

    fn forward(address: [u8; 4], port: u16, to: u16) -> Forward {
        Forward { transport: ForwardTransport::Udp, address: address.into(), port, to }
    }

    #[test]
    fn a_range_is_its_ports_in_order() {
        let local = Listen::Address([127, 0, 0, 1].into());
        let maps = [
            map(Listen::Any, 8000, 8002, 80),
            map(local, 65535, 65535, 65535),
            map(Listen::Interface("eth0".parse().unwrap()), 9000, 9000, 80),
        ];
        let forwards: Vec<Forward> = wanted(&maps).into_keys().collect();
        assert_eq!(
            forwards,
            [
                forward([0; 4], 8000, 80),
                forward([0; 4], 8001, 81),
                forward([0; 4], 8002, 82),
                forward([127, 0, 0, 1], 65535, 65535),
            ]
        );
    }

    #[test]
    fn who_has_the_port_is_named() {
        let socket = |address: &str, port| ListeningSocket {
            transport: Transport::Udp,
            address: address.parse().unwrap(),
            both: false,
            port,
            owner: "named (pid 7)".to_owned(),
        };
        let all = [socket("192.0.2.1", 53), socket("127.0.0.1", 8053)];
        let said = "Could not set up";
        assert!(why(&forward([0; 4], 53, 53), said, &all).starts_with("named (pid 7)"));
        assert!(why(&forward([127, 0, 0, 1], 53, 53), said, &all).contains(said));
        assert!(why(&forward([127, 0, 0, 1], 8053, 53), said, &all).contains("named"));
        let own = [map(Listen::Any, 8000, 8010, 80)];
        assert!(is_of(&socket("0.0.0.0", 8010), &own));
        assert!(!is_of(&socket("127.0.0.1", 8010), &own) && !is_of(&socket("0.0.0.0", 1), &own));
    }
}
