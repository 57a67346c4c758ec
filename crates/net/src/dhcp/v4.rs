//! DHCPv4 (RFC 2131), as a function of a datagram and what is declared.
//!
//! ```text
//!   DISCOVER ──▶ OFFER       REQUEST of its address ──▶ ACK, of another ──▶ NAK
//!   INFORM   ──▶ ACK, without an address
//!   DECLINE, RELEASE ──▶ nothing; the first is told of
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{
    CLIENT_PORT, DhcpOption, Encodable, Encoder, MIN_PACKET_SIZE, Message, MessageType, Opcode,
};
use inn_domain::network::{Attachment, DeclaredNetwork};
use inn_units::VmId;

use super::request::Request4;
use super::{LEASE, REBIND, RENEW, domain, seconds};

/// RFC 2132, 9.
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
const CLIENT_IDENTIFIER: u8 = 61;

/// RFC 2131, figure 2.
const BROADCAST: u16 = 0x8000;

/// What a datagram leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reply {
        vm: VmId,
        to: SocketAddrV4,
        bytes: Vec<u8>,
    },
    /// The client says that somebody else has its address.
    Declined {
        vm: VmId,
    },
    /// Rightly or wrongly, there is nothing to answer; for the log.
    Silence(&'static str),
}

/// Of a client, by its MAC, which the network's tables hold it to.
pub(crate) fn answer(
    network: &DeclaredNetwork,
    clients: &[Attachment],
    datagram: &[u8],
) -> Outcome {
    reply(network, clients, datagram).unwrap_or_else(Outcome::Silence)
}

fn reply(
    network: &DeclaredNetwork,
    clients: &[Attachment],
    datagram: &[u8],
) -> Result<Outcome, &'static str> {
    let request = Request4::read(datagram).ok_or("it is no DHCP")?;
    // BOOTREQUEST from an Ethernet, whose addresses have six bytes.
    if (request.op, request.hardware) != (1, (1, 6)) {
        return Err("it is no request from an Ethernet");
    }
    if !request.giaddr.is_unspecified() {
        return Err("it came by a relay");
    }
    let client = clients
        .iter()
        .find(|client| client.network == network.id && client.mac == request.mac)
        .ok_or("no VM has its address")?;
    let (Some(address), Some(gateway)) = (client.ipv4, network.gateway4()) else {
        return Err("its network has no IPv4");
    };
    let requested = request.address(REQUESTED_ADDRESS).unwrap_or(request.ciaddr);
    let chosen = request.address(SERVER_IDENTIFIER).is_none_or(|server| server == gateway);
    let asked = match request.option(MESSAGE_TYPE) {
        Some([kind]) => MessageType::from(*kind),
        _ => return Err("it says not what it wants"),
    };
    let kind = match asked {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request if !chosen => return Err("it asks another server"),
        MessageType::Request if requested == address => MessageType::Ack,
        MessageType::Request if requested.is_unspecified() => {
            return Err("it says not which address");
        }
        MessageType::Request => MessageType::Nak,
        MessageType::Inform => MessageType::Ack,
        MessageType::Decline => return Ok(Outcome::Declined { vm: client.vm }),
        MessageType::Release => return Err("a declared address stays its VM's"),
        _ => return Err("it is nothing for a server"),
    };
    let gives = kind != MessageType::Nak && asked != MessageType::Inform;
    let mut reply = Message::new_with_id(
        request.xid,
        if kind == MessageType::Nak { Ipv4Addr::UNSPECIFIED } else { request.ciaddr },
        if gives { address } else { Ipv4Addr::UNSPECIFIED },
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &request.mac,
    );
    reply.set_opcode(Opcode::BootReply).set_flags(request.flags.into());
    let mut put = |option| {
        reply.opts_mut().insert(option);
    };
    put(DhcpOption::MessageType(kind));
    put(DhcpOption::ServerIdentifier(gateway));
    // RFC 6842: also where it names no address.
    if let Some(id) = request.option(CLIENT_IDENTIFIER) {
        put(DhcpOption::ClientIdentifier(id.to_vec()));
    }
    if gives {
        put(DhcpOption::AddressLeaseTime(seconds(LEASE)));
        put(DhcpOption::Renewal(seconds(RENEW)));
        put(DhcpOption::Rebinding(seconds(REBIND)));
    }
    if kind != MessageType::Nak {
        settings(network, client, gateway).into_iter().for_each(put);
    }
    let to = destination(&request, kind, address);
    let mut bytes = Vec::new();
    reply.encode(&mut Encoder::new(&mut bytes)).map_err(|_| "the reply can't be written")?;
    // As BOOTP had them; some clients throw away what is shorter.
    bytes.resize(bytes.len().max(MIN_PACKET_SIZE), 0);
    Ok(Outcome::Reply { vm: client.vm, to: SocketAddrV4::new(to, CLIENT_PORT), bytes })
}

fn settings(network: &DeclaredNetwork, client: &Attachment, gateway: Ipv4Addr) -> Vec<DhcpOption> {
    let mut all = vec![
        // The gateway of networks that lead nowhere, too: what was let in by a
        // port map goes back through it.
        DhcpOption::Router(vec![gateway]),
        DhcpOption::DomainNameServer(vec![gateway]),
        DhcpOption::Hostname(client.name.to_string()),
        DhcpOption::DomainName(domain(&network.spec.name)),
        DhcpOption::InterfaceMtu(network.mtu),
    ];
    if let Some(net) = network.spec.ipv4 {
        all.push(DhcpOption::SubnetMask(net.netmask()));
        all.push(DhcpOption::BroadcastAddr(net.broadcast()));
    }
    all
}

/// RFC 2131, 4.1. To an address that its client does not have yet the host
/// can send all the same: its neighbours are written down.
fn destination(request: &Request4<'_>, kind: MessageType, address: Ipv4Addr) -> Ipv4Addr {
    if kind == MessageType::Nak {
        return Ipv4Addr::BROADCAST;
    }
    // Of a client that sends another's address it would leave the bridge.
    if request.ciaddr == address {
        return address;
    }
    if request.flags & BROADCAST != 0 { Ipv4Addr::BROADCAST } else { address }
}

#[cfg(test)]
#[path = "v4_tests.rs"]
mod tests;
