//! The settings below /proc/sys/net that networks need: on our own bridges, and
//! of the host's interfaces no more than forwarding, and only where packets for
//! VMs come in.
//!
//! IPv4 forwards what comes in through an interface that says so, so nothing
//! global is set. IPv6 has had that since Linux 6.17 (`force_forwarding`);
//! before, it takes the global switch, which makes the host a router that no
//! longer listens to routers: so where it does that now, it is told to go on.

use std::collections::{BTreeMap, HashMap};

use inn_domain::network::{Declared, DeclaredNetwork, Listen, NetworkKind};

use super::observed::Observed;

const ALL6: &str = "net/ipv6/conf/all/forwarding";

fn v4(name: &str, key: &str) -> String {
    format!("net/ipv4/conf/{name}/{key}")
}

fn v6(name: &str, key: &str) -> String {
    format!("net/ipv6/conf/{name}/{key}")
}

/// What has to be read before a plan is made, of these links.
pub(crate) fn needed<'a>(declared: &Declared, links: impl Iterator<Item = &'a str>) -> Vec<String> {
    let bridges: Vec<String> =
        declared.networks.iter().map(|network| network.bridge().to_string()).collect();
    let mut files = vec![ALL6.to_owned()];
    for name in links {
        files.extend([v4(name, "forwarding"), v6(name, "accept_ra"), v6(name, "force_forwarding")]);
        if bridges.iter().any(|bridge| bridge == name) {
            files.extend(OF_BRIDGES4.iter().map(|(key, _)| v4(name, key)));
            files.extend(OF_BRIDGES6.iter().map(|(key, _)| v6(name, key)));
            files.extend([v4(name, "route_localnet"), v6(name, "disable_ipv6")]);
            files.push(v6(name, "forwarding"));
        }
    }
    files
}

/// Who asks for an address of the host's gets an answer only where it is.
const OF_BRIDGES4: [(&str, &str); 4] = [
    ("arp_ignore", "1"),
    ("rp_filter", "1"),
    ("accept_redirects", "0"),
    // VMs that may not reach one another are not told to do so.
    ("send_redirects", "0"),
];

const OF_BRIDGES6: [(&str, &str); 4] =
    [("accept_ra", "0"), ("autoconf", "0"), ("accept_redirects", "0"), ("accept_dad", "0")];

/// In the order in which they are to be written.
pub(super) fn of_bridge(declared: &Declared, network: &DeclaredNetwork) -> Vec<(String, String)> {
    let bridge = network.bridge();
    let bridge = bridge.as_str();
    let mut all = Vec::new();
    let mut set = |file: String, value: &str| all.push((file, value.to_owned()));
    for (key, value) in OF_BRIDGES4 {
        set(v4(bridge, key), value);
    }
    let leads = |four: bool| {
        // Peers meet by way of the host, where their policies are.
        let between = network.spec.peers;
        between || network.spec.kind != NetworkKind::Isolated || is_mapped(declared, network, four)
    };
    set(v4(bridge, "forwarding"), if leads(true) { "1" } else { "0" });
    // A connection of the host's to its own 127.0.0.1 that a map leads on
    // leaves through the bridge.
    set(v4(bridge, "route_localnet"), if maps_loopback(declared, network) { "1" } else { "0" });
    // Without an IPv6 subnet the host has no address of IPv6 there at all.
    let six = network.spec.ipv6.is_some();
    set(v6(bridge, "disable_ipv6"), if six { "0" } else { "1" });
    if six {
        for (key, value) in OF_BRIDGES6 {
            set(v6(bridge, key), value);
        }
        // It answers as a router does, whether it leads anywhere or not.
        set(v6(bridge, "forwarding"), "1");
    }
    all
}

/// Those of the host's interfaces, and the global one where it has to be.
pub(super) fn of_host(declared: &Declared, observed: &Observed) -> Vec<(String, String)> {
    let (mut four, mut six) = (BTreeMap::new(), BTreeMap::new());
    for network in &declared.networks {
        let leads = network.spec.kind != NetworkKind::Isolated;
        let bridge = network.bridge();
        if let (true, Some(uplink), true) = (leads, &network.uplink4, network.spec.ipv4.is_some()) {
            four.insert(uplink.to_string(), ());
        }
        if network.spec.ipv6.is_some()
            && (leads || network.spec.peers || is_mapped(declared, network, false))
        {
            six.insert(bridge.to_string(), ());
            if let (true, Some(uplink)) = (leads, &network.uplink6) {
                six.insert(uplink.to_string(), ());
            }
        }
    }
    // Thousands of maps listen at a handful of places.
    let mut places: HashMap<&Listen, (bool, bool)> = HashMap::new();
    for map in &declared.maps {
        let (is4, is6) = places.entry(&map.map.listen).or_default();
        *is4 |= map.targets.iter().any(|target| target.is_ipv4());
        *is6 |= map.targets.iter().any(|target| target.is_ipv6());
    }
    for (listen, (is4, is6)) in places.into_iter().filter(|(_, (is4, is6))| *is4 || *is6) {
        for name in entrances(listen, observed) {
            if is4 {
                four.insert(name.clone(), ());
            }
            if is6 {
                six.insert(name, ());
            }
        }
    }
    let mut all: Vec<_> =
        four.into_keys().map(|name| (v4(&name, "forwarding"), "1".to_owned())).collect();
    let forced = |name: &String| observed.settings.contains_key(&v6(name, "force_forwarding"));
    // A kernel without IPv6 has no such file.
    let Some(global) = observed.settings.get(ALL6).map(|value| value == "1") else { return all };
    if !global && six.keys().any(|name| observed.link(name).is_some() && !forced(name)) {
        for link in &observed.links {
            let file = v6(&link.name, "accept_ra");
            if observed.settings.get(&file).is_some_and(|value| value == "1") {
                all.push((file, "2".to_owned()));
            }
        }
        all.push((ALL6.to_owned(), "1".to_owned()));
    } else if !global {
        all.extend(six.into_keys().map(|name| (v6(&name, "force_forwarding"), "1".to_owned())));
    }
    all
}

fn is_mapped(declared: &Declared, network: &DeclaredNetwork, four: bool) -> bool {
    let inside = |target: &std::net::IpAddr| match target {
        std::net::IpAddr::V4(ip) => four && network.spec.ipv4.is_some_and(|net| net.contains(ip)),
        std::net::IpAddr::V6(ip) => !four && network.spec.ipv6.is_some_and(|net| net.contains(ip)),
    };
    declared.maps.iter().any(|map| map.targets.iter().any(inside))
}

fn maps_loopback(declared: &Declared, network: &DeclaredNetwork) -> bool {
    declared.maps.iter().any(|map| {
        let at_loopback = match &map.map.listen {
            Listen::Any => true,
            Listen::Address(ip) => ip.is_loopback(),
            Listen::Interface(_) => false,
        };
        let inside = |target: &std::net::IpAddr| match target {
            std::net::IpAddr::V4(ip) => network.spec.ipv4.is_some_and(|net| net.contains(ip)),
            std::net::IpAddr::V6(_) => false,
        };
        at_loopback && map.targets.iter().any(inside)
    })
}

/// Through which interfaces of the host a map's clients come.
fn entrances(listen: &Listen, observed: &Observed) -> Vec<String> {
    let with_address = |wanted: &dyn Fn(&std::net::IpAddr) -> bool| {
        let mut names = Vec::new();
        for address in observed.addresses.iter().filter(|a| !a.automatic && wanted(&a.ip)) {
            let link = observed.link_of(address.link).filter(|link| !link.loopback);
            names.extend(link.map(|link| link.name.clone()));
        }
        names
    };
    match listen {
        Listen::Any => with_address(&|_| true),
        Listen::Address(ip) => with_address(&|has| has == ip),
        Listen::Interface(name) => vec![name.to_string()],
    }
}
