//! Our tables, as what is declared wants them: pure.
//!
//! ```text
//!  frames (bridge)        a VM's card ─▶ between-checks: who it says it is
//!                                   └─▶ handed to the host, or from port to port
//!  host (inet)
//!   prerouting ─▶ ports: a port map's target, by hash
//!   forward ─▶ rates ─▶ known connections ─▶ arrivals ─▶ departures
//!                                              │             │
//!                                          in-VM chain   out-VM chain ─▶ leave-NETWORK
//!   input ─▶ to-host: DHCP, DNS, ping of the gateway
//!   postrouting ─▶ masquerade: out of the uplink, hairpins, where asked
//! ```
//!
//! A packet finds its VM's chain, and a port its target, by one look-up in a
//! hash: what it costs does not grow with the number of VMs or maps. Who a
//! packet is from is told by its source address, which the bridge's table has
//! proved to be its card's.

mod frames;
mod host;
mod names;
mod policy;
mod ports;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use inn_domain::network::{Attachment, Declared, DeclaredNetwork};
use inn_units::NetworkId;

use crate::nft::{Chain, ElementKey, Family, Hook, HookPoint, Rule, Table, Tables, Value};

pub use names::domain_sets;
pub use tally::{Counted, Tally, VmTally, tally};

pub fn tables(declared: &Declared) -> Tables {
    let mut tables = Tables { instance: declared.instance.clone(), tables: BTreeMap::new() };
    if declared.networks.is_empty() && declared.maps.is_empty() {
        return tables;
    }
    let view = View::of(declared);
    tables.tables.insert(Family::Inet, host::table(&view));
    if !view.cards.is_empty() {
        tables.tables.insert(Family::Bridge, frames::table(&view));
    }
    tables
}

/// What is declared, put together.
struct View<'a> {
    declared: &'a Declared,
    /// Each with its network; one without is nobody's.
    cards: Vec<(&'a Attachment, &'a DeclaredNetwork)>,
}

impl<'a> View<'a> {
    fn of(declared: &'a Declared) -> Self {
        let networks: BTreeMap<NetworkId, &DeclaredNetwork> =
            declared.networks.iter().map(|network| (network.id, network)).collect();
        let cards = declared.attachments.iter();
        let cards = cards.filter_map(|card| Some((card, *networks.get(&card.network)?))).collect();
        Self { declared, cards }
    }
}

/// Small words for what every file here does.
trait Build {
    fn chain(&mut self, name: &str, hook: Option<Hook>, rules: Vec<Rule>);
    fn element(&mut self, set: &str, key: Vec<u8>, value: Value);
}

impl Build for Table {
    fn chain(&mut self, name: &str, hook: Option<Hook>, rules: Vec<Rule>) {
        self.chains.insert(name.to_owned(), Chain { hook, rules });
    }

    /// Of a set that is there.
    fn element(&mut self, set: &str, key: Vec<u8>, value: Value) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.insert(ElementKey::single(key), value);
        }
    }
}

fn filter(point: HookPoint, priority: i32) -> Option<Hook> {
    Some(Hook { point, nat: false, priority })
}

fn nat(point: HookPoint, priority: i32) -> Option<Hook> {
    Some(Hook { point, nat: true, priority })
}
