//! A static configuration of the only card: IPv4 by ioctls (netdevice(7)), which
//! is what a start waits for; IPv6, which has none, by netlink.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use inn_netlink::route::Rtnetlink;
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

/// Which it is.
pub(crate) fn configure(network: &Network) -> io::Result<String> {
    let interface = wait_for_card()?;
    bring_up(&interface)?;
    set(&interface, network)?;
    Ok(interface)
}

/// Its driver may still be on its way.
pub(super) fn wait_for_card() -> io::Result<String> {
    wait_for("a network card", DEADLINE, first_card)
}

pub(super) fn bring_up(interface: &str) -> io::Result<()> {
    raw::bring_up(control_socket()?.as_fd(), interface)
}

/// Of a card that is up.
pub(super) fn set(interface: &str, network: &Network) -> io::Result<()> {
    let socket = control_socket()?;
    raw::set_address(socket.as_fd(), interface, network.address, mask(network.prefix))?;
    if let Some(gateway) = network.gateway {
        match raw::add_default_route(socket.as_fd(), gateway) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Ok(())
}

/// Of the card that has its IPv4 address.
pub(super) fn configure6(
    address: Ipv6Addr,
    prefix: u8,
    gateway: Option<Ipv6Addr>,
) -> io::Result<()> {
    let card = first_card().ok_or(io::ErrorKind::NotFound)?;
    let mut netlink = Rtnetlink::open()?;
    let link = netlink.links()?.into_iter().find(|link| link.name == card);
    let link = link.ok_or(io::ErrorKind::NotFound)?.index;
    netlink.add_own_address(link, address.into(), prefix)?;
    if let Some(gateway) = gateway {
        netlink.add_route(link, None, Some(gateway.into()), 0)?;
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
