//! A look at what goes out by an interface (packet(7)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::net::netdevice::name_to_index;

/// What is sent and received by the interface of this name, in the calling
/// thread's network namespace, from now on: whole frames, each of which is there
/// for a moment only, as the socket does not block whoever sends. It goes with
/// its interface: reading fails by ENETDOWN then.
pub fn open(interface: &str) -> io::Result<OwnedFd> {
    // Of no protocol, so that it has nothing of other interfaces before it is
    // bound to this one.
    let socket = raw()?;
    let index = name_to_index(&socket, interface)?;
    bind(&socket, index)?;
    Ok(socket)
}

#[allow(unsafe_code)]
fn raw() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers alone.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

#[allow(unsafe_code)]
fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let [high, low] = u16::try_from(libc::ETH_P_ALL).map_err(out_of_range)?.to_be_bytes();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(out_of_range)?,
        sll_protocol: u16::from_ne_bytes([high, low]),
        sll_ifindex: i32::try_from(index).map_err(out_of_range)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(out_of_range)?;
    // SAFETY: bind(2) reads `length` bytes of `address`, which are all of it and
    // of the family that it says, and keeps no pointer to it.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
