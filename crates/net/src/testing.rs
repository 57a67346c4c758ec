//! What the tests of several modules declare.

use inn_domain::network::{
    Attachment, Declared, DeclaredNetwork, Instance, NetworkKind, NetworkSpec, Policy, Uplink,
};
use inn_units::{NetworkId, VmId};

use crate::ipam;

pub(crate) fn network() -> DeclaredNetwork {
    DeclaredNetwork {
        id: NetworkId::from_bytes([0xa1, 2, 3, 4, 5]),
        spec: NetworkSpec {
            name: "web".parse().unwrap(),
            kind: NetworkKind::Nat,
            ipv4: Some("10.213.0.0/24".parse().unwrap()),
            ipv6: Some("fd00:1:2:3::/64".parse().unwrap()),
            uplink: Uplink::DefaultRoute,
            mtu: None,
            peers: false,
            host: false,
            metadata: false,
        },
        uplink4: None,
        uplink6: None,
        mtu: 1400,
    }
}

/// The `number`th VM of it.
pub(crate) fn client(number: u8, name: &str) -> Attachment {
    let network = network();
    let vm = VmId::from_bytes([0xb1, 2, 3, 4, number]);
    let mac = [0x02, 0xb1, 2, 3, 4, number];
    let net6 = network.spec.ipv6.unwrap();
    Attachment {
        vm,
        name: name.parse().unwrap(),
        network: network.id,
        mac,
        ipv4: Some([10, 213, 0, number].into()),
        ipv6: Some(ipam::allocate6(net6, &[], vm, mac, None).unwrap()),
        policy: Policy::AllowAll,
    }
}

pub(crate) fn declared() -> Declared {
    Declared {
        instance: Instance(Some("test".to_owned())),
        networks: vec![network()],
        attachments: vec![client(2, "one"), client(3, "two")],
        maps: Vec::new(),
    }
}
