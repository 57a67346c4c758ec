//! Real traffic through our tables, between namespaces: a world, a host, and
//! VMs that are namespaces with one card each.
//!
//! ```text
//!   world 192.0.2.100 ── up0 192.0.2.1 host 10.77.1.1 bridge ─┬─ card ── VM 10.77.1.2
//!         2001:db8::100      2001:db8::1    fd77:0:0:1::1     └─ card ── VM 10.77.1.3
//! ```

mod interleavings;
mod policies;
mod ports;
mod spoofing;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use inn_domain::network::{Declared, Instance};
use inn_units::VmId;

use crate::link::bridge_mac;
use crate::namespace::Namespace;
use crate::nft::Kernel;
use crate::table::{self, Desired};

/// For what has to arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not: a packet takes well under a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

pub(crate) struct World {
    pub(crate) outside: Namespace,
    pub(crate) host: Namespace,
    vms: BTreeMap<VmId, Namespace>,
    declared: Declared,
    desired: Desired,
    kernel: Kernel,
}

impl World {
    pub(crate) fn new(test: &str, declared: Declared) -> Option<Self> {
        let outside = Namespace::new(test)?;
        let host = Namespace::new(test)?;
        for namespace in [&outside, &host] {
            at_once(namespace);
        }
        host.cable("up0", &outside, "eth0");
        host.ip("address add 192.0.2.1/24 dev up0");
        host.ip("address add 2001:db8::1/64 dev up0 nodad");
        outside.ip("address add 192.0.2.100/24 dev eth0");
        outside.ip("address add 2001:db8::100/64 dev eth0 nodad");
        host.sysctl("ipv4/ip_forward", "1");
        host.sysctl("ipv6/conf/all/forwarding", "1");
        for network in &declared.networks {
            let bridge = network.bridge();
            let mac: Vec<String> =
                bridge_mac(network.id).iter().map(|b| format!("{b:02x}")).collect();
            host.ip(&format!("link add {bridge} address {} type bridge", mac.join(":")));
            host.ip(&format!("link set {bridge} up"));
            let (four, six) = (network.gateway4().unwrap(), network.gateway6().unwrap());
            host.ip(&format!("address add {four}/24 dev {bridge}"));
            host.ip(&format!("address add {six}/64 dev {bridge} nodad"));
            host.sysctl(&format!("ipv4/conf/{bridge}/route_localnet"), "1");
            if network.spec.kind == inn_domain::network::NetworkKind::Routed {
                let (four, six) = (network.spec.ipv4.unwrap(), network.spec.ipv6.unwrap());
                outside.ip(&format!("route add {four} via 192.0.2.1"));
                outside.ip(&format!("route add {six} via 2001:db8::1"));
            }
        }
        let mut vms = BTreeMap::new();
        for card in &declared.attachments {
            let vm = Namespace::new(test)?;
            at_once(&vm);
            let network = declared.networks.iter().find(|n| n.id == card.network).unwrap();
            let (tap, bridge) = (card.tap(), network.bridge());
            host.cable(tap.as_str(), &vm, "eth0");
            host.ip(&format!("link set {tap} master {bridge}"));
            let mac: Vec<String> = card.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            vm.ip(&format!("link set eth0 address {}", mac.join(":")));
            vm.ip(&format!("address add {}/24 dev eth0", card.ipv4.unwrap()));
            vm.ip(&format!("address add {}/64 dev eth0 nodad", card.ipv6.unwrap()));
            vm.ip(&format!("route add default via {}", network.gateway4().unwrap()));
            vm.ip(&format!("route add default via {}", network.gateway6().unwrap()));
            vms.insert(card.vm, vm);
        }
        let kernel = host.run(|| Kernel::open(Instance::default()).unwrap());
        let mut world = Self { outside, host, vms, declared, desired: Desired::default(), kernel };
        world.apply();
        Some(world)
    }

    fn apply(&mut self) {
        self.desired.follow(&Arc::new(self.declared.clone()));
        self.kernel.follow(self.desired.wanted()).unwrap();
    }

    fn without_br_netfilter(&self) {
        for family in ["iptables", "ip6tables"] {
            let key = format!("bridge/bridge-nf-call-{family}");
            if Path::new("/proc/sys/net").join(&key).exists() {
                self.host.sysctl(&key, "0");
            }
        }
    }

    pub(crate) fn vm(&self, at: usize) -> &Namespace {
        &self.vms[&self.declared.attachments[at].vm]
    }

    /// What was counted of it, freshly read.
    fn tally(&mut self, at: usize) -> table::VmTally {
        let tally = table::tally(self.kernel.count().unwrap());
        tally.get(&self.declared.attachments[at].vm).cloned().unwrap_or_default()
    }
}

/// Addresses are there as soon as they are given.
fn at_once(namespace: &Namespace) {
    for which in ["all", "default"] {
        namespace.sysctl(&format!("ipv6/conf/{which}/accept_dad"), "0");
        namespace.sysctl(&format!("ipv6/conf/{which}/dad_transmits"), "0");
    }
}

/// Answers everybody with the address that they seem to have.
pub(crate) fn serve(namespace: &Namespace, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let (tcp, udp) =
        namespace.run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let answer = stream.and_then(|mut stream| {
                let from = stream.peer_addr()?;
                stream.write_all(from.ip().to_canonical().to_string().as_bytes())
            });
            // Whoever has gone asks again.
            drop(answer);
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _gone = udp.send_to(from.ip().to_canonical().to_string().as_bytes(), from);
        }
    });
}

/// As whom a server there sees us.
pub(crate) fn try_tcp(namespace: &Namespace, to: &str, patience: Duration) -> io::Result<IpAddr> {
    let to: SocketAddr = to.parse().unwrap();
    let seen = namespace.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    })?;
    seen.parse().map_err(io::Error::other)
}

fn try_udp(namespace: &Namespace, to: &str, patience: Duration) -> io::Result<IpAddr> {
    let to: SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let seen = namespace.run(|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience.min(Duration::from_millis(250))))?;
        let until = Instant::now() + patience;
        let mut buffer = [0; 64];
        loop {
            socket.send(b"?")?;
            match socket.recv(&mut buffer) {
                Ok(count) => return Ok(String::from_utf8_lossy(&buffer[..count]).into_owned()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => {}
            }
        }
    })?;
    seen.parse().map_err(io::Error::other)
}

#[track_caller]
fn tcp(namespace: &Namespace, to: &str) -> String {
    try_tcp(namespace, to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}")).to_string()
}

#[track_caller]
fn udp(namespace: &Namespace, to: &str) -> String {
    try_udp(namespace, to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}")).to_string()
}

#[track_caller]
fn cut(namespace: &Namespace, to: &str) {
    let tcp = try_tcp(namespace, to, SILENCE);
    assert!(tcp.is_err(), "{to} answers {tcp:?}");
    let udp = try_udp(namespace, to, SILENCE);
    assert!(udp.is_err(), "{to} answers {udp:?}");
}
