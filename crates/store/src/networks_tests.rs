use inn_domain::network::{
    Action, Direction, Far, Listen, NetworkKind, PolicyRule, PortRange, Protocol, RateLimits,
    Transport, Uplink,
};

use super::*;
use crate::store::tests::record;

fn lan(n: u8) -> NetworkRecord {
    NetworkRecord {
        id: NetworkId::from_bytes([n; 5]),
        spec: NetworkSpec {
            name: format!("lan-{n}").parse().unwrap(),
            kind: [NetworkKind::Nat, NetworkKind::Routed, NetworkKind::Isolated]
                [usize::from(n % 3)],
            ipv4: Some(format!("10.{n}.0.0/24").parse().unwrap()),
            ipv6: (n > 1).then(|| "fd00:1::/64".parse().unwrap()),
            uplink: if n > 1 {
                Uplink::Interface("eth0".parse().unwrap())
            } else {
                Uplink::DefaultRoute
            },
            mtu: (n > 1).then_some(1400),
            peers: n > 1,
            host: n > 2,
            metadata: n > 2,
        },
        created_at: Timestamp::from_second(i64::from(n)).unwrap(),
    }
}

fn map(n: u8, target: MapTarget) -> PortMap {
    PortMap {
        id: PortMapId::from_bytes([n; 8]),
        transport: if n.is_multiple_of(2) { Transport::Udp } else { Transport::Tcp },
        listen: match n % 3 {
            0 => Listen::Any,
            1 => Listen::Address("::1".parse().unwrap()),
            _ => Listen::Interface("eth0".parse().unwrap()),
        },
        ports: PortRange { first: u16::from(n), last: u16::from(n) + 2 },
        target,
        target_port: 80,
        masquerade: n == 2,
    }
}

#[tokio::test]
async fn networks_leases_and_port_maps_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in [3, 1, 2] {
        store.add_network(lan(n)).await.unwrap();
    }
    let twin = NetworkRecord { id: NetworkId::from_bytes([9; 5]), ..lan(1) };
    assert!(matches!(store.add_network(twin).await, Err(StoreError::NameTaken)));
    store.insert_vm(record(1), Durability::Host).await.unwrap();
    let lease = LeaseRecord {
        vm: record(1).id,
        network: lan(1).id,
        ipv4: Some("10.1.0.2".parse().unwrap()),
        ipv6: None,
        released: None,
        untold: false,
    };
    store.set_lease(lease, Durability::Host).await.unwrap();
    let moved = LeaseRecord { ipv6: Some("fd00::2".parse().unwrap()), ..lease };
    store.set_lease(moved, Durability::Agent).await.unwrap();
    let maps = [
        map(3, MapTarget::Vm(record(1).id)),
        map(1, MapTarget::Address("10.9.9.9".parse().unwrap())),
        map(2, MapTarget::Vm(record(1).id)),
    ];
    store.add_port_maps(&maps).await.unwrap();
    assert!(store.add_port_maps(&[map(7, maps[1].target.clone()), maps[0].clone()]).await.is_err());

    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.networks().await.unwrap(), [lan(1), lan(2), lan(3)]);
    assert_eq!(again.leases().await.unwrap(), [moved]);
    assert_eq!(again.port_maps().await.unwrap(), maps, "all of a call, or none");
    again.forget_port_maps(&[maps[2].id]).await.unwrap();
    again.forget_vm(record(1).id, Durability::Host).await.unwrap();
    let remembered = again.leases().await.unwrap();
    assert!(remembered[0].released.is_some(), "{remembered:?}");
    let next = LeaseRecord { vm: record(2).id, ..moved };
    again.set_lease(next, Durability::Host).await.unwrap();
    assert_eq!(again.leases().await.unwrap(), [next], "nobody else remembers it");
    assert_eq!(again.port_maps().await.unwrap(), maps[1..2], "a VM's go with it");
    again.forget_network(lan(1).id).await.unwrap();
    assert_eq!(again.networks().await.unwrap(), [lan(2), lan(3)]);
    assert_eq!(again.leases().await.unwrap(), []);
}

#[tokio::test]
async fn a_vm_that_has_moved_leaves_its_address_to_the_last_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.add_network(lan(1)).await.unwrap();
    store.insert_vm(record(1), Durability::Host).await.unwrap();
    let at = |vm: u8, host: u8| LeaseRecord {
        vm: record(vm).id,
        network: lan(1).id,
        ipv4: Some([10, 1, 0, host].into()),
        ipv6: Some(format!("fd00::{vm}").parse().unwrap()),
        released: None,
        untold: false,
    };
    store.set_lease(at(1, 2), Durability::Host).await.unwrap();
    let moved = LeaseRecord { untold: true, ..at(1, 9) };
    store.set_lease(moved, Durability::Host).await.unwrap();
    store.lease_is_told(at(1, 2)).await.unwrap();
    let store = Store::open(dir.path()).unwrap();
    let leases = store.leases().await.unwrap();
    let [before, now] = leases.as_slice() else { panic!("{leases:?}") };
    assert_eq!((before.ipv4, before.released.is_some()), (at(1, 2).ipv4, true), "{before:?}");
    assert_eq!(*now, moved, "what it was told was not this");
    store.lease_is_told(moved).await.unwrap();
    assert!(!store.leases().await.unwrap()[1].untold);

    // Back again, and gone: one row for each address.
    store.set_lease(at(1, 2), Durability::Host).await.unwrap();
    store.forget_vm(record(1).id, Durability::Host).await.unwrap();
    let mut had: Vec<_> = store.leases().await.unwrap();
    had.sort_by_key(|lease| lease.ipv4);
    assert_eq!(had.iter().map(|l| l.ipv4).collect::<Vec<_>>(), [at(1, 2).ipv4, at(1, 9).ipv4]);
    assert!(had.iter().all(|lease| lease.released.is_some()), "{had:?}");
    store.set_lease(at(2, 9), Durability::Host).await.unwrap();
    assert_eq!(store.leases().await.unwrap().len(), 2, "nobody else remembers it");
}

#[tokio::test]
async fn a_policy_comes_back_as_it_was_made_and_as_it_has_become() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let rule = |far| PolicyRule {
        direction: Direction::Egress,
        action: Action::Allow,
        protocol: Some(Protocol::Tcp),
        ports: vec![PortRange { first: 1, last: 9 }],
        far,
    };
    let rules = vec![
        rule(Far::Domain("*.example.org".into())),
        rule(Far::Net("10.0.0.0/8".parse().unwrap())),
        PolicyRule {
            direction: Direction::Ingress,
            action: Action::Deny,
            protocol: Some(Protocol::Icmp),
            ports: vec![],
            far: Far::Any,
        },
    ];
    let rates = RateLimits { egress_bytes: Some(1 << 20), ..RateLimits::default() };
    let mut vm = record(1);
    vm.spec.network = inn_domain::Network::Named("lan-1".parse().unwrap());
    vm.spec.policy = Policy::Rules { rules, rates };
    store.insert_vm(vm.clone(), Durability::Host).await.unwrap();
    store.insert_vm(record(2), Durability::Host).await.unwrap();
    assert_eq!(store.vms().await.unwrap()[0].0, vm);
    for policy in [Policy::None, Policy::AllowAll, vm.spec.policy.clone()] {
        store.set_policy(vm.id, &policy, Durability::Host).await.unwrap();
        vm.changed_policy = Some(policy);
        let all = Store::open(dir.path()).unwrap().vms().await.unwrap();
        assert_eq!((&all[0].0, &all[1].0), (&vm, &record(2)));
    }
}

#[tokio::test]
async fn the_port_maps_of_a_successor_come_with_it_and_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (old, new) = (record(1), record(3));
    store.insert_vm(old.clone(), Durability::Host).await.unwrap();
    store.add_port_maps(&[map(1, MapTarget::Vm(old.id))]).await.unwrap();
    let promise = || {
        let maps = [map(2, MapTarget::Vm(new.id))];
        let parts = (new.clone(), None);
        let (store, old) = (store.clone(), old.clone());
        async move { store.replace_vm_with(old.id, old.desired, parts, &maps, Durability::Host).await }
    };
    promise().await.unwrap();
    assert_eq!(store.port_maps().await.unwrap().len(), 2);
    store.withdraw_successor(old.id, Durability::Host).await.unwrap();
    assert_eq!(store.port_maps().await.unwrap(), [map(1, MapTarget::Vm(old.id))]);
    promise().await.unwrap();
    store.forget_vm(old.id, Durability::Host).await.unwrap();
    assert_eq!(store.port_maps().await.unwrap(), [map(2, MapTarget::Vm(new.id))]);
}
