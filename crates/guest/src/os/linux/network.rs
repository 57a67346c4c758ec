//! A static IPv4 configuration by ioctls (netdevice(7)): no netlink, no DHCP.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{raw, wait_for};

/// For the card's driver to show it.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u32,
    pub(crate) gateway: Option<Ipv4Addr>,
}

pub(crate) fn bring_up_loopback() -> io::Result<()> {
    let socket = control_socket()?;
    // Bringing it up gives it 127.0.0.1/8 by itself.
    raw::bring_up(socket.as_fd(), "lo")
}

pub(crate) fn configure(network: &Network) -> io::Result<()> {
    let interface = wait_for("a network card", DEADLINE, first_card)?;
    let socket = control_socket()?;
    raw::bring_up(socket.as_fd(), &interface)?;
    raw::set_address(socket.as_fd(), &interface, network.address, mask(network.prefix))?;
    if let Some(gateway) = network.gateway {
        match raw::add_default_route(socket.as_fd(), gateway) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Ok(())
}

fn control_socket() -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// There is one card; virtual interfaces such as sit0 have no device.
pub(super) fn first_card() -> Option<String> {
    std::fs::read_dir("/sys/class/net")
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()
}

fn mask(prefix: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(mask(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(mask(32), Ipv4Addr::BROADCAST);
        assert_eq!(mask(99), Ipv4Addr::BROADCAST);
    }
}
