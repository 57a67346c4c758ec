use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use inn_domain::network::{Attachment, Declared, DeclaredNetwork};
use inn_units::{NetworkId, VmId};

use super::observed::{Link, Observed, Port, Station, mark};
use super::settings;
use super::step::LinkStep;

/// What has to change, in order; and what stands in the way of the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkPlan {
    pub steps: Vec<LinkStep>,
    /// A sentence each.
    pub blocked: Vec<String>,
}

impl LinkPlan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Display for LinkPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// Locally administered, and the same whatever its ports are.
pub fn bridge_mac(id: NetworkId) -> [u8; 6] {
    let [a, b, c, d, e] = *id.as_bytes();
    [0x06, a, b, c, d, e]
}

/// Empty when the kernel has what is declared. A tap that is not there belongs
/// to a VM without a VMM, and needs nothing.
pub fn plan(declared: &Declared, observed: &Observed) -> LinkPlan {
    let mut planner = Planner::new(declared, observed);
    planner.remove_strays();
    let networks = declared.networks.iter();
    let made: Vec<_> = networks.filter(|network| planner.bridge(network)).collect();
    for (file, value) in settings::of_host(declared, observed) {
        planner.setting(file, value);
    }
    for network in made {
        for attachment in declared.attachments.iter().filter(|a| a.network == network.id) {
            planner.tap(network, attachment);
        }
        planner.neighbours(network);
    }
    planner.plan
}

/// For one VM's tap that has just been opened, where all else is as it should
/// be: of `observed` only the tap and its bridge are looked at, and what is
/// written down for others is left alone. So it costs the same among a
/// thousand.
pub(super) fn plan_one(declared: &Declared, observed: &Observed, vm: VmId) -> LinkPlan {
    let mut planner = Planner::new(declared, observed);
    let attachment = declared.attachments.iter().find(|attachment| attachment.vm == vm);
    let network = attachment.and_then(|attachment| {
        declared.networks.iter().find(|network| network.id == attachment.network)
    });
    if let (Some(attachment), Some(network)) = (attachment, network) {
        planner.tap(network, attachment);
        for (ip, mac) in neighbours_of(network, attachment) {
            planner.step(LinkStep::AddNeighbour { name: network.bridge(), ip, mac });
        }
    }
    planner.plan
}

/// What is written down of a VM that has gone, on a host where its tap may
/// still be held by somebody.
pub(super) fn plan_without(
    declared: &Declared,
    observed: &Observed,
    gone: &Attachment,
) -> LinkPlan {
    let mut plan = LinkPlan::default();
    let tap = gone.tap();
    let held = observed.link(tap.as_str());
    if held.is_some_and(|link| link.is_ours(&declared.instance)) {
        plan.steps.push(LinkStep::Remove { name: tap });
    }
    let network = declared.networks.iter().find(|network| network.id == gone.network);
    if let Some(network) = network {
        let name = network.bridge();
        for (ip, mac) in neighbours_of(network, gone) {
            let (name, mac) = (name.clone(), mac.to_vec());
            plan.steps.push(LinkStep::RemoveNeighbour { name, ip, mac });
        }
    }
    plan
}

/// The settings alone, of a host and of bridges that are as they should be.
pub(super) fn plan_settings(declared: &Declared, observed: &Observed) -> LinkPlan {
    let mut planner = Planner::new(declared, observed);
    let bridges = declared.networks.iter();
    let bridges = bridges.flat_map(|network| settings::of_bridge(declared, network));
    for (file, value) in bridges.chain(settings::of_host(declared, observed)) {
        planner.setting(file, value);
    }
    planner.plan
}

struct Planner<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    links: HashMap<&'a str, &'a Link>,
    /// By the index of the port.
    stations: HashMap<u32, Vec<&'a Station>>,
    plan: LinkPlan,
}

impl<'a> Planner<'a> {
    fn new(declared: &'a Declared, observed: &'a Observed) -> Self {
        let links = observed.links.iter().map(|link| (&link.name[..], link)).collect();
        let mut stations: HashMap<u32, Vec<&Station>> = HashMap::new();
        for station in &observed.stations {
            stations.entry(station.link).or_default().push(station);
        }
        Self { declared, observed, links, stations, plan: LinkPlan::default() }
    }

    fn step(&mut self, step: LinkStep) {
        self.plan.steps.push(step);
    }

    /// What is ours and nobody's. A tap that somebody still holds is cut off.
    fn remove_strays(&mut self) {
        let bridges = self.declared.networks.iter().map(DeclaredNetwork::bridge);
        let taps = self.declared.attachments.iter().map(Attachment::tap);
        let wanted: BTreeSet<String> = bridges.chain(taps).map(|name| name.to_string()).collect();
        for link in &self.observed.links {
            if link.is_ours(&self.declared.instance)
                && !wanted.contains(&link.name)
                && let Ok(name) = link.name.parse()
            {
                self.step(LinkStep::Remove { name });
            }
        }
    }

    /// Whether it is there, or will be.
    fn bridge(&mut self, network: &DeclaredNetwork) -> bool {
        let name = network.bridge();
        let mac = bridge_mac(network.id);
        let mark = mark(&self.declared.instance);
        let alias = format!("{mark}network {} ({})", network.spec.name, network.id);
        let there = self.links.get(name.as_str()).copied();
        match there {
            None => {
                self.step(LinkStep::AddBridge { name: name.clone(), mac });
                // Not with it: a bridge follows its narrowest port until its
                // MTU has been set (net/bridge/br_if.c, br_mtu_auto_adjust).
                self.step(LinkStep::Mtu { name: name.clone(), mtu: network.mtu });
                self.step(LinkStep::Alias { name: name.clone(), alias });
            }
            Some(link) if let Some(blocked) = self.stranger(link) => {
                self.plan.blocked.push(format!("network {}: {blocked}", network.spec.name));
                return false;
            }
            Some(link) => {
                if link.alias != alias {
                    self.step(LinkStep::Alias { name: name.clone(), alias });
                }
                if link.bridge != Some((false, false)) {
                    self.step(LinkStep::BridgeOptions { name: name.clone() });
                }
                if link.mac != mac {
                    self.step(LinkStep::Mac { name: name.clone(), mac });
                }
                if link.mtu != u32::from(network.mtu) {
                    self.step(LinkStep::Mtu { name: name.clone(), mtu: network.mtu });
                }
            }
        }
        // Before it is up: it listens to nobody's advertisements, not for a
        // moment.
        for (file, value) in settings::of_bridge(self.declared, network) {
            self.setting(file, value);
        }
        self.addresses(network, there);
        if there.is_none_or(|link| !link.up) {
            self.step(LinkStep::Up { name });
        }
        true
    }

    /// Why a link with a bridge's name is not it.
    fn stranger(&self, link: &Link) -> Option<String> {
        let name = &link.name;
        if !link.is_bridge() {
            let kind = link.kind.as_deref().unwrap_or("real interface");
            return Some(format!("{name} is there, a {kind} that is none of ours: remove it"));
        }
        let named = !link.alias.is_empty() && !link.is_ours(&self.declared.instance);
        named.then(|| {
            format!("{name} is another's, as its alias says (\"{}\"): remove it", link.alias)
        })
    }

    fn addresses(&mut self, network: &DeclaredNetwork, there: Option<&Link>) {
        let name = network.bridge();
        let four = network.gateway4().zip(network.spec.ipv4);
        let six = network.gateway6().zip(network.spec.ipv6);
        let wanted: Vec<(IpAddr, u8)> = four
            .map(|(ip, net)| (ip.into(), net.prefix_len()))
            .into_iter()
            .chain(six.map(|(ip, net)| (ip.into(), net.prefix_len())))
            .collect();
        let observed = self.observed;
        let has: Vec<(IpAddr, u8)> = observed
            .addresses
            .iter()
            .filter(|address| there.is_some_and(|link| link.index == address.link))
            .filter(|address| !address.automatic)
            .map(|address| (address.ip, address.prefix))
            .collect();
        for (ip, prefix) in has.iter().filter(|has| !wanted.contains(has)) {
            self.step(LinkStep::RemoveAddress { name: name.clone(), ip: *ip, prefix: *prefix });
        }
        for (ip, prefix) in wanted.into_iter().filter(|wanted| !has.contains(wanted)) {
            self.step(LinkStep::AddAddress { name: name.clone(), ip, prefix });
        }
    }

    fn tap(&mut self, network: &DeclaredNetwork, attachment: &Attachment) {
        let name = attachment.tap();
        let Some(&link) = self.links.get(name.as_str()) else { return };
        let mark = mark(&self.declared.instance);
        if !link.alias.is_empty() && !link.is_ours(&self.declared.instance) {
            let blocked =
                format!("VM {}: {name} is another's: \"{}\"", attachment.name, link.alias);
            self.plan.blocked.push(blocked);
            return;
        }
        let alias = format!("{mark}VM {} ({})", attachment.name, attachment.vm);
        let bridge = network.bridge();
        let master = self.links.get(bridge.as_str()).map(|bridge| bridge.index);
        let mtu = network.mtu;
        let at_place = link.master.is_some() && link.master == master;
        if !at_place || link.alias != alias || link.mtu != u32::from(mtu) {
            self.step(LinkStep::Enslave { name: name.clone(), bridge, mtu, alias });
        }
        let port = Port { isolated: !network.spec.peers, learning: false, flood: false };
        if !at_place || link.port != Some(port) {
            self.step(LinkStep::Port { name: name.clone(), port });
        }
        let stations = self.stations.get(&link.index).cloned().unwrap_or_default();
        for station in stations.iter().filter(|station| station.mac != attachment.mac) {
            self.step(LinkStep::RemoveStation { name: name.clone(), mac: station.mac.clone() });
        }
        if !at_place || !stations.iter().any(|station| station.mac == attachment.mac) {
            self.step(LinkStep::AddStation { name: name.clone(), mac: attachment.mac });
        }
        // Last: nothing passes before all that is above.
        if !link.up {
            self.step(LinkStep::Up { name });
        }
    }

    /// Who has which address, whatever anybody on the bridge says.
    fn neighbours(&mut self, network: &DeclaredNetwork) {
        let name = network.bridge();
        let observed = self.observed;
        let index = self.links.get(name.as_str()).map(|link| link.index);
        let clients = self.declared.attachments.iter().filter(|a| a.network == network.id);
        let wanted: BTreeMap<IpAddr, [u8; 6]> =
            clients.flat_map(|attachment| neighbours_of(network, attachment)).collect();
        let mut right = BTreeSet::new();
        for other in observed.neighbours.iter().filter(|n| Some(n.link) == index) {
            match wanted.get(&other.ip) {
                Some(mac) if mac[..] == other.mac => drop(right.insert(other.ip)),
                // Replaced, below.
                Some(_) => {}
                // The kernel's own.
                None if other.ip.is_multicast() => {}
                None => {
                    let (ip, mac) = (other.ip, other.mac.clone());
                    self.step(LinkStep::RemoveNeighbour { name: name.clone(), ip, mac });
                }
            }
        }
        for (ip, mac) in wanted {
            if !right.contains(&ip) {
                self.step(LinkStep::AddNeighbour { name: name.clone(), ip, mac });
            }
        }
    }

    /// Nothing, where the kernel has no such file; of a link that is yet to be
    /// made, everything.
    fn setting(&mut self, file: String, value: String) {
        let observed = self.observed;
        let is = observed.settings.get(&file);
        let link = file.split('/').nth(3).unwrap_or_default();
        let is_new = link != "all" && !self.links.contains_key(link);
        let ours = self.declared.networks.iter().any(|n| n.bridge().as_str() == link);
        if is.is_some_and(|is| *is != value) || (is_new && ours) {
            self.step(LinkStep::Setting { file, value });
        }
    }
}

/// Which addresses of a VM's the network has.
fn neighbours_of(network: &DeclaredNetwork, attachment: &Attachment) -> Vec<(IpAddr, [u8; 6])> {
    let four = attachment.ipv4.filter(|_| network.spec.ipv4.is_some()).map(IpAddr::from);
    let six = attachment.ipv6.filter(|_| network.spec.ipv6.is_some()).map(IpAddr::from);
    four.into_iter().chain(six).map(|ip| (ip, attachment.mac)).collect()
}
