//! DHCPv6 (RFC 8415), as a function of a datagram and what is declared.
//!
//! ```text
//!   SOLICIT ──▶ ADVERTISE, or REPLY where the client wants it at once
//!   REQUEST, RENEW, REBIND ──▶ REPLY with its address
//!   CONFIRM ──▶ REPLY: whether what it has is that address
//!   RELEASE, DECLINE ──▶ REPLY, and nothing changes
//!   INFORMATION-REQUEST ──▶ REPLY without an address
//! ```

use std::net::Ipv6Addr;

use dhcproto::Name;
use dhcproto::v6::{
    DhcpOption, DhcpOptions, Encodable, Encoder, IAAddr, IANA, Message, MessageType, Status,
    StatusCode,
};
use inn_domain::network::{Attachment, DeclaredNetwork};

use super::request::{Association, associations, option6};
use super::{LEASE, REBIND, RENEW, domain, seconds};
use crate::ipam::link_local;
use crate::link::bridge_mac;

/// How many of a client's identity associations are answered, and of each one's
/// addresses: stock clients have one of both.
const FEW: usize = 4;

/// RFC 8415, 21.
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const RAPID_COMMIT: u16 = 14;

/// RFC 8415, 11.1: a DUID is 128 bytes and two at most.
const LONGEST_DUID: usize = 130;

/// Whose card makes this link-local address of its MAC.
pub(crate) fn by_link_local(clients: &[Attachment], from: Ipv6Addr) -> Option<&Attachment> {
    clients.iter().find(|client| link_local(client.mac) == from)
}

/// A reply, for where it came from.
pub(crate) fn answer(
    network: &DeclaredNetwork,
    client: &Attachment,
    datagram: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let (Some(address), Some(gateway)) = (client.ipv6, network.gateway6()) else {
        return Err("its network has no IPv6");
    };
    let [kind, x, y, z] = *datagram.first_chunk().ok_or("it is no DHCPv6")?;
    let options = &datagram[4..];
    let server = duid(network);
    let client_id = match option6(options, CLIENT_ID) {
        Some(id) if !id.is_empty() && id.len() <= LONGEST_DUID => Some(id),
        Some(_) => return Err("its identifier is none"),
        None => None,
    };
    let named = option6(options, SERVER_ID);
    let kind = MessageType::from(kind);
    let ours = named == Some(&server[..]);
    match kind {
        MessageType::Solicit | MessageType::Confirm | MessageType::Rebind if named.is_some() => {
            return Err("it names a server where it may not");
        }
        MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline
            if !ours =>
        {
            return Err("it asks another server");
        }
        MessageType::InformationRequest if named.is_some() && !ours => {
            return Err("it asks another server");
        }
        MessageType::InformationRequest => {}
        _ if client_id.is_none() => return Err("it says not who it is"),
        _ => {}
    }
    let rapid = option6(options, RAPID_COMMIT).is_some();
    let mut reply = Message::new_with_id(MessageType::Reply, [x, y, z]);
    let mut put = |option| reply.opts_mut().insert(option);
    put(DhcpOption::ServerId(server));
    if let Some(id) = client_id {
        put(DhcpOption::ClientId(id.to_vec()));
    }
    let associations = associations(options, FEW);
    let mut advertises = false;
    match kind {
        MessageType::Solicit | MessageType::Request | MessageType::Renew | MessageType::Rebind => {
            advertises = kind == MessageType::Solicit && !rapid;
            if kind == MessageType::Solicit && rapid {
                put(DhcpOption::RapidCommit);
            }
            for (index, association) in associations.iter().enumerate() {
                put(DhcpOption::IANA(granted(association, index == 0, address)));
            }
        }
        MessageType::Confirm => {
            let mut asked =
                associations.iter().flat_map(|association| association.addresses.clone());
            let Some(first) = asked.next() else { return Err("it confirms nothing") };
            let right = first == address && asked.all(|other| other == address);
            let status = if right { Status::Success } else { Status::NotOnLink };
            put(status_code(status));
        }
        MessageType::Release | MessageType::Decline => put(status_code(Status::Success)),
        MessageType::InformationRequest => {}
        _ => return Err("it is nothing for a server"),
    }
    put(DhcpOption::DomainNameServers(vec![gateway]));
    if let Ok(name) = Name::from_ascii(domain(&network.spec.name)) {
        put(DhcpOption::DomainSearchList(vec![name]));
    }
    if advertises {
        reply.set_msg_type(MessageType::Advertise);
    }
    let mut bytes = Vec::new();
    reply.encode(&mut Encoder::new(&mut bytes)).map_err(|_| "the reply can't be written")?;
    Ok(bytes)
}

/// A VM has one address: what further associations want there is not.
fn granted(asked: &Association, first: bool, address: Ipv6Addr) -> IANA {
    let mut opts = DhcpOptions::new();
    if first {
        let lease = seconds(LEASE);
        let none = DhcpOptions::new();
        opts.insert(DhcpOption::IAAddr(IAAddr {
            addr: address,
            preferred_life: lease,
            valid_life: lease,
            opts: none,
        }));
        // What else it has it shall give up (RFC 8415, 18.3.4).
        for other in asked.addresses.iter().filter(|other| **other != address) {
            let none = DhcpOptions::new();
            let gone = IAAddr { addr: *other, preferred_life: 0, valid_life: 0, opts: none };
            opts.insert(DhcpOption::IAAddr(gone));
        }
    } else {
        opts.insert(status_code(Status::NoAddrsAvail));
    }
    IANA { id: asked.id, t1: seconds(RENEW), t2: seconds(REBIND), opts }
}

fn status_code(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: String::new() })
}

/// The server's identifier: of its link-layer address (RFC 8415, 11.4).
fn duid(network: &DeclaredNetwork) -> Vec<u8> {
    let mut duid = vec![0, 3, 0, 1];
    duid.extend(bridge_mac(network.id));
    duid
}

#[cfg(test)]
#[path = "v6_tests.rs"]
mod tests;
