//! What has to be done so that the kernel has what is declared: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use inn_domain::network::Instance;

use super::decode::{Observed, ObservedChain, ObservedRule, ObservedSet, ObservedTable};
use super::expression;
use super::model::{Chain, ElementKey, Family, Hook, Rule, Set, Shape, Table, Tables, Value};
use super::wanted::{Touched, TouchedTable, Wanted};

/// In one batch: all of it, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub(super) instance: Instance,
    /// Of what was observed; the kernel refuses the batch if it has another by
    /// then.
    pub(super) generation: u32,
    pub steps: Vec<(Family, Step)>,
}

impl Transaction {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    DeleteTable,
    AddTable,
    DeleteElements { set: String, shape: Shape, elements: Vec<(ElementKey, Value)> },
    DeleteRule { chain: String, handle: u64 },
    DeleteChain { chain: String },
    DeleteSet { set: String },
    AddSet { set: String, shape: Shape },
    AddChain { chain: String, hook: Option<Hook> },
    AddElements { set: String, shape: Shape, elements: Vec<(ElementKey, Value)> },
    AddRule { chain: String, place: Place, rule: Rule },
}

/// Where in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Last,
    /// The rule with this handle.
    Before(u64),
}

/// The difference; nothing, where there is none.
pub fn plan(wanted: &Tables, observed: &Observed) -> Transaction {
    planned(wanted, observed, |_, wanted, there| Names::of_all(wanted, there))
}

/// The same, where what is observed was as wanted before the last changes to
/// it: only what they touched is compared.
pub(crate) fn plan_touched(wanted: &Wanted, observed: &Observed) -> Transaction {
    let Touched::Parts(touched) = wanted.touched() else {
        return plan(wanted.tables(), observed);
    };
    let nothing = TouchedTable::default();
    planned(wanted.tables(), observed, |family, wanted, there| {
        Names::touched(touched.get(&family).unwrap_or(&nothing), wanted, there)
    })
}

fn planned<'a>(
    wanted: &'a Tables,
    observed: &'a Observed,
    mut names: impl FnMut(Family, &'a Table, &'a ObservedTable) -> Names<'a>,
) -> Transaction {
    let none = &ObservedTable::default();
    let mut steps = Vec::new();
    for family in Family::ALL {
        let mut table = TablePlan::default();
        match (wanted.tables.get(&family), observed.tables.get(&family)) {
            (None, None) => {}
            (None, Some(_)) => table.first.push(Step::DeleteTable),
            (Some(wanted), None) => table.make(wanted, none),
            (Some(wanted), Some(there)) => {
                let names = names(family, wanted, there);
                if names.reshaped(wanted, there) {
                    table.first.push(Step::DeleteTable);
                    table.make(wanted, none);
                } else {
                    table.mend(&names, wanted, there);
                }
            }
        }
        steps.extend(table.in_order().map(|step| (family, step)));
    }
    Transaction { instance: wanted.instance.clone(), generation: observed.generation, steps }
}

/// What of a table is looked at.
struct Names<'a> {
    sets: BTreeSet<&'a str>,
    chains: BTreeSet<&'a str>,
    /// Of sets that are wanted and there; not those above.
    elements: Vec<(&'a str, &'a BTreeSet<ElementKey>)>,
}

impl<'a> Names<'a> {
    fn of_all(wanted: &'a Table, there: &'a ObservedTable) -> Self {
        let sets = wanted.sets.keys().chain(there.sets.keys()).map(String::as_str);
        let chains = wanted.chains.keys().chain(there.chains.keys()).map(String::as_str);
        Self { sets: sets.collect(), chains: chains.collect(), elements: Vec::new() }
    }

    fn touched(touched: &'a TouchedTable, wanted: &'a Table, there: &'a ObservedTable) -> Self {
        let mut sets: BTreeSet<&str> = touched.sets.iter().map(String::as_str).collect();
        let mut elements = Vec::new();
        for (set, keys) in &touched.elements {
            let both = wanted.sets.contains_key(set) && there.sets.contains_key(set);
            if !both {
                sets.insert(set);
            } else if !sets.contains(&**set) {
                elements.push((&**set, keys));
            }
        }
        Self { sets, chains: touched.chains.iter().map(String::as_str).collect(), elements }
    }

    /// Whether something is there by a name that means something else by now:
    /// what refers to it would have to go first, so the table goes whole.
    fn reshaped(&self, wanted: &Table, there: &ObservedTable) -> bool {
        let set = |name: &&str| {
            let both = wanted.sets.get(*name).zip(there.sets.get(*name));
            both.is_some_and(|(set, there)| there.shape.as_ref() != Some(&set.shape))
        };
        let chain = |name: &&str| {
            let both = wanted.chains.get(*name).zip(there.chains.get(*name));
            both.is_some_and(|(chain, there)| !there.is_hooked_as(chain.hook))
        };
        self.sets.iter().any(set) || self.chains.iter().any(chain) || there.dormant
    }
}

/// References go before what they refer to, and come after it.
#[derive(Debug, Default)]
struct TablePlan {
    first: Vec<Step>,
    unlink: Vec<Step>,
    remove: Vec<Step>,
    create: Vec<Step>,
    link: Vec<Step>,
}

impl TablePlan {
    fn in_order(self) -> impl Iterator<Item = Step> {
        let all = [self.first, self.unlink, self.remove, self.create, self.link];
        all.into_iter().flatten()
    }

    fn make<'a>(&mut self, wanted: &'a Table, none: &'a ObservedTable) {
        self.first.push(Step::AddTable);
        self.mend(&Names::of_all(wanted, none), wanted, none);
    }

    fn mend(&mut self, names: &Names, wanted: &Table, there: &ObservedTable) {
        for name in &names.sets {
            match (wanted.sets.get(*name), there.sets.get(*name)) {
                (None, None) => {}
                (Some(set), None) => {
                    let (name, shape) = ((*name).to_owned(), set.shape.clone());
                    self.create.push(Step::AddSet { set: name.clone(), shape });
                    self.elements(&name, set, &BTreeMap::new());
                }
                (Some(set), Some(there)) => self.elements(name, set, &there.elements),
                (None, Some(there)) => self.set_goes(name, there),
            }
        }
        for (name, keys) in &names.elements {
            if let (Some(set), Some(there)) = (wanted.sets.get(*name), there.sets.get(*name)) {
                self.elements_of(name, set, &there.elements, keys);
            }
        }
        for name in &names.chains {
            match (wanted.chains.get(*name), there.chains.get(*name)) {
                (None, None) => {}
                (Some(chain), None) => {
                    let (name, hook) = ((*name).to_owned(), chain.hook);
                    self.create.push(Step::AddChain { chain: name.clone(), hook });
                    self.rules(&name, chain, &ObservedChain::default());
                }
                (Some(chain), Some(there)) => self.rules(name, chain, there),
                (None, Some(there)) => {
                    // It may lead to others that go too, in any order.
                    self.unlink.extend(there.rules.iter().map(|rule| delete(name, rule)));
                    self.remove.push(Step::DeleteChain { chain: (*name).to_owned() });
                }
            }
        }
    }

    fn set_goes(&mut self, name: &str, there: &ObservedSet) {
        // What it says of chains that go with it.
        if let Some(shape) = &there.shape
            && !there.elements.is_empty()
        {
            let elements = there.elements.clone().into_iter().collect();
            let (set, shape) = (name.to_owned(), shape.clone());
            self.unlink.push(Step::DeleteElements { set, shape, elements });
        }
        self.remove.push(Step::DeleteSet { set: name.to_owned() });
    }

    fn elements(&mut self, name: &str, set: &Set, there: &BTreeMap<ElementKey, Value>) {
        if set.shape.timeout {
            return;
        }
        let mut change = ElementChange::default();
        // Both are sorted: one walk along them.
        let (mut wanted, mut there) = (set.elements.iter().peekable(), there.iter().peekable());
        loop {
            match (wanted.peek(), there.peek()) {
                (None, None) => break,
                (Some((key, value)), Some((other, held))) if key == other => {
                    change.compare(key, Some(value), Some(held));
                    wanted.next();
                    there.next();
                }
                (Some((key, value)), other) if other.is_none_or(|(other, _)| key < other) => {
                    change.compare(key, Some(value), None);
                    wanted.next();
                }
                (_, Some((other, held))) => {
                    change.compare(other, None, Some(held));
                    there.next();
                }
                (Some(_), None) => break,
            }
        }
        self.change_elements(name, &set.shape, change);
    }

    /// Of these keys alone.
    fn elements_of(
        &mut self,
        name: &str,
        set: &Set,
        there: &BTreeMap<ElementKey, Value>,
        keys: &BTreeSet<ElementKey>,
    ) {
        if set.shape.timeout {
            return;
        }
        let mut change = ElementChange::default();
        for key in keys {
            change.compare(key, set.elements.get(key), there.get(key));
        }
        self.change_elements(name, &set.shape, change);
    }

    fn change_elements(&mut self, name: &str, shape: &Shape, change: ElementChange) {
        let ElementChange { gone, new } = change;
        if !gone.is_empty() {
            let (set, shape) = (name.to_owned(), shape.clone());
            self.unlink.push(Step::DeleteElements { set, shape, elements: gone });
        }
        if !new.is_empty() {
            let (set, shape) = (name.to_owned(), shape.clone());
            self.link.push(Step::AddElements { set, shape, elements: new });
        }
    }

    /// What stands at the beginning and the end as it should stays, with its
    /// counters; what is between is made anew.
    fn rules(&mut self, name: &str, wanted: &Chain, there: &ObservedChain) {
        let same = |(wanted, there): &(&Rule, &ObservedRule)| is(wanted, there);
        let (mine, theirs) = (&wanted.rules, &there.rules);
        let before = mine.iter().zip(theirs).take_while(same).count();
        let (mine, theirs) = (&mine[before..], &theirs[before..]);
        let behind = mine.iter().rev().zip(theirs.iter().rev()).take_while(same).count();
        let gone = &theirs[..theirs.len() - behind];
        self.unlink.extend(gone.iter().map(|rule| delete(name, rule)));
        let new = mine[..mine.len() - behind].iter();
        let add = |place: Place, rule: &Rule| Step::AddRule {
            chain: name.to_owned(),
            place,
            rule: rule.clone(),
        };
        // Each stands before the same one, so they keep their order.
        let next = theirs.get(gone.len());
        let place = next.map_or(Place::Last, |next| Place::Before(next.handle));
        self.link.extend(new.map(|rule| add(place, rule)));
    }
}

#[derive(Debug, Default)]
struct ElementChange {
    gone: Vec<(ElementKey, Value)>,
    new: Vec<(ElementKey, Value)>,
}

impl ElementChange {
    fn compare(&mut self, key: &ElementKey, wanted: Option<&Value>, there: Option<&Value>) {
        if wanted != there {
            self.gone.extend(there.map(|held| (key.clone(), held.clone())));
            self.new.extend(wanted.map(|value| (key.clone(), value.clone())));
        }
    }
}

fn delete(chain: &str, rule: &ObservedRule) -> Step {
    Step::DeleteRule { chain: chain.to_owned(), handle: rule.handle }
}

/// Whether it is ours as we would make it. The comment says so, and the kinds
/// of its expressions that nobody has put others under our comment.
fn is(wanted: &Rule, there: &ObservedRule) -> bool {
    there.comment.as_deref() == Some(&*wanted.comment())
        && there.expressions.iter().map(String::as_str).eq(expression::names(&wanted.parts))
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &self.steps)
    }
}

impl Transaction {
    /// Some of its steps, in words.
    pub(super) fn part(&self, which: Range<usize>) -> String {
        let mut out = String::new();
        let _never = self.write(&mut out, self.steps.get(which).unwrap_or_default());
        out
    }

    fn write(&self, f: &mut impl fmt::Write, steps: &[(Family, Step)]) -> fmt::Result {
        let table = self.instance.table();
        for (family, step) in steps {
            let at = format!("{family} {table}");
            match step {
                Step::DeleteTable => writeln!(f, "delete table {at}")?,
                Step::AddTable => writeln!(f, "add table {at}")?,
                Step::DeleteElements { set, elements, .. } => {
                    writeln!(f, "delete {} elements of {at} {set}", elements.len())?;
                }
                Step::DeleteRule { chain, handle } => {
                    writeln!(f, "delete rule {at} {chain} handle {handle}")?;
                }
                Step::DeleteChain { chain } => writeln!(f, "delete chain {at} {chain}")?,
                Step::DeleteSet { set } => writeln!(f, "delete set {at} {set}")?,
                Step::AddSet { set, .. } => writeln!(f, "add set {at} {set}")?,
                Step::AddChain { chain, .. } => writeln!(f, "add chain {at} {chain}")?,
                Step::AddElements { set, elements, .. } => {
                    writeln!(f, "add {} elements to {at} {set}", elements.len())?;
                }
                Step::AddRule { chain, rule, .. } => {
                    writeln!(f, "add rule {at} {chain} {}", rule.text())?;
                }
            }
        }
        Ok(())
    }
}
