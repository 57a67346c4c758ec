//! What of port maps the VMM's own user-mode network can do: it listens for
//! them as an ordinary program does. Pure.

use core::net::IpAddr;

use super::{Listen, MapTarget, PortDeniedReason, PortMap};

/// Of one VM. Each is a socket of its VMM's, which looks at all of them for
/// each packet.
pub const MOST_FORWARDED_PORTS: u32 = 256;

/// What of a map no user-mode network does: what to call it.
pub fn beyond_forwards(map: &PortMap) -> Option<&'static str> {
    match (&map.target, &map.listen) {
        (MapTarget::Address(_), _) => Some("a port map to an address"),
        (_, Listen::Interface(_)) => Some("a port map for one interface"),
        (_, Listen::Address(IpAddr::V6(_))) => Some("a port map of an IPv6 address"),
        (MapTarget::Vm(_), Listen::Any | Listen::Address(IpAddr::V4(_))) => None,
    }
}

/// Whether these can be forwarded beside those of the same VMs that are
/// `there`. Below `unprivileged` a program needs a privilege to listen.
pub fn admit_forwards(
    new: &[PortMap],
    there: &[PortMap],
    unprivileged: u16,
) -> Result<(), PortDeniedReason> {
    for map in new {
        if map.ports.first < unprivileged {
            return Err(PortDeniedReason::Privileged {
                transport: map.transport,
                port: map.ports.first,
                unprivileged,
            });
        }
        let of_vm = there.iter().chain(new).filter(|other| other.target == map.target);
        let given = of_vm.map(|other| other.ports.count()).sum();
        if given > MOST_FORWARDED_PORTS {
            return Err(PortDeniedReason::TooManyForwards { given });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use inn_units::{PortMapId, VmId};

    use super::*;
    use crate::network::{PortRange, Transport};

    fn map(vm: u8, first: u16, last: u16) -> PortMap {
        PortMap {
            id: PortMapId::from_bytes([vm; 8]),
            transport: Transport::Tcp,
            listen: Listen::Any,
            ports: PortRange { first, last },
            target: MapTarget::Vm(VmId::from_bytes([vm; 5])),
            target_port: 80,
            masquerade: false,
        }
    }

    #[test]
    fn what_cannot_be_forwarded_has_a_name() {
        let listen = |listen| PortMap { listen, ..map(1, 8080, 8080) };
        let address = |text: &str| Listen::Address(text.parse().unwrap());
        assert_eq!(beyond_forwards(&map(1, 1, 2)), None);
        assert_eq!(beyond_forwards(&listen(address("127.0.0.1"))), None);
        for (map, what) in [
            (listen(address("2001:db8::1")), "IPv6"),
            (listen(Listen::Interface("eth0".parse().unwrap())), "interface"),
            (
                PortMap { target: MapTarget::Address([10, 0, 0, 1].into()), ..map(1, 1, 1) },
                "to an address",
            ),
        ] {
            assert!(beyond_forwards(&map).unwrap().contains(what));
        }
    }

    #[test]
    fn privileges_and_numbers_have_limits() {
        let admit = |new: &[PortMap], there: &[PortMap]| {
            admit_forwards(new, there, 1024).map_err(|denied| denied.to_string())
        };
        assert_eq!(admit(&[map(1, 1024, 1279)], &[map(2, 8000, 8255)]), Ok(()));
        let denied = admit(&[map(1, 1023, 1030)], &[]).unwrap_err();
        assert!(denied.contains("port 1023/tcp") && denied.contains("1024"), "{denied}");
        assert_eq!(admit_forwards(&[map(1, 80, 80)], &[], 80), Ok(()));
        let denied = admit(&[map(1, 2000, 2255)], &[map(1, 8000, 8000)]).unwrap_err();
        assert!(denied.contains("257"), "{denied}");
    }
}
