//! Connections from the host by vsock (vsock(7)).
//!
//! Only the host's: a guest with a loopback transport lets its own users
//! connect to any port too, and whoever speaks to the agent is root. For the
//! same reason a service is best started before any user can take its port.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::raw;
use crate::console;

/// Connections that wait to be accepted: one host has one session, and a
/// second comes when the first was lost.
const BACKLOG: i32 = 4;

/// Where the driver of the virtio device lists the devices that it serves.
const DRIVER: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";

/// Whether there is a vsock that leads to a host.
pub(crate) fn is_there() -> bool {
    std::fs::read_dir(Path::new(DRIVER))
        .is_ok_and(|entries| entries.flatten().any(|e| is_device(&e.file_name().to_string_lossy())))
}

fn is_device(name: &str) -> bool {
    name.strip_prefix("virtio")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Listens at a port. A kernel that has vsock as a module loads it.
pub(crate) fn listen(port: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    bind(&socket, port)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: raw::watch(socket, Interest::READABLE)? })
    }

    /// The next connection from the host. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut ready = self.socket.readable().await?;
            match accept(self.socket.get_ref()) {
                Ok((connection, libc::VMADDR_CID_HOST)) => return Ok(connection),
                Ok((_, cid)) => {
                    console::say(&format!("refused a vsock connection from {cid}, not the host"));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Of one connection that has gone, or an interruption: accept(2).
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
        || error.kind() == io::ErrorKind::ConnectionReset
}

#[allow(unsafe_code)]
fn bind(socket: &OwnedFd, port: u32) -> io::Result<()> {
    let mut address = no_address();
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    // SAFETY: the pointer and the length are those of one live sockaddr_vm,
    // which the kernel only reads.
    let result =
        unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), length()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A connection and the context id of who made it.
#[allow(unsafe_code)]
fn accept(socket: &OwnedFd) -> io::Result<(OwnedFd, u32)> {
    let mut address = no_address();
    let mut size = length();
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the kernel writes at most `size` bytes, which is what `address`
    // has, and nobody else has either.
    let fd = unsafe {
        libc::accept4(socket.as_fd().as_raw_fd(), (&raw mut address).cast(), &raw mut size, flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and ours.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, address.svm_cid))
}

#[allow(unsafe_code)]
fn no_address() -> libc::sockaddr_vm {
    // SAFETY: all zeros is a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or(40);
    address
}

fn length() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).unwrap_or(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_a_device_serves_none() {
        for name in ["bind", "module", "uevent", "unbind", "virtio", "virtiox", "xvirtio1"] {
            assert!(!is_device(name), "{name}");
        }
        assert!(is_device("virtio0") && is_device("virtio12"));
    }

    #[test]
    fn only_one_listens_at_a_port() {
        const PORT: u32 = 51_610;
        match listen(PORT) {
            Ok(_first) => {
                let second = listen(PORT).unwrap_err();
                assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
            }
            // A kernel without vsock says so, and nothing else.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
            }
        }
    }
}
