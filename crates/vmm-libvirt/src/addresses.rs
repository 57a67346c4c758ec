//! What libvirt knows of the addresses of a card on a network that is not the
//! node's.

use std::net::IpAddr;

use inn_units::{ForeignNetwork, VmId};
use inn_vmm::{Nic, NicBackend};
use ipnet::IpNet;

use crate::definition::mac;
use crate::library::{CallError, Connection};
use crate::reap;

/// The agent's own.
const NEIGHBOURS: &str = "/proc/net/arp";

/// Of one that has not answered.
const INCOMPLETE: &str = "0x0";

/// How an address of a card's is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// libvirt's network has leased it.
    Lease,
    /// libvirtd's host has it among its neighbours, by the card's MAC.
    Neighbour,
}

/// Whether a domain's card can be put there, before it is defined.
pub(crate) fn check(connection: &Connection, nic: Option<&Nic>) -> Result<(), CallError> {
    let Some(Nic { backend: NicBackend::Foreign(ForeignNetwork::Libvirt(name)), .. }) = nic else {
        return Ok(());
    };
    let refuse = |why: String| Err(CallError::other("looking for the network", why));
    match connection.find_network(name.as_str())? {
        None => refuse(format!(
            "libvirt has no network {name}; `virsh net-list --all` shows those it has"
        )),
        Some(network) if !network.is_active()? => refuse(format!(
            "libvirt's network {name} is not active; `virsh net-start {name}` starts it"
        )),
        Some(_) => Ok(()),
    }
}

/// Those that its network has leased, where it is one of libvirt's that leases
/// any, else what the host has heard of it.
pub(crate) fn look_up(
    connection: &Connection,
    network: &ForeignNetwork,
    card: [u8; 6],
    id: VmId,
    run_dir: &std::path::Path,
    subnet: Option<IpNet>,
) -> Result<Option<(KnownBy, Vec<IpAddr>)>, CallError> {
    if let ForeignNetwork::Libvirt(name) = network
        && let Some(network) = connection.find_network(name.as_str())?
    {
        let leased = network.leases(&mac(card))?;
        if !leased.is_empty() {
            return Ok(Some((KnownBy::Lease, leased)));
        }
    }
    let Some(domain) = reap::ours(connection, id, run_dir)? else { return Ok(None) };
    let heard = match domain.neighbours() {
        Ok(heard) => heard,
        // Seen of libvirt 9.0 on Linux 6.18, whose answer it cannot read ("wrong
        // nlmsg len"). Its host's network is the agent's most of the time.
        Err(error) => match std::fs::read_to_string(NEIGHBOURS) {
            Ok(table) => neighbours_in(&table, &mac(card)),
            Err(_) => return Err(error),
        },
    };
    let heard = within(heard, network, subnet);
    Ok((!heard.is_empty()).then_some((KnownBy::Neighbour, heard)))
}

/// Those of a card in the kernel's table of IPv4 neighbours: address, type,
/// flags, MAC, mask, interface, below a line of headings (net/ipv4/arp.c).
fn neighbours_in(table: &str, mac: &str) -> Vec<IpAddr> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| match row[..] {
        [address, _, flags, of, ..] if flags != INCOMPLETE && of == mac => address.parse().ok(),
        _ => None,
    })
    .collect()
}

/// On a bridge of the host's anything may be heard.
pub fn within(
    addresses: Vec<IpAddr>,
    network: &ForeignNetwork,
    subnet: Option<IpNet>,
) -> Vec<IpAddr> {
    let subnet = match network {
        ForeignNetwork::Bridge(_) => subnet,
        ForeignNetwork::Libvirt(_) => None,
    };
    let is_in = |address: &IpAddr| subnet.is_none_or(|subnet| subnet.contains(address));
    addresses.into_iter().filter(is_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_as_the_kernel_writes_them() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0\n\
            192.0.2.7        0x1         0x2         02:00:00:00:00:07     *        br0\n\
            192.0.2.8        0x1         0x0         02:00:00:00:00:07     *        br0\n";
        let found = neighbours_in(table, "02:00:00:00:00:07");
        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(neighbours_in("", "02:00:00:00:00:07"), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_bridges_addresses_are_those_of_its_subnet() {
        let all: Vec<IpAddr> = ["192.0.2.7", "172.17.0.1"].map(|text| text.parse().unwrap()).into();
        let of = |network: &str, subnet: Option<&str>| {
            let subnet = subnet.map(|text| text.parse().unwrap());
            within(all.clone(), &network.parse().unwrap(), subnet)
        };
        assert_eq!(of("bridge:br0", Some("192.0.2.0/24")), all[..1]);
        assert_eq!(of("bridge:br0", None), all);
        assert_eq!(of("libvirt:default", Some("192.0.2.0/24")), all);
    }
}
