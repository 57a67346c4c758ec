use inn_domain::network::{
    Action, Declared, Direction, Far, Listen, NetworkKind, Policy, PolicyRule, PortRange, Protocol,
    RateLimits, Transport,
};

use super::*;
use crate::nft::{ElementKey, Family, Fields};
use crate::table::tests::{card, map, network, rule};

fn rules(rules: Vec<PolicyRule>) -> Policy {
    Policy::Rules { rules, rates: RateLimits::default() }
}

fn net(net: &str) -> Far {
    Far::Net(net.parse().unwrap())
}

#[test]
fn vms_leave_by_nat_and_reach_nobody_else() {
    let declared = Declared {
        networks: vec![network(1, NetworkKind::Nat), network(2, NetworkKind::Isolated)],
        attachments: vec![
            card(1, 2, Policy::AllowAll),
            card(1, 3, Policy::AllowAll),
            card(2, 2, Policy::AllowAll),
            card(1, 4, Policy::None),
        ],
        ..Declared::default()
    };
    let name = "vms_leave_by_nat_and_reach_nobody_else";
    let Some(mut world) = World::new(name, declared) else { return };
    serve(&world.outside, "[::]:80");
    for vm in [0, 1, 2] {
        serve(world.vm(vm), "[::]:80");
    }
    for ask in [tcp, udp] {
        assert_eq!(ask(world.vm(0), "192.0.2.100:80"), "192.0.2.1");
        assert_eq!(ask(world.vm(0), "[2001:db8::100]:80"), "2001:db8::1");
    }
    // The isolated network's, and the one that may do nothing.
    for vm in [2, 3] {
        cut(world.vm(vm), "192.0.2.100:80");
        cut(world.vm(vm), "[2001:db8::100]:80");
    }
    assert!(world.tally(3).denied_out.packets > 0);
    // Another VM of its network, of another network, and from outside.
    for to in ["10.77.1.3:80", "10.77.2.2:80", "[fd77:0:0:1::3]:80", "[fd77:0:0:2::2]:80"] {
        cut(world.vm(0), to);
    }
    world.outside.ip("route add 10.77.0.0/16 via 192.0.2.1");
    cut(&world.outside, "10.77.1.2:80");
    assert!(world.tally(0).denied_in.packets > 0);
    // The host's services, by each of its addresses, but DNS and ping.
    serve(&world.host, "[::]:8000");
    serve(&world.host, "[::]:53");
    for to in ["10.77.1.1:8000", "192.0.2.1:8000", "[fd77:0:0:1::1]:8000", "[2001:db8::1]:8000"] {
        cut(world.vm(0), to);
    }
    cut(world.vm(0), "192.0.2.1:53");
    for ask in [tcp, udp] {
        assert_eq!(ask(world.vm(0), "10.77.1.1:53"), "10.77.1.2");
        assert_eq!(ask(world.vm(0), "[fd77:0:0:1::1]:53"), "fd77:0:0:1::2");
    }
    cut(world.vm(3), "10.77.1.1:53");
    // The host reaches them all the same.
    assert_eq!(tcp(&world.host, "10.77.1.2:80"), "10.77.1.1");
    // Where the network says so, its services are reached.
    world.declared.networks[0].spec.host = true;
    world.apply();
    assert_eq!(tcp(world.vm(0), "10.77.1.1:8000"), "10.77.1.2");
}

#[test]
fn a_clouds_metadata_is_out_of_reach() {
    let mut declared = Declared {
        networks: vec![network(1, NetworkKind::Nat)],
        attachments: vec![card(1, 2, Policy::AllowAll)],
        ..Declared::default()
    };
    let Some(mut world) = World::new("a_clouds_metadata_is_out_of_reach", declared.clone()) else {
        return;
    };
    serve(&world.outside, "[::]:80");
    world.outside.ip("address add 169.254.169.254/32 dev eth0");
    world.outside.ip("address add fd00:ec2::254/128 dev eth0");
    world.host.ip("route add 169.254.169.254/32 dev up0");
    world.host.ip("route add fd00:ec2::254/128 dev up0");
    cut(world.vm(0), "169.254.169.254:80");
    cut(world.vm(0), "[fd00:ec2::254]:80");
    declared.networks[0].spec.metadata = true;
    world.declared = declared;
    world.apply();
    assert_eq!(tcp(world.vm(0), "169.254.169.254:80"), "192.0.2.1");
    assert_eq!(tcp(world.vm(0), "[fd00:ec2::254]:80"), "2001:db8::1");
}

#[test]
fn the_first_rule_that_fits_decides() {
    let mut web = rule(Direction::Egress, Action::Allow, net("192.0.2.0/24"));
    web.protocol = Some(Protocol::Tcp);
    web.ports = vec![PortRange::single(80), PortRange { first: 8000, last: 8010 }];
    let six = rule(Direction::Egress, Action::Allow, net("2001:db8::/64"));
    let domain = rule(Direction::Egress, Action::Allow, Far::Domain("example.org".into()));
    let stranger = rule(Direction::Ingress, Action::Deny, net("192.0.2.101/32"));
    let policy = rules(vec![
        rule(Direction::Egress, Action::Deny, net("2001:db8::bad/128")),
        web,
        six,
        domain,
        stranger,
    ]);
    let declared = Declared {
        networks: vec![network(1, NetworkKind::Nat)],
        attachments: vec![card(1, 2, policy)],
        maps: vec![map(Listen::Any, Transport::Tcp, (8080, 8080), (&["10.77.1.2"], 80))],
        ..Declared::default()
    };
    let Some(mut world) = World::new("the_first_rule_that_fits_decides", declared) else { return };
    world.outside.ip("address add 192.0.2.101/24 dev eth0");
    world.outside.ip("address add 2001:db8::bad/64 dev eth0");
    for port in [80, 443, 8005] {
        serve(&world.outside, &format!("[::]:{port}"));
    }
    assert_eq!(tcp(world.vm(0), "192.0.2.100:80"), "192.0.2.1");
    assert_eq!(tcp(world.vm(0), "192.0.2.100:8005"), "192.0.2.1");
    assert!(try_udp(world.vm(0), "192.0.2.100:80", SILENCE).is_err());
    cut(world.vm(0), "192.0.2.100:443");
    assert_eq!(tcp(world.vm(0), "[2001:db8::100]:443"), "2001:db8::1");
    cut(world.vm(0), "[2001:db8::bad]:443");
    let tally = world.tally(0);
    assert!(tally.rules[&1].packets > 0 && tally.denied_out.packets > 0, "{tally:?}");
    assert!(tally.rules[&2].packets >= 2 && tally.rules[&2].bytes > 0, "{tally:?}");

    // What our DNS answers opens the address for as long as the answer lives.
    let [set, _] = table::domain_sets(world.declared.attachments[0].vm, "EXAMPLE.org");
    let key = ElementKey::single(Fields::default().ip("192.0.2.100".parse().unwrap()).bytes());
    for milliseconds in [60_000, 600_000] {
        world.kernel.learn(Family::Inet, &set, &[(key.clone(), milliseconds)]).unwrap();
    }
    assert_eq!(tcp(world.vm(0), "192.0.2.100:443"), "192.0.2.1");
    // A repair leaves it there.
    world.apply();
    assert_eq!(tcp(world.vm(0), "192.0.2.100:443"), "192.0.2.1");
    world.kernel.learn(Family::Inet, &set, &[(key, 1)]).unwrap();
    let until = Instant::now() + PATIENCE;
    while try_tcp(world.vm(0), "192.0.2.100:443", SILENCE).is_ok() {
        assert!(Instant::now() < until, "it never ends");
    }
    world.kernel.learn(Family::Inet, "dns4-of-nobody", &[]).unwrap();

    // A port map is a permission, but for whom a rule denies it.
    serve(world.vm(0), "[::]:80");
    assert_eq!(tcp(&world.outside, "192.0.2.1:8080"), "192.0.2.100");
    let from = |address: &str| {
        let argv = ["ip", "route", "replace", "192.0.2.1", "dev", "eth0", "src", address];
        world.outside.program(&argv, "");
    };
    from("192.0.2.101");
    assert!(try_tcp(&world.outside, "192.0.2.1:8080", SILENCE).is_err());
    world.declared.attachments[0].policy = Policy::None;
    world.apply();
    world.outside.ip("route replace 192.0.2.1 dev eth0 src 192.0.2.100");
    cut(&world.outside, "192.0.2.1:8080");
    cut(world.vm(0), "192.0.2.100:80");
}

#[test]
fn peers_meet_by_way_of_their_policies() {
    let mut net2 = network(2, NetworkKind::Routed);
    net2.spec.peers = true;
    let mut only_web = rule(Direction::Ingress, Action::Allow, net("10.77.2.0/24"));
    only_web.protocol = Some(Protocol::Tcp);
    only_web.ports = vec![PortRange::single(80)];
    let declared = Declared {
        networks: vec![net2],
        attachments: vec![
            card(2, 2, Policy::AllowAll),
            card(2, 3, Policy::AllowAll),
            card(2, 4, rules(vec![only_web])),
            card(2, 5, Policy::None),
        ],
        ..Declared::default()
    };
    let Some(mut world) = World::new("peers_meet_by_way_of_their_policies", declared) else {
        return;
    };
    for vm in 0..4 {
        serve(world.vm(vm), "[::]:80");
        serve(world.vm(vm), "[::]:81");
    }
    for ask in [tcp, udp] {
        assert_eq!(ask(world.vm(0), "10.77.2.3:81"), "10.77.2.2");
        assert_eq!(ask(world.vm(0), "[fd77:0:0:2::3]:81"), "fd77:0:0:2::2");
    }
    assert_eq!(tcp(world.vm(0), "10.77.2.4:80"), "10.77.2.2");
    for to in ["10.77.2.4:81", "[fd77:0:0:2::4]:80", "10.77.2.5:80", "[fd77:0:0:2::5]:80"] {
        cut(world.vm(0), to);
    }
    assert!(world.tally(2).denied_in.packets > 0);
    cut(world.vm(2), "10.77.2.2:80");
    cut(world.vm(3), "10.77.2.2:80");
    // It is routed: the world has their own addresses, both ways.
    serve(&world.outside, "[::]:80");
    assert_eq!(tcp(world.vm(0), "192.0.2.100:80"), "10.77.2.2");
    assert_eq!(tcp(&world.outside, "10.77.2.2:80"), "192.0.2.100");
    assert_eq!(tcp(&world.outside, "[fd77:0:0:2::2]:80"), "2001:db8::100");
    cut(&world.outside, "10.77.2.4:80");
}

#[test]
fn a_rate_holds_for_all_of_a_vm() {
    let rates = RateLimits { egress_packets: Some(10), ..RateLimits::default() };
    let allow = vec![rule(Direction::Egress, Action::Allow, Far::Any)];
    let declared = Declared {
        networks: vec![network(1, NetworkKind::Nat)],
        attachments: vec![card(1, 2, Policy::Rules { rules: allow, rates })],
        ..Declared::default()
    };
    let Some(mut world) = World::new("a_rate_holds_for_all_of_a_vm", declared) else { return };
    serve(&world.outside, "[::]:80");
    assert_eq!(udp(world.vm(0), "192.0.2.100:80"), "192.0.2.1");
    world.vm(0).run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..500 {
            socket.send_to(b"!", "192.0.2.100:80").unwrap();
        }
    });
    let too_much = world.tally(0).too_much.packets;
    assert!((100..=500).contains(&too_much), "{too_much}");
    // It is not shut off.
    assert_eq!(udp(world.vm(0), "192.0.2.100:80"), "192.0.2.1");
}
