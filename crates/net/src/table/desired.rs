//! The tables of what is declared, kept in step with it: a change costs what
//! it changes, and no more than a look at the rest.
//!
//! ```text
//!   Declared before ─┐                    ┌─ taken out ─┐
//!                    ├─▶ what is different ┤             ├─▶ Wanted ─▶ rules of all, by
//!   Declared now ────┘                    └─ put in ────┘             what sets there are
//! ```
//!
//! A network, a VM's card and a port map each say something by names and keys
//! of their own. Where two say something by the same, and where a table comes
//! or goes, all of it is made anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use inn_domain::network::{Attachment, Declared, DeclaredMap, DeclaredNetwork};
use inn_units::NetworkId;

use super::edit::{Edit, Way};
use super::{frames, host, ports};
use crate::nft::{Chain, Family, Tables, Wanted};

/// Pure; what it comes to depends on what is declared alone, and not on how
/// that came to be.
#[derive(Debug)]
pub struct Desired {
    declared: Arc<Declared>,
    wanted: Wanted,
    /// Chains of all, which no declared thing has said.
    common: BTreeSet<(Family, String)>,
    doubled: bool,
}

impl Default for Desired {
    fn default() -> Self {
        let declared: Arc<Declared> = Arc::default();
        Self {
            wanted: Wanted::nothing(declared.instance.clone()),
            declared,
            common: BTreeSet::new(),
            doubled: false,
        }
    }
}

impl Desired {
    pub fn tables(&self) -> &Tables {
        self.wanted.tables()
    }

    pub fn into_tables(self) -> Tables {
        self.wanted.into_tables()
    }

    /// For [`crate::nft::Kernel::follow`], of always the same kernel.
    pub fn wanted(&mut self) -> &mut Wanted {
        &mut self.wanted
    }

    pub fn follow(&mut self, declared: &Arc<Declared>) {
        let before = std::mem::replace(&mut self.declared, Arc::clone(declared));
        let same_tables = before.instance == declared.instance
            && families(&before).eq(families(declared))
            && !self.doubled;
        if same_tables {
            self.change(&before, declared);
        }
        if !same_tables || self.doubled {
            self.make_anew(declared);
        }
    }

    fn make_anew(&mut self, declared: &Declared) {
        self.wanted = Wanted::nothing(declared.instance.clone());
        self.common.clear();
        self.doubled = false;
        for family in families(declared) {
            self.wanted.put_table(family);
            let lasting = match family {
                Family::Inet => &host::lasting_sets()[..],
                Family::Bridge => &frames::lasting_sets(),
            };
            for (name, set) in lasting.iter().cloned() {
                self.wanted.put_set(family, name, set);
            }
        }
        let nothing = Declared { instance: declared.instance.clone(), ..Declared::default() };
        self.change(&nothing, declared);
    }

    fn change(&mut self, before: &Declared, now: &Declared) {
        let networks = different(&before.networks, &now.networks, |network| network.id);
        let (cards_before, cards_now) = (cards(before), cards(now));
        let cards = different(&cards_before, &cards_now, |(card, _)| card.vm);
        let maps = different(&before.maps, &now.maps, |map| map.map.id);
        // All that goes first: its names may be another's now.
        self.put(Way::Take, &networks.gone, &cards.gone, &maps.gone);
        self.put(Way::Put, &networks.new, &cards.new, &maps.new);
        if maps.gone.iter().chain(&maps.new).any(|map| map.map.masquerade) {
            self.masqueraded(&now.maps);
        }
        self.put_common();
    }

    fn put(
        &mut self,
        way: Way,
        networks: &[&DeclaredNetwork],
        cards: &[&(&Attachment, &DeclaredNetwork)],
        maps: &[&DeclaredMap],
    ) {
        let wanted = &mut self.wanted;
        let mut edit = Edit { wanted, family: Family::Inet, way, doubled: self.doubled };
        for network in networks {
            host::network(network, &mut edit);
        }
        for (card, network) in cards {
            edit.family = Family::Inet;
            host::vm(card, network, &mut edit);
            edit.family = Family::Bridge;
            frames::vm(card, network, &mut edit);
        }
        edit.family = Family::Inet;
        for map in maps {
            ports::map(map, &mut edit);
        }
        self.doubled = edit.doubled;
    }

    /// Several may lead to one port, so these sets are made of all of them.
    fn masqueraded(&mut self, maps: &[DeclaredMap]) {
        let mut sets = ports::masqueraded(maps);
        for name in ports::masqueraded_sets() {
            match sets.remove(&name) {
                Some(set) => self.wanted.put_set(Family::Inet, &name, set),
                None => self.wanted.take_set(Family::Inet, &name),
            }
        }
    }

    /// The rules that all packets come by.
    fn put_common(&mut self) {
        let mut common: BTreeMap<(Family, String), Chain> = BTreeMap::new();
        for (family, table) in &self.wanted.tables().tables {
            let chains = match family {
                Family::Inet => host::common_chains(table),
                Family::Bridge => frames::common_chains(),
            };
            common.extend(chains.into_iter().map(|(name, chain)| ((*family, name), chain)));
        }
        let before = std::mem::take(&mut self.common);
        for (family, name) in before.iter().filter(|key| !common.contains_key(*key)) {
            self.wanted.take_chain(*family, name);
        }
        for ((family, name), chain) in common {
            let table = self.wanted.tables().tables.get(&family);
            if table.and_then(|table| table.chains.get(&name)) != Some(&chain) {
                self.wanted.put_chain(family, &name, chain);
            }
            self.common.insert((family, name));
        }
    }
}

/// The tables that there are.
fn families(declared: &Declared) -> impl Iterator<Item = Family> {
    let host = !declared.networks.is_empty() || !declared.maps.is_empty();
    let frames = host && !cards(declared).is_empty();
    let inet = host.then_some(Family::Inet);
    inet.into_iter().chain(frames.then_some(Family::Bridge))
}

/// Each with its network; one without is nobody's.
fn cards(declared: &Declared) -> Vec<(&Attachment, &DeclaredNetwork)> {
    let networks: HashMap<NetworkId, &DeclaredNetwork> =
        declared.networks.iter().map(|network| (network.id, network)).collect();
    let cards = declared.attachments.iter();
    cards.filter_map(|card| Some((card, *networks.get(&card.network)?))).collect()
}

struct Different<'a, T> {
    gone: Vec<&'a T>,
    new: Vec<&'a T>,
}

/// What is only in the one and only in the other; what has changed is in both.
fn different<'a, T: PartialEq, K: Eq + Hash>(
    before: &'a [T],
    now: &'a [T],
    key: impl Fn(&T) -> K,
) -> Different<'a, T> {
    // Most changes are one, in a long list.
    let same = |(before, now): &(&T, &T)| before == now;
    let head = before.iter().zip(now).take_while(same).count();
    let (before, now) = (&before[head..], &now[head..]);
    let tail = before.iter().rev().zip(now.iter().rev()).take_while(same).count();
    let (before, now) = (&before[..before.len() - tail], &now[..now.len() - tail]);
    let by_key = |all: &'a [T]| -> HashMap<K, &'a T> {
        all.iter().map(|thing| (key(thing), thing)).collect()
    };
    let (there, here) = (by_key(before), by_key(now));
    if there.len() < before.len() || here.len() < now.len() {
        // Two of one key: whichever it is that goes.
        return Different { gone: before.iter().collect(), new: now.iter().collect() };
    }
    let only = |all: &'a [T], others: &HashMap<K, &T>| -> Vec<&'a T> {
        all.iter().filter(|thing| others.get(&key(thing)) != Some(thing)).collect()
    };
    Different { gone: only(before, &here), new: only(now, &there) }
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
