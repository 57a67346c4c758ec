//! Connections that the kernel knows and is to forget: under a policy that
//! changed, to an address that a VM no longer has. Known ones are let through
//! without another look, and a port map's first packet decides for all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use inn_netlink::route::parse_ip;
use inn_netlink::{Error, Payload, Protocol, Socket, attributes};
use rustix::io::Errno;

/// nfnetlink_conntrack.h.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const NEW: u16 = 0;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// linux/socket.h.
const FAMILIES: [u8; 2] = [2, 10];

#[derive(Debug, thiserror::Error)]
#[error("cannot {step} known connections")]
pub struct ConnectionsError {
    step: &'static str,
    source: Error,
}

/// Those that have one of these addresses at any end, before or behind a
/// translation; how many there were. The packets that follow are judged as new
/// ones.
pub fn forget(addresses: &BTreeSet<IpAddr>) -> Result<usize, ConnectionsError> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let cannot = |step| move |source| ConnectionsError { step, source };
    let mut socket = Socket::open(Protocol::Netfilter).map_err(cannot("ask for"))?;
    let mut gone = 0;
    for family in FAMILIES {
        let wanted = |ip: &IpAddr| ip.is_ipv4() == (family == FAMILIES[0]);
        if !addresses.iter().any(wanted) {
            continue;
        }
        let all = match socket.dump(kind(GET), kind(NEW), &[family, 0, 0, 0]) {
            Ok(all) => all,
            // Nothing tracks connections of this family, so none is known.
            Err(error) if error.is(Errno::OPNOTSUPP) || error.is(Errno::INVAL) => continue,
            Err(error) => return Err(cannot("list")(error)),
        };
        for message in all.iter().filter(|message| has(message, addresses)) {
            match socket.order(kind(DELETE), 0, identity(family, message).as_bytes()) {
                Ok(()) => gone += 1,
                // It ended by itself.
                Err(error) if error.is(Errno::NOENT) => {}
                Err(error) => return Err(cannot("forget")(error)),
            }
        }
    }
    Ok(gone)
}

fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

fn has(message: &[u8], addresses: &BTreeSet<IpAddr>) -> bool {
    let body = message.get(4..).unwrap_or_default();
    let tuples = attributes(body).filter(|(kind, _)| matches!(*kind, TUPLE_ORIGINAL | TUPLE_REPLY));
    let ips = tuples.flat_map(|(_, tuple)| attributes(tuple)).filter(|(kind, _)| *kind == TUPLE_IP);
    let mut ips = ips.flat_map(|(_, ips)| attributes(ips)).filter_map(|(_, ip)| parse_ip(ip));
    ips.any(|ip| addresses.contains(&ip))
}

/// By which the kernel finds it again.
fn identity(family: u8, message: &[u8]) -> Payload {
    let mut payload = Payload::new(&[family, 0, 0, 0]);
    for (kind, content) in attributes(message.get(4..).unwrap_or_default()) {
        match kind {
            TUPLE_ORIGINAL => {
                payload.nest(kind, |tuple| copy(content, tuple));
            }
            ID | ZONE => {
                payload.put(kind, content);
            }
            _ => {}
        }
    }
    payload
}

/// A tuple holds attributes that hold attributes.
fn copy(content: &[u8], to: &mut Payload) {
    for (kind, inner) in attributes(content) {
        to.nest(kind, |to| {
            for (kind, value) in attributes(inner) {
                to.put(kind, value);
            }
        });
    }
}
