use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use inn_domain::network::{Attachment, DeclaredNetwork};
use ipnet::IpNet;

use super::ZONE;

/// Attachments come and go, and nobody tells a resolver.
const TTL: u32 = 5;

/// What our own zone says of a name; nothing, if it is not in it.
#[derive(Debug, PartialEq)]
pub(super) enum Local {
    Records(Vec<Record>),
    /// There is the name, and nothing of that kind.
    Nothing,
    NoName,
}

/// A VM sees its own network's names. `name` is in lower case, without the dot
/// at its end.
pub(super) fn look_up(
    network: &DeclaredNetwork,
    clients: &[Attachment],
    (name, owner): (&str, &Name),
    kind: RecordType,
) -> Option<Local> {
    let clients = || clients.iter().filter(|client| client.network == network.id);
    if kind == RecordType::PTR
        && let Ok(net) = owner.parse_arpa_name()
    {
        let ours = |net: &IpNet| match net {
            IpNet::V4(net) => network.spec.ipv4.is_some_and(|ours| ours.contains(net)),
            IpNet::V6(net) => network.spec.ipv6.is_some_and(|ours| ours.contains(net)),
        };
        ours(&net).then_some(())?;
        let whole = net.prefix_len() == net.max_prefix_len();
        let has = |client: &&Attachment| match net.addr() {
            IpAddr::V4(ip) => client.ipv4 == Some(ip),
            IpAddr::V6(ip) => client.ipv6 == Some(ip),
        };
        let Some(client) = clients().filter(|_| whole).find(has) else {
            return Some(Local::NoName);
        };
        let target = format!("{}.{}.{ZONE}.", client.name, network.spec.name);
        let target = Name::from_ascii(target).ok()?;
        return Some(records(owner, [RData::PTR(PTR(target))]));
    }
    let below = name.strip_suffix(ZONE)?;
    if below.is_empty() {
        return Some(Local::Nothing);
    }
    let below = below.strip_suffix('.')?;
    let Some(below) = below.strip_suffix(network.spec.name.as_str()) else {
        return Some(Local::NoName);
    };
    if below.is_empty() {
        return Some(Local::Nothing);
    }
    let wanted = below.strip_suffix('.').unwrap_or_default();
    let Some(client) = clients().find(|client| client.name.as_str() == wanted) else {
        return Some(Local::NoName);
    };
    let found = match kind {
        RecordType::A => client.ipv4.map(|ip| RData::A(A(ip))),
        RecordType::AAAA => client.ipv6.map(|ip| RData::AAAA(AAAA(ip))),
        _ => None,
    };
    Some(found.map_or(Local::Nothing, |data| records(owner, [data])))
}

fn records(owner: &Name, data: impl IntoIterator<Item = RData>) -> Local {
    let record = |data| Record::from_rdata(owner.clone(), TTL, data);
    Local::Records(data.into_iter().map(record).collect())
}

/// By which others know for how long there is nothing (RFC 2308).
pub(super) fn authority() -> Option<Record> {
    let zone = Name::from_ascii(format!("{ZONE}.")).ok()?;
    let ttl = i32::try_from(TTL).ok()?;
    let soa = SOA::new(zone.clone(), zone.clone(), 1, ttl, ttl, ttl, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}
