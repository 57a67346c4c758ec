//! Sockets that hear one bridge, and speak on it.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, socket_with};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::Place;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;

pub(super) fn udp(place: &Place, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = datagrams(place, family(address), SocketType::DGRAM, None)?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// Of one kind of ICMPv6's messages, in place of datagrams: whatever the kernel
/// gives with a sender's address, this type takes. Pings and neighbours, which
/// there are many of, wake nobody.
pub(super) fn icmp6(place: &Place, kind: u8) -> io::Result<UdpSocket> {
    let protocol = Some(rustix::net::ipproto::ICMPV6);
    let socket = datagrams(place, AddressFamily::INET6, SocketType::RAW, protocol)?;
    inn_host::socket::hear_only_icmp6(&socket, kind)?;
    Ok(socket)
}

fn datagrams(
    place: &Place,
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from_std(StdUdpSocket::from(open(family, kind, protocol)?))?;
    // Before it is bound: another one may have the port on another bridge.
    socket.bind_device(Some(place.bridge.as_str().as_bytes()))?;
    Ok(socket)
}

pub(super) fn tcp(place: &Place, address: SocketAddr) -> io::Result<TcpListener> {
    let fd = open(family(address), SocketType::STREAM, None)?;
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(fd));
    socket.bind_device(Some(place.bridge.as_str().as_bytes()))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn open(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, kind, flags, protocol)?;
    // A server of another bridge's has the port, or had it a moment ago.
    set_socket_reuseaddr(&fd, true)?;
    if family == AddressFamily::INET6 && kind != SocketType::RAW {
        set_ipv6_v6only(&fd, true)?;
    }
    Ok(fd)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
