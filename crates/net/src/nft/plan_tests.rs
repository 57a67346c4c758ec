//! Whatever is found, one transaction that the kernel would take makes of it
//! what is declared, and a second one is empty.

use proptest::prelude::*;

use super::decode::Observed;
use super::model::{ElementKey, Family, Hook, HookPoint, Rule, Set, Type, Value};
use super::part::{Part, Verdict};
use super::plan::plan;
use super::pretend::{Pretended, PretendedChain, PretendedTable};
use crate::table::tables;
use crate::table::tests::{Turn, turned, turns};

/// What somebody else does to a table of ours: which, and to what of it.
type Spoil = (u8, u8, u8);

/// Of those that there are.
fn chosen<T>(all: impl ExactSizeIterator<Item = T>, which: u8) -> Option<T> {
    let count = all.len();
    let mut all = all;
    all.nth(usize::from(which).checked_rem(count)?)
}

fn spoil(there: &mut Pretended, (what, a, b): Spoil) {
    let family = if a % 2 == 0 { Family::Inet } else { Family::Bridge };
    if what == 0 {
        there.tables.remove(&family);
        return;
    }
    let Some(table) = there.tables.get_mut(&family) else {
        // One that is nobody's yet.
        there.tables.insert(family, PretendedTable::default());
        return;
    };
    let a = a / 2;
    let name = chosen(table.chains.keys().cloned(), a);
    let set = chosen(table.sets.keys().cloned(), a);
    match what {
        1 => table.dormant = !table.dormant,
        2 | 3 => {
            let Some(chain) = name.and_then(|name| table.chains.get_mut(&name)) else { return };
            let at = chosen(chain.rules.iter().enumerate(), b).map(|(at, _)| at);
            if let Some(at) = at {
                if what == 2 { drop(chain.rules.remove(at)) } else { chain.rules.swap(0, at) }
            }
        }
        4 => {
            let Some(chain) = name.and_then(|name| table.chains.get_mut(&name)) else { return };
            let at = usize::from(b) % (chain.rules.len() + 1);
            let rule = Rule::new("somebody's", vec![Part::Counter, Part::Do(Verdict::Drop)]);
            // Beyond what the plan's own steps take.
            chain.rules.insert(at, (1_000_000 + u64::from(b), rule));
        }
        5 => {
            let hook = Hook { point: HookPoint::Forward, nat: false, priority: i32::from(b) };
            let foreign = PretendedChain { hook: (b > 99).then_some(hook), rules: Vec::new() };
            table.chains.insert(format!("foreign{b}"), foreign);
        }
        6 => {
            let Some(chain) = name.and_then(|name| table.chains.get_mut(&name)) else { return };
            chain.hook = Some(Hook { point: HookPoint::Input, nat: false, priority: i32::from(b) });
        }
        7 => {
            let Some(name) = name.filter(|name| !table.uses_chain(name)) else { return };
            table.chains.remove(&name);
        }
        8 => {
            let shape = Set::of(&[Type::Ipv4]).shape;
            let elements = [(ElementKey::single(vec![192, 0, 2, b]), Value::Nothing)].into();
            let foreign = super::decode::ObservedSet { shape: Some(shape), elements };
            table.sets.insert(format!("foreign{b}"), foreign);
        }
        9 => {
            let Some(set) = set.filter(|set| !table.uses_set(set)) else { return };
            table.sets.remove(&set);
        }
        10 => {
            let Some(set) = set.and_then(|set| table.sets.get_mut(&set)) else { return };
            set.shape = (b % 2 == 0).then(|| Set::of(&[Type::Ether]).shape);
            set.elements.clear();
        }
        _ => {
            let Some(set) = set.and_then(|set| table.sets.get_mut(&set)) else { return };
            let Some(key) = chosen(set.elements.keys().cloned(), b) else { return };
            match what {
                11 => drop(set.elements.remove(&key)),
                12 => set.elements.clear(),
                _ => {
                    let value = match &set.elements[&key] {
                        Value::Bytes(bytes) => Value::Bytes(vec![b; bytes.len()]),
                        other => other.clone(),
                    };
                    set.elements.insert(key, value);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn one_transaction_makes_of_anything_what_is_declared(
        before in turns(8),
        spoils in proptest::collection::vec((0..14_u8, any::<u8>(), any::<u8>()), 0..12),
        after in turns(8),
    ) {
        let had = turned(&before);
        let mut there = Pretended::of(&tables(&had));
        for one in spoils {
            spoil(&mut there, one);
        }
        let mut declared = had;
        for turn in &after {
            Turn::apply(*turn, &mut declared);
        }
        let wanted = tables(&declared);
        let transaction = plan(&wanted, &there.observed());
        there.apply(&transaction);
        there.is(&wanted);
        let again = plan(&wanted, &there.observed());
        prop_assert!(again.is_empty(), "{again}");
    }
}

#[test]
fn from_nothing_and_back() {
    let everything = tables(&crate::table::tests::everything());
    let mut there = Pretended::of(&everything);
    there.is(&everything);
    let nothing = tables(&inn_domain::network::Declared::default());
    there.apply(&plan(&nothing, &there.observed()));
    assert_eq!(there.observed(), Observed { generation: 1, ..Observed::default() });
}
