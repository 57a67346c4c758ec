//! A pretended nf_tables for the tests of plans: it takes a transaction as the
//! kernel does, step by step, and refuses what the kernel refuses: what is not
//! there, what is there already, and what something still refers to.

use std::collections::BTreeMap;

use super::decode::{Observed, ObservedChain, ObservedRule, ObservedSet, ObservedTable};
use super::expression;
use super::model::{Chain, Family, Hook, Rule, Tables, Value};
use super::part::{Part, Verdict};
use super::plan::{Place, Step, Transaction};

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pretended {
    pub(crate) tables: BTreeMap<Family, PretendedTable>,
    last_handle: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PretendedTable {
    pub(crate) dormant: bool,
    pub(crate) sets: BTreeMap<String, ObservedSet>,
    pub(crate) chains: BTreeMap<String, PretendedChain>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PretendedChain {
    pub(crate) hook: Option<Hook>,
    /// By their handles, in order.
    pub(crate) rules: Vec<(u64, Rule)>,
}

impl Pretended {
    /// As if it had been made like this.
    pub(crate) fn of(tables: &Tables) -> Self {
        let mut pretended = Self::default();
        let nothing = Observed::default();
        pretended.apply(&super::plan::plan(tables, &nothing));
        pretended
    }

    pub(crate) fn observed(&self) -> Observed {
        let tables = self.tables.iter().map(|(family, table)| {
            let chains = table.chains.iter().map(|(name, chain)| {
                let rules = chain.rules.iter().map(|(handle, rule)| ObservedRule {
                    handle: *handle,
                    comment: Some(rule.comment()),
                    expressions: expression::names(&rule.parts).map(str::to_owned).collect(),
                    ..ObservedRule::default()
                });
                let hook = chain.hook.map(Ok);
                (name.clone(), ObservedChain { hook, rules: rules.collect() })
            });
            let (dormant, sets) = (table.dormant, table.sets.clone());
            (*family, ObservedTable { dormant, sets, chains: chains.collect() })
        });
        Observed { generation: 1, tables: tables.collect() }
    }

    /// Whether it is that, and nothing besides.
    #[track_caller]
    pub(crate) fn is(&self, tables: &Tables) {
        assert!(self.tables.keys().eq(tables.tables.keys()));
        for (family, wanted) in &tables.tables {
            let there = &self.tables[family];
            assert!(!there.dormant, "{family}");
            assert!(there.sets.keys().eq(wanted.sets.keys()), "{family}");
            for (name, set) in &wanted.sets {
                assert_eq!(there.sets[name].shape.as_ref(), Some(&set.shape), "{name}");
                assert_eq!(there.sets[name].elements, set.elements, "{name}");
            }
            assert!(there.chains.keys().eq(wanted.chains.keys()), "{family}");
            for (name, Chain { hook, rules }) in &wanted.chains {
                assert_eq!(there.chains[name].hook, *hook, "{name}");
                assert!(there.chains[name].rules.iter().map(|(_, rule)| rule).eq(rules), "{name}");
            }
        }
    }

    #[track_caller]
    pub(crate) fn apply(&mut self, transaction: &Transaction) {
        for (family, step) in &transaction.steps {
            self.step(*family, step);
        }
    }

    #[track_caller]
    fn step(&mut self, family: Family, step: &Step) {
        match step {
            Step::AddTable => {
                let before = self.tables.insert(family, PretendedTable::default());
                assert!(before.is_none(), "{family} is there");
                return;
            }
            Step::DeleteTable => {
                assert!(self.tables.remove(&family).is_some(), "no {family}");
                return;
            }
            _ => {}
        }
        self.last_handle += 1;
        let handle = self.last_handle;
        let table = self.tables.get_mut(&family).expect("its table is there");
        match step {
            Step::AddTable | Step::DeleteTable => {}
            Step::AddSet { set, shape } => {
                let new = ObservedSet { shape: Some(shape.clone()), ..ObservedSet::default() };
                assert!(table.sets.insert(set.clone(), new).is_none(), "{set} is there");
            }
            Step::DeleteSet { set } => {
                assert!(!table.uses_set(set), "{set} is in use");
                assert!(table.sets.remove(set).is_some(), "no {set}");
            }
            Step::AddElements { set, shape, elements } => {
                for (key, value) in elements {
                    assert!(table.leads_on(value), "{set}: {value:?} leads nowhere");
                    let there = table.sets.get_mut(set).expect("its set is there");
                    assert_eq!(there.shape.as_ref(), Some(shape));
                    assert!(there.elements.insert(key.clone(), value.clone()).is_none(), "{key:?}");
                }
            }
            Step::DeleteElements { set, elements, .. } => {
                let there = table.sets.get_mut(set).expect("its set is there");
                for (key, value) in elements {
                    assert_eq!(there.elements.remove(key).as_ref(), Some(value), "{set}: {key:?}");
                }
            }
            Step::AddChain { chain, hook } => {
                let new = PretendedChain { hook: *hook, rules: Vec::new() };
                assert!(table.chains.insert(chain.clone(), new).is_none(), "{chain} is there");
            }
            Step::DeleteChain { chain } => {
                assert!(!table.uses_chain(chain), "{chain} is in use");
                let gone = table.chains.remove(chain).expect("it is there");
                assert!(gone.rules.is_empty(), "{chain} has rules");
            }
            Step::AddRule { chain, place, rule } => {
                for part in &rule.parts {
                    assert!(set_of(part).is_none_or(|set| table.sets.contains_key(set)), "{part}");
                    assert!(to_of(part).is_none_or(|to| table.chains.contains_key(to)), "{part}");
                }
                let rules = &mut table.chains.get_mut(chain).expect("its chain is there").rules;
                let at = match place {
                    Place::Last => rules.len(),
                    Place::Before(next) => {
                        rules.iter().position(|(handle, _)| handle == next).expect("it is there")
                    }
                };
                rules.insert(at, (handle, rule.clone()));
            }
            Step::DeleteRule { chain, handle } => {
                let rules = &mut table.chains.get_mut(chain).expect("its chain is there").rules;
                let at = rules.iter().position(|(there, _)| there == handle);
                rules.remove(at.expect("it is there"));
            }
        }
    }
}

impl PretendedTable {
    pub(crate) fn uses_set(&self, name: &str) -> bool {
        self.parts().any(|part| set_of(part) == Some(name))
    }

    pub(crate) fn uses_chain(&self, name: &str) -> bool {
        let values = self.sets.values().flat_map(|set| set.elements.values());
        values.into_iter().any(|value| matches!(value, Value::Goto(to) if to == name))
            || self.parts().any(|part| to_of(part) == Some(name))
    }

    fn leads_on(&self, value: &Value) -> bool {
        match value {
            Value::Goto(chain) => self.chains.contains_key(chain),
            Value::Nothing | Value::Bytes(_) => true,
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        rules.flat_map(|(_, rule)| &rule.parts)
    }
}

fn set_of(part: &Part) -> Option<&str> {
    match part {
        Part::In { set, .. } => Some(set),
        Part::Verdicts { map, .. } | Part::Dnat { map, .. } => Some(map),
        _ => None,
    }
}

fn to_of(part: &Part) -> Option<&str> {
    match part {
        Part::Do(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(chain),
        _ => None,
    }
}
