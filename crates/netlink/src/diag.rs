//! Sockets that wait for connections, by sock_diag(7). The files in
//! `/proc/net` tell of them, too, but only beside all connections: to look
//! through the kernel's table of those takes milliseconds even where it is
//! empty (`established_get_first` in net/ipv4/tcp_ipv4.c). A dump of listening
//! sockets alone does not touch it (`inet_diag_dump_icsk` in
//! net/ipv4/inet_diag.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Protocol, Socket, word};

/// linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// include/net/tcp_states.h.
const TCP_LISTEN: u8 = 10;

/// `struct inet_diag_req_v2` of linux/inet_diag.h, which ends with a
/// `struct inet_diag_sockid`: zeros are any.
const REQUEST: usize = 56;

/// `struct inet_diag_msg`, where the same begins after four bytes.
const STATE: usize = 1;
const SOURCE_PORT: usize = 4;
const SOURCE: usize = 8;
const UID: usize = 64;
const INODE: usize = 68;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// IPv4 where it is an IPv6 socket at a mapped address.
    pub address: IpAddr,
    pub port: u16,
    pub uid: u32,
    pub inode: u32,
}

/// TCP sockets that listen in this thread's network namespace.
pub fn tcp_listeners() -> Result<Vec<Listener>, Error> {
    let mut socket = Socket::open(Protocol::SockDiag)?;
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut request = [0; REQUEST];
        [request[0], request[1]] = [family, IPPROTO_TCP];
        request[4..8].copy_from_slice(&(1_u32 << TCP_LISTEN).to_ne_bytes());
        let told = socket.dump(SOCK_DIAG_BY_FAMILY, SOCK_DIAG_BY_FAMILY, &request);
        match told {
            Ok(told) => all.extend(told.iter().filter_map(|message| parse(message))),
            // A kernel without IPv6.
            Err(_) if family == AF_INET6 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn parse(message: &[u8]) -> Option<Listener> {
    let address = match *message.first()? {
        AF_INET => {
            let octets: [u8; 4] = message.get(SOURCE..SOURCE + 4)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        AF_INET6 => {
            let octets: [u8; 16] = message.get(SOURCE..SOURCE + 16)?.try_into().ok()?;
            let address = Ipv6Addr::from(octets);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return None,
    };
    let port: [u8; 2] = message.get(SOURCE_PORT..SOURCE_PORT + 2)?.try_into().ok()?;
    let number = |at: usize| message.get(at..at + 4).and_then(word);
    (*message.get(STATE)? == TCP_LISTEN).then_some(())?;
    Some(Listener {
        address,
        port: u16::from_be_bytes(port),
        uid: number(UID)?,
        inode: number(INODE)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_is_told_and_nobody_who_is_connected() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let all = match tcp_listeners() {
            Ok(all) => all,
            Err(error) => return println!("SKIPPED: this kernel has no sock_diag: {error}"),
        };
        let mine = all.iter().find(|listener| listener.port == at.port()).unwrap();
        assert_eq!(mine.address, at.ip());
        assert!(mine.inode > 0);
        let own = client.local_addr().unwrap().port();
        assert!(!all.iter().any(|listener| listener.port == own));
    }

    #[test]
    fn a_message_that_is_cut_short_is_none() {
        let mut message = vec![0; 72];
        (message[0], message[STATE]) = (AF_INET6, TCP_LISTEN);
        message[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&[0x1f, 0x90]);
        message[SOURCE + 10..SOURCE + 16].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        let whole = parse(&message).unwrap();
        assert_eq!((whole.address, whole.port), ("127.0.0.1".parse().unwrap(), 8080));
        for length in 0..message.len() {
            assert_eq!(parse(&message[..length]), None, "{length}");
        }
    }
}
