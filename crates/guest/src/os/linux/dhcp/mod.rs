//! The card's address by DHCP, on networks whose addresses the node does not
//! give.
//!
//! ```text
//!   Looking ──OFFER, ACK──▶ Holding ──half of its time──▶ asking to keep it ─ACK─▶ Holding
//!      ▲                                                     │ NAK, or nobody answers
//!      └─────────────────────────────────────────────────────┘ until its time is up
//! ```
//!
//! Owner: a thread, for as long as the machine is up. An address whose time is
//! up is kept until there is another one: to take it away would end what still
//! works.

mod message;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

pub(crate) use message::Lease;
use message::{Ask, Client, Kind};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::network::{self, Network};
use super::{etc, identity, raw};

/// A start waits as long for the first answer: a server looks for 3 s whether
/// somebody else has the address (dnsmasq's PING_WAIT).
const FIRST: Duration = Duration::from_secs(8);

/// Between two questions that nobody answers: the first, and the longest (RFC
/// 2131, 4.1, has 4 s and 64 s; a VM's network is nearer).
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(16);

/// A lease is not asked for more often, however short it is.
const SHORTEST_HOLD: Duration = Duration::from_secs(10);

const SERVERS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
const CLIENTS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

/// Larger than any answer that fits an Ethernet's packet.
const LARGEST: usize = 1500;

/// The first lease, or nothing if nobody has answered by then: it is looked for
/// on.
pub(crate) fn start(hostname: &str) -> io::Result<Option<Lease>> {
    let interface = network::wait_for_card()?;
    network::bring_up(&interface)?;
    let client = Client { mac: mac_of(&interface)?, hostname: hostname.to_owned() };
    let socket = open(&interface)?;
    let (told, first) = mpsc::sync_channel(1);
    let asking = Asking { interface, client, socket };
    std::thread::Builder::new().name("dhcp".to_owned()).spawn(move || asking.run(&told))?;
    match first.recv_timeout(FIRST) {
        Ok(lease) => Ok(Some(lease)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("its thread has ended")),
    }
}

fn mac_of(interface: &str) -> io::Result<[u8; 6]> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let bytes: Option<Vec<u8>> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn open(interface: &str) -> io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    raw::bind_to_device(socket.as_fd(), interface)?;
    bind(&socket, &CLIENTS)?;
    Ok(socket.into())
}

struct Asking {
    interface: String,
    client: Client,
    socket: UdpSocket,
}

impl Asking {
    fn run(self, first: &SyncSender<Lease>) {
        loop {
            let lease = self.look();
            if let Err(error) = self.take(&lease) {
                crate::console::say(&format!("the leased address {}: {error}", lease.address));
            }
            if first.try_send(lease.clone()).is_err() {
                // Nobody waits for it any more.
                let _ = identity::write_resolvers(etc::replace, Path::new("/etc"), &lease.dns);
            }
            self.hold(&lease);
        }
    }

    /// Until a server has given one.
    fn look(&self) -> Lease {
        let mut wait = RETRY;
        loop {
            if let Some((Kind::Offer, offer)) = self.ask(Ask::Discover, wait) {
                let Lease { address, server, .. } = offer;
                if let Some((Kind::Ack, lease)) = self.ask(Ask::Take { address, server }, wait) {
                    return lease;
                }
            }
            wait = LONGEST_RETRY.min(wait * 2);
        }
    }

    fn take(&self, lease: &Lease) -> io::Result<()> {
        let Lease { address, prefix, gateway, .. } = *lease;
        network::set(&self.interface, &Network { address, prefix, gateway })
    }

    /// Until it is not ours any more, or may not be.
    fn hold(&self, lease: &Lease) {
        // For ever: nothing is ever asked again.
        let Some(mut holds) = lease.holds else {
            loop {
                std::thread::park();
            }
        };
        let address = lease.address;
        let mut until = Instant::now() + holds;
        loop {
            // Nobody wakes it: to ask early would do no harm.
            std::thread::park_timeout((holds / 2).max(SHORTEST_HOLD));
            match self.ask(Ask::Keep { address }, RETRY) {
                Some((Kind::Ack, kept)) if kept.address == address => {
                    holds = kept.holds.unwrap_or(holds);
                    until = Instant::now() + holds;
                }
                Some((Kind::Nak | Kind::Ack, _)) => return,
                // Nobody answers: half of what is left later again.
                _ => holds = until.saturating_duration_since(Instant::now()),
            }
            if holds.is_zero() {
                return;
            }
        }
    }

    /// Asks, and waits for the answer that fits.
    fn ask(&self, ask: Ask, wait: Duration) -> Option<(Kind, Lease)> {
        let xid = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
        let until = Instant::now() + wait;
        // What cannot be sent now is sent later.
        let question = message::write(&self.client, xid, ask);
        let _ = self.socket.send_to(&question, SERVERS);
        let mut bytes = [0; LARGEST];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Not zero, which would be for ever.
            self.socket.set_read_timeout(Some(left)).ok()?;
            match self.socket.recv(&mut bytes) {
                Ok(length) => {
                    let answer = message::read(&bytes[..length], &self.client, xid);
                    let fits = |kind| (kind == Kind::Offer) == (ask == Ask::Discover);
                    if let Some(answer) = answer.filter(|(kind, _)| fits(*kind)) {
                        return Some(answer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
                    return None;
                }
            }
        }
    }
}
