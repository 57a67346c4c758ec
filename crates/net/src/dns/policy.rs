use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use inn_domain::network::{Direction, Far, Policy};

/// What a rule's addresses live at least: to look up a name and to connect are
/// two steps.
const LEAST: Duration = Duration::from_secs(30);
/// An answer of zero seconds, or of years.
const MOST: Duration = Duration::from_secs(24 * 3600);

/// How many names lead from one to its address: more is a loop.
const CHAIN: usize = 16;

/// How many addresses of one answer a rule takes up.
const ADDRESSES: usize = 64;

/// Of an answer, before it leaves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No rule is about the name.
    Pass,
    /// Each of these rules is about it.
    Tell { rules: Vec<usize>, addresses: Vec<IpAddr>, lifetime: Duration },
    /// A rule is about the name, and it stands for an address that is no
    /// public one.
    Private(IpAddr),
}

/// `name` in lower case, without the dot at its end.
pub(crate) fn judge(policy: &Policy, name: &str, answer: &Message) -> Verdict {
    let rules = rules_about(policy, name);
    if rules.is_empty() {
        return Verdict::Pass;
    }
    let mut chain = vec![name.to_owned()];
    let plain = |name: &hickory_proto::rr::Name| {
        name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
    };
    for _ in 0..CHAIN {
        let before = chain.len();
        for record in &answer.answers {
            if let RData::CNAME(to) = &record.data
                && chain.contains(&plain(&record.name))
                && !chain.contains(&plain(&to.0))
                && chain.len() < CHAIN
            {
                chain.push(plain(&to.0));
            }
        }
        if chain.len() == before {
            break;
        }
    }
    let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
    for record in &answer.answers {
        let ip: IpAddr = match &record.data {
            RData::A(ip) => ip.0.into(),
            RData::AAAA(ip) => ip.0.into(),
            _ => continue,
        };
        // Whoever's it is: the guest may not look so closely.
        if !is_public(ip) {
            return Verdict::Private(ip);
        }
        if chain.contains(&plain(&record.name)) && addresses.len() < ADDRESSES {
            ttl = ttl.min(record.ttl);
            addresses.push(ip);
        }
    }
    if addresses.is_empty() {
        return Verdict::Pass;
    }
    let lifetime = Duration::from_secs(ttl.into()).clamp(LEAST, MOST);
    Verdict::Tell { rules, addresses, lifetime }
}

fn rules_about(policy: &Policy, name: &str) -> Vec<usize> {
    let Policy::Rules { rules, .. } = policy else { return Vec::new() };
    let about = |(_, rule): &(usize, &inn_domain::network::PolicyRule)| match &rule.far {
        Far::Domain(pattern) => rule.direction == Direction::Egress && fits(pattern, name),
        Far::Any | Far::Net(_) => false,
    };
    rules.iter().enumerate().filter(about).map(|(index, _)| index).collect()
}

/// `*.NAME` is all that is below it, at any depth, and not NAME itself.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern = pattern.trim_end_matches('.').to_ascii_lowercase();
    match pattern.strip_prefix("*.") {
        None => pattern == name,
        Some(zone) => {
            let below = name.strip_suffix(zone).and_then(|below| below.strip_suffix('.'));
            below.is_some_and(|below| !below.is_empty())
        }
    }
}

/// Whether it is an address of the world's: of no host's own, no site's, no
/// link's, no carrier's, and so of no cloud's metadata (IANA's registries of
/// special-purpose addresses).
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public4(ip),
        IpAddr::V6(ip) => is_public6(ip),
    }
}

fn is_public4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 10
        || a == 127
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Unspecified, loopback, IPv4 in disguise.
        [0, 0, 0, 0, 0, _, high, low] => segments[5] == 0xffff && embedded(high, low),
        // Translated to IPv4 by somebody (RFC 6052), or by us all (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => false,
        [0x2002, high, low, ..] => embedded(high, low),
        // Unique local, link-local, the old site-local, multicast.
        [first, ..] => first & 0xfe00 != 0xfc00 && first & 0xff80 != 0xfe80 && first < 0xff00,
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
