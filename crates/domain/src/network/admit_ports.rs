//! Whether port maps may be made: pure, with a named reason that says who has
//! the port.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use inn_units::{PortMapId, VmId};

use super::{Listen, MapTarget, PortMap, PortRange, Transport};

/// Of one node: as many ports as one address has.
pub const MOST_MAPPED_PORTS: u64 = 65_536 * 2;

/// A socket of the host's that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    pub transport: Transport,
    pub address: IpAddr,
    /// Of an IPv6 socket that takes IPv4, too.
    pub both: bool,
    pub port: u16,
    /// `nginx (pid 812)`, or the number of its user.
    pub owner: String,
}

/// A port that nobody maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedPort {
    /// Both, if it is `None`.
    pub transport: Option<Transport>,
    pub ports: PortRange,
    /// `the agent's API`, `ports.reserved in the configuration`.
    pub whose: &'static str,
}

/// What the host itself needs its ports for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPorts {
    pub reserved: Vec<ReservedPort>,
    pub listening: Vec<ListeningSocket>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortDeniedReason {
    #[error("{} is mapped to {to} already, by the map {by}; take another port, or delete that map", which(*.transport, *.ports))]
    Mapped { transport: Transport, ports: PortRange, by: PortMapId, to: Target },
    #[error("{} is asked for twice in one request", which(*.transport, *.ports))]
    Twice { transport: Transport, ports: PortRange },
    #[error("{} is reserved for {whose}; take another port", which(*.transport, *.ports))]
    Reserved { transport: Transport, ports: PortRange, whose: &'static str },
    #[error("{owner} listens on {} at {address}; end it, or take another port", which(*.transport, PortRange::single(*.port)))]
    ListenedOn { transport: Transport, port: u16, address: IpAddr, owner: String },
    #[error("port 0 is none; ports are 1 to 65535")]
    NoPort,
    #[error("the ports {first}-{last} go down; write them upwards")]
    Downwards { first: u16, last: u16 },
    #[error("{count} ports from {first} on reach beyond 65535; begin lower")]
    BeyondLast { first: u16, count: u32 },
    #[error("{address} is no address of this host's that could be mapped: {why}")]
    BadListen { address: IpAddr, why: &'static str },
    #[error("a port map cannot lead to {address}: {why}")]
    BadTarget { address: IpAddr, why: &'static str },
    #[error("a map that listens at {listen} cannot lead to {target}: they are of two families")]
    Families { listen: IpAddr, target: IpAddr },
    #[error(
        "with these there would be {given} mapped ports; a node has {MOST_MAPPED_PORTS} at most"
    )]
    TooMany { given: u64 },
    #[error(
        "port {port}/{transport} needs a privilege that the processes of VMs do not have; take one from {unprivileged} on, or set net.ipv4.ip_unprivileged_port_start to {port}"
    )]
    Privileged { transport: Transport, port: u16, unprivileged: u16 },
    #[error(
        "with these the VM would have {given} ports with user-mode networking; it can have {most} at most, and more with network.mode = \"bridge\"", most = super::MOST_FORWARDED_PORTS
    )]
    TooManyForwards { given: u32 },
}

/// Where a map leads, for sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub MapTarget);

impl core::fmt::Display for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.0 {
            MapTarget::Vm(id) => write!(f, "the VM {id}"),
            MapTarget::Address(address) => address.fmt(f),
        }
    }
}

impl PortDeniedReason {
    /// With a VM's name in place of its id, where there is one.
    pub fn sentence(&self, name_of: impl FnOnce(VmId) -> Option<String>) -> String {
        let text = self.to_string();
        match self {
            Self::Mapped { to: Target(MapTarget::Vm(id)), .. } => match name_of(*id) {
                Some(name) => text.replace(&format!("the VM {id}"), &format!("the VM {name}")),
                None => text,
            },
            _ => text,
        }
    }
}

fn which(transport: Transport, ports: PortRange) -> String {
    let ports = match ports.is_single() {
        true => format!("port {}", ports.first),
        false => format!("of the ports {}-{} one", ports.first, ports.last),
    };
    format!("{ports}/{transport}")
}

impl core::fmt::Display for Transport {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Whether all of `new` may be made beside those that are `there`; none is,
/// where one may not.
pub fn admit_ports(
    new: &[PortMap],
    there: &[PortMap],
    host: &HostPorts,
) -> Result<(), PortDeniedReason> {
    use PortDeniedReason as Denied;
    for map in new {
        check_shape(map)?;
        check_host(map, host)?;
    }
    let count = |maps: &[PortMap]| maps.iter().map(|map| u64::from(map.ports.count())).sum::<u64>();
    let given = count(new) + count(there);
    if given > MOST_MAPPED_PORTS {
        return Err(Denied::TooMany { given });
    }
    match first_clash(new, there) {
        None => Ok(()),
        Some(Clash { map, other, there: true }) => Err(Denied::Mapped {
            transport: map.transport,
            ports: common(map.ports, other.ports),
            by: other.id,
            to: Target(other.target.clone()),
        }),
        Some(Clash { map, other, there: false }) => {
            let ports = common(map.ports, other.ports);
            Err(Denied::Twice { transport: map.transport, ports })
        }
    }
}

struct Clash<'a> {
    map: &'a PortMap,
    other: &'a PortMap,
    there: bool,
}

/// By a sweep over all of them in the order of their first ports, so that a
/// thousand beside ten thousand are no ten million comparisons.
fn first_clash<'a>(new: &'a [PortMap], there: &'a [PortMap]) -> Option<Clash<'a>> {
    let mut all: Vec<(&PortMap, bool)> =
        there.iter().map(|map| (map, true)).chain(new.iter().map(|map| (map, false))).collect();
    all.sort_by_key(|(map, _)| (map.transport, map.ports.first));
    // Those that reach the port at hand.
    let mut open: Vec<(&PortMap, bool)> = Vec::new();
    for (map, is_there) in all {
        open.retain(|(other, _)| {
            other.transport == map.transport && other.ports.last >= map.ports.first
        });
        let against = open
            .iter()
            .find(|(other, other_there)| !(is_there && *other_there) && clash(map, other));
        if let Some((other, other_there)) = against {
            let (map, other) = if is_there { (*other, map) } else { (map, *other) };
            return Some(Clash { map, other, there: is_there || *other_there });
        }
        open.push((map, is_there));
    }
    None
}

fn clash(a: &PortMap, b: &PortMap) -> bool {
    a.transport == b.transport && a.ports.overlaps(b.ports) && same_place(&a.listen, &b.listen)
}

/// Whether a packet could be for both. An address may be reached through any
/// interface.
fn same_place(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Address(a), Listen::Address(b)) => a == b,
        (Listen::Interface(a), Listen::Interface(b)) => a == b,
        _ => true,
    }
}

fn common(a: PortRange, b: PortRange) -> PortRange {
    PortRange { first: a.first.max(b.first), last: a.last.min(b.last) }
}

fn check_shape(map: &PortMap) -> Result<(), PortDeniedReason> {
    use PortDeniedReason as Denied;
    let PortRange { first, last } = map.ports;
    if first == 0 || map.target_port == 0 {
        return Err(Denied::NoPort);
    }
    if last < first {
        return Err(Denied::Downwards { first, last });
    }
    let count = map.ports.count();
    if u32::from(map.target_port) + count - 1 > u32::from(u16::MAX) {
        return Err(Denied::BeyondLast { first: map.target_port, count });
    }
    if let Listen::Address(address) = map.listen {
        let why = if address.is_unspecified() {
            Some("it means all of them; leave it out for that")
        } else if address.is_multicast() || is_broadcast(address) {
            Some("it is many machines'")
        } else if address == IpAddr::V6(Ipv6Addr::LOCALHOST) {
            Some(
                "the kernel lets nothing from ::1 leave for another machine; 127.0.0.1 can be mapped",
            )
        } else {
            None
        };
        if let Some(why) = why {
            return Err(Denied::BadListen { address, why });
        }
    }
    if let MapTarget::Address(address) = map.target {
        let why = if address.is_unspecified() {
            Some("it is none")
        } else if address.is_loopback() {
            Some("it is this host itself; let the program listen on the port")
        } else if address.is_multicast() || is_broadcast(address) {
            Some("it is many machines'")
        } else {
            None
        };
        if let Some(why) = why {
            return Err(Denied::BadTarget { address, why });
        }
        if let Listen::Address(listen) = map.listen
            && listen.is_ipv4() != address.is_ipv4()
        {
            return Err(Denied::Families { listen, target: address });
        }
    }
    Ok(())
}

fn is_broadcast(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn check_host(map: &PortMap, host: &HostPorts) -> Result<(), PortDeniedReason> {
    let transport = map.transport;
    let reserved = host.reserved.iter().find(|reserved| {
        reserved.transport.is_none_or(|theirs| theirs == transport)
            && reserved.ports.overlaps(map.ports)
    });
    if let Some(reserved) = reserved {
        let ports = common(map.ports, reserved.ports);
        return Err(PortDeniedReason::Reserved { transport, ports, whose: reserved.whose });
    }
    let socket = host.listening.iter().find(|socket| {
        socket.transport == transport
            && (map.ports.first..=map.ports.last).contains(&socket.port)
            && takes_from(&map.listen, socket)
    });
    match socket {
        None => Ok(()),
        Some(socket) => Err(PortDeniedReason::ListenedOn {
            transport,
            port: socket.port,
            address: socket.address,
            owner: socket.owner.clone(),
        }),
    }
}

/// Whether what comes for the socket would go to the map instead.
fn takes_from(listen: &Listen, socket: &ListeningSocket) -> bool {
    match listen {
        Listen::Any => true,
        // What the host says to itself comes through no interface but its own.
        Listen::Interface(_) => !socket.address.is_loopback(),
        Listen::Address(address) => {
            let same_family = address.is_ipv4() == socket.address.is_ipv4();
            match socket.address.is_unspecified() {
                true => same_family || socket.both,
                false => *address == socket.address,
            }
        }
    }
}

#[cfg(test)]
#[path = "admit_ports_tests.rs"]
mod tests;
