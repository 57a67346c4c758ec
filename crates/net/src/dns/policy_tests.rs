use hickory_proto::op::{MessageType, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, Record};
use inn_domain::network::{Action, PolicyRule, RateLimits};

use super::*;

fn rule(domain: &str) -> PolicyRule {
    PolicyRule {
        direction: Direction::Egress,
        action: Action::Allow,
        protocol: None,
        ports: Vec::new(),
        far: Far::Domain(domain.to_owned()),
    }
}

fn policy() -> Policy {
    let anywhere = PolicyRule { far: Far::Any, ..rule("") };
    let rules = vec![rule("example.com"), anywhere, rule("*.Example.com."), rule("other.net")];
    Policy::Rules { rules, rates: RateLimits::default() }
}

fn answer(records: &[(&str, u32, &str)]) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    for (owner, ttl, data) in records {
        let data = match data.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => RData::A(A(ip)),
            Ok(IpAddr::V6(ip)) => RData::AAAA(AAAA(ip)),
            Err(_) => RData::CNAME(CNAME(Name::from_ascii(data).unwrap())),
        };
        message.add_answer(Record::from_rdata(Name::from_ascii(owner).unwrap(), *ttl, data));
    }
    message
}

fn tell(rules: &[usize], addresses: &[&str], seconds: u64) -> Verdict {
    Verdict::Tell {
        rules: rules.to_vec(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        lifetime: Duration::from_secs(seconds),
    }
}

#[test]
fn each_rule_about_a_name_gets_its_addresses() {
    let plain =
        answer(&[("example.com.", 300, "93.184.216.34"), ("example.com.", 60, "2606:2800::1")]);
    let both = ["93.184.216.34", "2606:2800::1"];
    assert_eq!(judge(&policy(), "example.com", &plain), tell(&[0], &both, 60));
    let below = answer(&[("a.b.example.com.", 5, "93.184.216.34")]);
    assert_eq!(judge(&policy(), "a.b.example.com", &below), tell(&[2], &both[..1], 30));
    for other in ["badexample.com", "com", "example.org", "other.net.example"] {
        assert_eq!(judge(&policy(), other, &plain), Verdict::Pass, "{other}");
    }
    assert_eq!(judge(&Policy::AllowAll, "example.com", &plain), Verdict::Pass);
}

#[test]
fn names_that_lead_on_are_followed_and_strangers_are_not() {
    let led = answer(&[
        ("cdn.example.net.", 60, "192.0.78.1"),
        ("other.net.", 60, "cdn.example.net."),
        ("stranger.net.", 60, "192.0.78.2"),
    ]);
    assert_eq!(judge(&policy(), "other.net", &led), tell(&[3], &["192.0.78.1"], 60));
    let looped = answer(&[("other.net.", 60, "b.net."), ("b.net.", 60, "other.net.")]);
    assert_eq!(judge(&policy(), "other.net", &looped), Verdict::Pass);
}

#[test]
fn a_private_address_is_refused_wherever_it_stands() {
    for private in [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "fec0::1",
        "64:ff9b:1::1",
    ] {
        let mixed = answer(&[("example.com.", 9, "93.184.216.34"), ("x.net.", 9, private)]);
        let verdict = judge(&policy(), "example.com", &mixed);
        assert_eq!(verdict, Verdict::Private(private.parse().unwrap()), "{private}");
        // Nobody asked for protection against it.
        assert_eq!(judge(&policy(), "unruled.org", &mixed), Verdict::Pass);
    }
    for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::101:101"] {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
}
