use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use inn_domain::network::{Attachment, Declared, DeclaredNetwork};
use inn_units::NetworkId;

use super::observed::{Link, Observed, Port, mark};
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
    let mut planner = Planner { declared, observed, plan: LinkPlan::default() };
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

struct Planner<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    plan: LinkPlan,
}

impl Planner<'_> {
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
        let observed = self.observed;
        let there = observed.link(name.as_str());
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
        let observed = self.observed;
        let Some(link) = observed.link(name.as_str()) else { return };
        let mark = mark(&self.declared.instance);
        if !link.alias.is_empty() && !link.is_ours(&self.declared.instance) {
            let blocked =
                format!("VM {}: {name} is another's: \"{}\"", attachment.name, link.alias);
            self.plan.blocked.push(blocked);
            return;
        }
        let alias = format!("{mark}VM {} ({})", attachment.name, attachment.vm);
        let bridge = network.bridge();
        let master = observed.link(bridge.as_str()).map(|bridge| bridge.index);
        let mtu = network.mtu;
        let at_place = link.master.is_some() && link.master == master;
        if !at_place || link.alias != alias || link.mtu != u32::from(mtu) {
            self.step(LinkStep::Enslave { name: name.clone(), bridge, mtu, alias });
        }
        let port = Port { isolated: !network.spec.peers, learning: false, flood: false };
        if !at_place || link.port != Some(port) {
            self.step(LinkStep::Port { name: name.clone(), port });
        }
        let stations = observed.stations.iter().filter(|station| station.link == link.index);
        for station in stations.clone().filter(|station| station.mac != attachment.mac) {
            self.step(LinkStep::RemoveStation { name: name.clone(), mac: station.mac.clone() });
        }
        if !at_place || !stations.clone().any(|station| station.mac == attachment.mac) {
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
        let index = observed.link(name.as_str()).map(|link| link.index);
        let mut wanted: Vec<(IpAddr, [u8; 6])> = Vec::new();
        for attachment in self.declared.attachments.iter().filter(|a| a.network == network.id) {
            let four = attachment.ipv4.map(IpAddr::from);
            let six = attachment.ipv6.map(IpAddr::from);
            let ours = |ip: &IpAddr| match ip {
                IpAddr::V4(_) => network.spec.ipv4.is_some(),
                IpAddr::V6(_) => network.spec.ipv6.is_some(),
            };
            wanted.extend(four.into_iter().chain(six).filter(ours).map(|ip| (ip, attachment.mac)));
        }
        let has: Vec<_> = observed.neighbours.iter().filter(|n| Some(n.link) == index).collect();
        let wanted_ips: BTreeSet<_> = wanted.iter().copied().collect();
        for other in &has {
            let right = <[u8; 6]>::try_from(&other.mac[..])
                .is_ok_and(|mac| wanted_ips.contains(&(other.ip, mac)));
            // The kernel's own are those of multicast.
            if !right && !other.ip.is_multicast() && !wanted.iter().any(|(ip, _)| *ip == other.ip) {
                let (ip, mac) = (other.ip, other.mac.clone());
                self.step(LinkStep::RemoveNeighbour { name: name.clone(), ip, mac });
            }
        }
        let has: BTreeSet<_> = has.iter().map(|other| (other.ip, &other.mac[..])).collect();
        for (ip, mac) in wanted {
            if !has.contains(&(ip, &mac[..])) {
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
        let is_new = link != "all" && observed.link(link).is_none();
        let ours = self.declared.networks.iter().any(|n| n.bridge().as_str() == link);
        if is.is_some_and(|is| *is != value) || (is_new && ours) {
            self.step(LinkStep::Setting { file, value });
        }
    }
}
