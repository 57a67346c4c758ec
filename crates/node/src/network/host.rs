//! Which ports of the host are somebody's: sockets that listen, by netlink, and
//! from `/proc/thread-self/net` (proc_net_tcp.rst in the kernel's
//! Documentation/networking) what netlink does not tell.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use inn_domain::network::{
    HostPorts, ListeningSocket, PortDeniedReason, PortRange, ReservedPort, Transport,
};
use inn_netlink::diag::Listener;

/// include/net/tcp_states.h; an unconnected UDP socket is in `CLOSE`.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

const FILES: [(&str, Transport, &str); 4] = [
    ("/proc/thread-self/net/tcp", Transport::Tcp, TCP_LISTEN),
    ("/proc/thread-self/net/tcp6", Transport::Tcp, TCP_LISTEN),
    ("/proc/thread-self/net/udp", Transport::Udp, UDP_UNCONNECTED),
    ("/proc/thread-self/net/udp6", Transport::Udp, UDP_UNCONNECTED),
];

/// The first of them are of TCP.
const TCP_FILES: usize = 2;

/// Sockets whose owner is looked for: each is a pass over all processes'
/// descriptors, and one is enough for a sentence.
const NAMED_OWNERS: usize = 64;

/// What must not be mapped: the API's own port, what is configured, and what
/// somebody listens on, by his user: see [`with_owner`].
pub(crate) fn host_ports(api: Option<u16>, reserved: &[ReservedPort]) -> HostPorts {
    let api = api.map(|port| ReservedPort {
        transport: Some(Transport::Tcp),
        ports: PortRange::single(port),
        whose: "the agent's API",
    });
    HostPorts {
        reserved: api.into_iter().chain(reserved.iter().cloned()).collect(),
        listening: sockets().into_iter().map(|row| row.socket(&HashMap::new())).collect(),
    }
}

/// Says which program it is that listens: all processes are looked at for that,
/// which takes longer than all else of a port map.
pub(crate) fn with_owner(reason: PortDeniedReason) -> PortDeniedReason {
    match reason {
        PortDeniedReason::ListenedOn { transport, port, address, owner } => {
            let is_it = |socket: &ListeningSocket| {
                (socket.transport, socket.port, socket.address) == (transport, port, address)
            };
            // It may have ended.
            let owner = listening().into_iter().find(is_it).map_or(owner, |socket| socket.owner);
            PortDeniedReason::ListenedOn { transport, port, address, owner }
        }
        other => other,
    }
}

/// Sockets that wait for others, in this process's network namespace, with the
/// programs that have them.
pub(crate) fn listening() -> Vec<ListeningSocket> {
    let sockets = sockets();
    let inodes: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let owners = owners(Path::new("/proc"), &inodes);
    sockets.into_iter().map(|row| row.socket(&owners)).collect()
}

fn sockets() -> Vec<Row> {
    let mut sockets = Vec::new();
    let tcp = inn_netlink::diag::tcp_listeners();
    // A kernel may have been built without it.
    let without = if tcp.is_err() { &FILES[..] } else { &FILES[TCP_FILES..] };
    sockets.extend(tcp.into_iter().flatten().map(Row::from));
    for (file, transport, state) in without.iter().copied() {
        // A host without IPv6 has not all of them.
        let Ok(text) = fs::read_to_string(file) else { continue };
        sockets.extend(parse(&text, transport, state));
    }
    sockets
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    transport: Transport,
    address: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

impl From<Listener> for Row {
    fn from(listener: Listener) -> Self {
        let Listener { address, port, uid, inode } = listener;
        Self { transport: Transport::Tcp, address, port, uid, inode: inode.into() }
    }
}

impl Row {
    fn socket(self, owners: &HashMap<u64, String>) -> ListeningSocket {
        let by_user = || format!("a program of the user {}", self.uid);
        ListeningSocket {
            transport: self.transport,
            address: self.address,
            both: self.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            port: self.port,
            owner: owners.get(&self.inode).cloned().unwrap_or_else(by_user),
        }
    }
}

fn parse(text: &str, transport: Transport, state: &str) -> Vec<Row> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, remote, found, _, _, _, uid, _, inode, ..] = fields[..] else {
                return None;
            };
            // Connected ones belong to whom they talk to.
            if found != state || !remote.ends_with(":0000") {
                return None;
            }
            let (address, port) = local.split_once(':')?;
            Some(Row {
                transport,
                address: address_of(address)?,
                port: u16::from_str_radix(port, 16).ok()?,
                uid: uid.parse().ok()?,
                inode: inode.parse().ok()?,
            })
        })
        .collect()
}

/// 32-bit words in the host's order, each as hex digits.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |part: &str| u32::from_str_radix(part, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(hex)?))),
        32 => {
            let mut octets = [0; 16];
            for (i, slot) in octets.chunks_exact_mut(4).enumerate() {
                slot.copy_from_slice(&word(hex.get(i * 8..i * 8 + 8)?)?);
            }
            let address = Ipv6Addr::from(octets);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

/// `nginx (pid 812)` by a socket's inode, as far as this process may look.
fn owners(proc: &Path, inodes: &[u64]) -> HashMap<u64, String> {
    let mut owners = HashMap::new();
    let Ok(processes) = fs::read_dir(proc) else { return owners };
    for process in processes.flatten() {
        if owners.len() >= inodes.len().min(NAMED_OWNERS) {
            break;
        }
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let Some(inode) = inode.filter(|inode| inodes.contains(inode)) else { continue };
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            owners.entry(inode).or_insert_with(|| format!("{} (pid {pid})", comm.trim()));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn who_listens_is_found_by_name() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let all = listening();
        let find = |transport, port| {
            all.iter().find(|socket| socket.transport == transport && socket.port == port).cloned()
        };
        let mine = find(Transport::Tcp, tcp.local_addr().unwrap().port()).unwrap();
        assert_eq!(mine.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(mine.owner.contains(&format!("(pid {})", std::process::id())), "{mine:?}");
        assert!(find(Transport::Udp, udp.local_addr().unwrap().port()).is_some());
        if let Ok(tcp6) = tcp6 {
            let found = find(Transport::Tcp, tcp6.local_addr().unwrap().port()).unwrap();
            assert_eq!(found.address, IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
        // A connection's own end is nobody's to wait for.
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let own = client.local_addr().unwrap().port();
        assert!(
            !listening()
                .iter()
                .any(|socket| socket.port == own && socket.transport == Transport::Tcp)
        );
    }

    #[test]
    fn lines_are_read_and_what_is_none_is_left_out() {
        let little = cfg!(target_endian = "little");
        if !little {
            return;
        }
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:13EC 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1\n\
            1: 0100007F:13EC 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1\n\
            2: nonsense\n";
        let rows = parse(text, Transport::Tcp, TCP_LISTEN);
        let only = Row {
            transport: Transport::Tcp,
            address: "127.0.0.1".parse().unwrap(),
            port: 5100,
            uid: 1000,
            inode: 4711,
        };
        assert_eq!(rows, [only]);
        let mapped = address_of("0000000000000000FFFF00000100007F").unwrap();
        assert_eq!(mapped, "127.0.0.1".parse::<IpAddr>().unwrap());
    }
}
