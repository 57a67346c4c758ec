use inn_domain::network::{
    Declared, DeclaredMap, Listen, MapTarget, PortMap, PortRange, Transport,
};

use super::*;
use crate::testing::{client, declared, network};

fn text(declared: &Declared, observed: &Observed) -> String {
    plan(declared, observed).to_string()
}

/// What the kernel has once all that is declared is there; the second VM does
/// not run.
fn complete() -> Observed {
    let network = network();
    let bridge = Link {
        index: 10,
        name: network.bridge().to_string(),
        alias: format!("innkeeper-test: network web ({})", network.id),
        mac: bridge_mac(network.id).to_vec(),
        up: true,
        mtu: 1400,
        kind: Some("bridge".to_owned()),
        bridge: Some((false, false)),
        ..Link::default()
    };
    let one = client(2, "one");
    let tap = Link {
        index: 11,
        name: one.tap().to_string(),
        alias: format!("innkeeper-test: VM one ({})", one.vm),
        mac: vec![0xfe, 1, 2, 3, 4, 5],
        up: true,
        mtu: 1400,
        master: Some(10),
        kind: Some("tun".to_owned()),
        port: Some(Port { isolated: true, learning: false, flood: false }),
        ..Link::default()
    };
    let address = |ip: &str, prefix, automatic| Address {
        link: 10,
        ip: ip.parse().unwrap(),
        prefix,
        automatic,
    };
    let neighbours = [one.clone(), client(3, "two")].into_iter().flat_map(|client| {
        let (four, six) = (client.ipv4.unwrap().into(), client.ipv6.unwrap().into());
        let of = move |ip| Neighbour { link: 10, ip, mac: client.mac.to_vec() };
        [of(four), of(six)]
    });
    Observed {
        links: vec![bridge, tap],
        addresses: vec![
            address("10.213.0.1", 24, false),
            address("fd00:1:2:3::1", 64, false),
            address("fe80::1", 64, true),
        ],
        neighbours: neighbours.collect(),
        stations: vec![Station { link: 11, mac: one.mac.to_vec() }],
        ..Observed::default()
    }
}

#[test]
fn nothing_is_done_where_nothing_is_wrong() {
    assert_eq!(text(&declared(), &complete()), "");
}

#[test]
fn a_network_is_made_from_nothing_and_its_settings_before_it_is_up() {
    let bridge = network().bridge();
    let made = text(&declared(), &Observed::default());
    let lines: Vec<&str> = made.lines().collect();
    assert_eq!(lines[0], format!("add bridge {bridge} address 06:a1:02:03:04:05"));
    assert_eq!(lines[1], format!("set {bridge} mtu 1400"));
    assert_eq!(
        lines[2],
        format!("set {bridge} alias \"innkeeper-test: network web ({})\"", network().id)
    );
    let at = |line: String| {
        lines.iter().position(|l| **l == *line).unwrap_or_else(|| panic!("{line} in {made}"))
    };
    let up = at(format!("set {bridge} up"));
    assert!(at(format!("set net/ipv6/conf/{bridge}/accept_ra = 0")) < up);
    assert!(at(format!("set net/ipv4/conf/{bridge}/forwarding = 1")) < up);
    assert!(at(format!("set net/ipv4/conf/{bridge}/route_localnet = 0")) < up);
    assert!(at(format!("add {bridge} 10.213.0.1/24")) < up);
    assert!(at(format!("add {bridge} fd00:1:2:3::1/64")) < up);
    at(format!("add neighbour 10.213.0.3 at 02:b1:02:03:04:03 on {bridge}"));
    // Taps are their VMs' starts' to make.
    assert!(!made.contains("inn-t"), "{made}");
}

#[test]
fn a_tap_passes_nothing_before_it_is_isolated() {
    let mut observed = complete();
    observed.links[1].master = None;
    observed.links[1].port = None;
    observed.links[1].alias.clear();
    observed.links[1].up = false;
    observed.stations.clear();
    let (tap, bridge) = (client(2, "one").tap(), network().bridge());
    assert_eq!(
        text(&declared(), &observed),
        format!(
            "set {tap} master {bridge} mtu 1400 alias \"innkeeper-test: VM one ({})\"\n\
             set port {tap} isolated on, learning off, flood off\n\
             add station 02:b1:02:03:04:02 at {tap}\n\
             set {tap} up\n",
            client(2, "one").vm
        )
    );
    let mut open = declared();
    open.networks[0].spec.peers = true;
    assert_eq!(
        text(&open, &complete()),
        format!("set port {tap} isolated off, learning off, flood off\n")
    );
}

#[test]
fn what_somebody_changed_is_put_right() {
    let (tap, bridge) = (client(2, "one").tap(), network().bridge());
    let mended = |change: fn(&mut Observed)| {
        let mut observed = complete();
        change(&mut observed);
        text(&declared(), &observed)
    };
    assert_eq!(mended(|o| o.links[0].up = false), format!("set {bridge} up\n"));
    assert_eq!(mended(|o| o.links[1].up = false), format!("set {tap} up\n"));
    assert_eq!(mended(|o| o.links[0].mtu = 1500), format!("set {bridge} mtu 1400\n"));
    assert_eq!(
        mended(|o| o.addresses.retain(|has| has.prefix != 24)),
        format!("add {bridge} 10.213.0.1/24\n")
    );
    assert_eq!(
        mended(|o| o.addresses[0].ip = "10.9.9.9".parse().unwrap()),
        format!("remove {bridge} 10.9.9.9/24\nadd {bridge} 10.213.0.1/24\n")
    );
    assert!(mended(|o| o.links[1].master = None).contains(&format!("set {tap} master {bridge}")));
    assert!(mended(|o| o.links[0].bridge = Some((true, false))).contains("stp off"));
    assert_eq!(
        mended(|o| o.neighbours[0].mac = vec![9; 6]),
        format!("add neighbour 10.213.0.2 at 02:b1:02:03:04:02 on {bridge}\n")
    );
    assert_eq!(
        mended(|o| {
            let ip = "10.213.0.99".parse().unwrap();
            o.neighbours.push(Neighbour { link: 10, ip, mac: vec![9; 6] });
            o.stations.push(Station { link: 11, mac: vec![9; 6] });
        }),
        format!(
            "remove station 09:09:09:09:09:09 at {tap}\n\
             remove neighbour 10.213.0.99 at 09:09:09:09:09:09 on {bridge}\n"
        )
    );
}

#[test]
fn only_what_is_ours_and_nobodys_is_removed() {
    let stray = |name: &str, alias: &str| Link {
        index: 20,
        name: name.to_owned(),
        alias: alias.to_owned(),
        kind: Some("bridge".to_owned()),
        ..Link::default()
    };
    let mut observed = complete();
    observed.links.extend([
        stray("inn-bdeadbeef00", "innkeeper-test: network old (deadbeef00)"),
        stray("inn-bdeadbeef01", "innkeeper: network system's (deadbeef01)"),
        stray("inn-bdeadbeef02", "innkeeper-other: network another's (deadbeef02)"),
        stray("inn-bdeadbeef03", ""),
        stray("docker0", ""),
    ]);
    assert_eq!(text(&declared(), &observed), "remove inn-bdeadbeef00\n");
    let nothing = Declared { instance: declared().instance, ..Declared::default() };
    let (tap, bridge) = (client(2, "one").tap(), network().bridge());
    assert_eq!(text(&nothing, &complete()), format!("remove {bridge}\nremove {tap}\n"));
}

#[test]
fn what_stands_in_the_way_is_named() {
    let mut observed = complete();
    observed.links[0].alias = "innkeeper-other: network theirs".to_owned();
    let plan = plan(&declared(), &observed);
    assert!(plan.steps.is_empty(), "{plan}");
    assert!(plan.blocked[0].contains("is another's"), "{:?}", plan.blocked);
    observed.links[0].kind = Some("dummy".to_owned());
    let plan = super::plan(&declared(), &observed);
    assert!(plan.blocked[0].contains("a dummy that is none of ours"), "{:?}", plan.blocked);
}

fn with_map(listen: Listen) -> Declared {
    let mut declared = declared();
    declared.maps.push(DeclaredMap {
        map: PortMap {
            id: inn_units::PortMapId::from_bytes([1; 8]),
            transport: Transport::Tcp,
            listen,
            ports: PortRange::single(8080),
            target: MapTarget::Vm(client(2, "one").vm),
            target_port: 80,
            masquerade: false,
        },
        targets: vec![client(2, "one").ipv4.unwrap().into()],
    });
    declared
}

#[test]
fn forwarding_is_set_where_packets_for_vms_come_in_and_nowhere_else() {
    let mut observed = complete();
    for (index, name, ip) in
        [(1, "lo", "127.0.0.1"), (2, "eth0", "192.0.2.7"), (3, "eth1", "198.51.100.7")]
    {
        let loopback = name == "lo";
        let name = name.to_owned();
        observed.links.push(Link {
            index,
            name: name.clone(),
            loopback,
            up: true,
            ..Link::default()
        });
        let ip = ip.parse().unwrap();
        observed.addresses.push(Address { link: index, ip, prefix: 24, automatic: false });
        observed.settings.insert(format!("net/ipv4/conf/{name}/forwarding"), "0".to_owned());
        observed.settings.insert(format!("net/ipv6/conf/{name}/accept_ra"), "1".to_owned());
    }
    let mut through = declared();
    through.networks[0].uplink4 = Some("eth0".parse().unwrap());
    assert_eq!(text(&through, &observed), "set net/ipv4/conf/eth0/forwarding = 1\n");
    let one = with_map(Listen::Address("198.51.100.7".parse().unwrap()));
    assert_eq!(text(&one, &observed), "set net/ipv4/conf/eth1/forwarding = 1\n");
    let named = with_map(Listen::Interface("eth0".parse().unwrap()));
    assert_eq!(text(&named, &observed), "set net/ipv4/conf/eth0/forwarding = 1\n");
    let any = text(&with_map(Listen::Any), &observed);
    assert!(any.contains("eth0") && any.contains("eth1") && !any.contains("/lo/"), "{any}");
}

#[test]
fn ipv6_is_forwarded_by_interface_or_with_the_hosts_own_routers_kept() {
    let mut observed = complete();
    observed.links.push(Link { index: 2, name: "eth0".to_owned(), up: true, ..Link::default() });
    let mut through = declared();
    through.networks[0].uplink6 = Some("eth0".parse().unwrap());
    let bridge = network().bridge();
    let mut set = |file: &str, value: &str| {
        observed.settings.insert(file.to_owned(), value.to_owned());
    };
    set("net/ipv6/conf/all/forwarding", "0");
    set("net/ipv6/conf/eth0/accept_ra", "1");
    let old = text(&through, &observed);
    assert_eq!(old, "set net/ipv6/conf/eth0/accept_ra = 2\nset net/ipv6/conf/all/forwarding = 1\n");
    let mut set = |file: String| {
        observed.settings.insert(file, "0".to_owned());
    };
    set("net/ipv6/conf/eth0/force_forwarding".to_owned());
    set(format!("net/ipv6/conf/{bridge}/force_forwarding"));
    let new = text(&through, &observed);
    assert_eq!(
        new,
        format!(
            "set net/ipv6/conf/eth0/force_forwarding = 1\n\
             set net/ipv6/conf/{bridge}/force_forwarding = 1\n"
        )
    );
}

#[test]
fn the_way_out_is_the_best_default_route_and_its_mtu_the_narrowest() {
    let link = |index, name: &str, mtu| Link {
        index,
        name: name.to_owned(),
        up: true,
        mtu,
        ..Link::default()
    };
    let route = |link, to: &str, prefix, metric, mtu| Route {
        link: Some(link),
        to: to.parse().unwrap(),
        prefix,
        metric,
        mtu,
    };
    let observed = Observed {
        links: vec![link(1, "eth0", 1500), link(2, "wg0", 1420), link(3, "eth1", 9000)],
        routes: vec![
            route(1, "0.0.0.0", 0, 100, None),
            route(2, "0.0.0.0", 0, 50, Some(1380)),
            route(3, "::", 0, 1024, None),
            route(1, "10.9.0.0", 16, 0, None),
        ],
        ..Observed::default()
    };
    let (four, six) = (uplink4(&observed), uplink6(&observed));
    assert_eq!(four.as_ref().map(|name| name.as_str()), Some("wg0"));
    assert_eq!(six.as_ref().map(|name| name.as_str()), Some("eth1"));
    assert_eq!(mtu(&observed, &[four, six.clone()]), 1380);
    assert_eq!(mtu(&observed, &[six]), 9000);
    assert_eq!(mtu(&observed, &[None]), 1500);
    assert_eq!(routed(&observed), ["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(uplink4(&Observed::default()), None);
}
