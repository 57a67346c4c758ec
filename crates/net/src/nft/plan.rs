//! What has to be done so that the kernel has what is declared: pure.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use inn_domain::network::Instance;

use super::decode::{Observed, ObservedChain, ObservedRule, ObservedTable};
use super::expression;
use super::model::{Chain, ElementKey, Family, Hook, Rule, Set, Shape, Table, Tables, Value};

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
    let mut steps = Vec::new();
    for family in Family::ALL {
        let mut table = TablePlan::default();
        match (wanted.tables.get(&family), observed.tables.get(&family)) {
            (None, None) => {}
            (None, Some(_)) => table.first.push(Step::DeleteTable),
            (Some(wanted), None) => table.make(wanted),
            (Some(wanted), Some(there)) if reshaped(wanted, there) => {
                table.first.push(Step::DeleteTable);
                table.make(wanted);
            }
            (Some(wanted), Some(there)) => table.mend(wanted, there),
        }
        steps.extend(table.in_order().map(|step| (family, step)));
    }
    Transaction { instance: wanted.instance.clone(), generation: observed.generation, steps }
}

/// Whether something is there by a name that means something else by now:
/// what refers to it would have to go first, so the table goes whole.
fn reshaped(wanted: &Table, there: &ObservedTable) -> bool {
    let sets = wanted.sets.iter().any(|(name, set)| {
        there.sets.get(name).is_some_and(|there| there.shape.as_ref() != Some(&set.shape))
    });
    let chains = wanted.chains.iter().any(|(name, chain)| {
        there.chains.get(name).is_some_and(|there| !there.is_hooked_as(chain.hook))
    });
    // A foreign chain with a hook in our table judges our packets.
    sets || chains || there.dormant
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

    fn make(&mut self, wanted: &Table) {
        self.first.push(Step::AddTable);
        self.mend(wanted, &ObservedTable::default());
    }

    fn mend(&mut self, wanted: &Table, there: &ObservedTable) {
        for (name, set) in &wanted.sets {
            let elements = there.sets.get(name).map(|there| &there.elements);
            if elements.is_none() {
                self.create.push(Step::AddSet { set: name.clone(), shape: set.shape.clone() });
            }
            self.elements(name, set, elements.unwrap_or(&BTreeMap::new()));
        }
        for (name, chain) in &wanted.chains {
            match there.chains.get(name) {
                Some(there) => self.rules(name, chain, there),
                None => {
                    self.create.push(Step::AddChain { chain: name.clone(), hook: chain.hook });
                    self.rules(name, chain, &ObservedChain::default());
                }
            }
        }
        for (name, chain) in &there.chains {
            if !wanted.chains.contains_key(name) {
                // It may lead to others that go too, in any order.
                self.unlink.extend(chain.rules.iter().map(|rule| delete(name, rule)));
                self.remove.push(Step::DeleteChain { chain: name.clone() });
            }
        }
        for (name, set) in &there.sets {
            if !wanted.sets.contains_key(name) {
                // What it says of chains that go with it.
                if let Some(shape) = &set.shape
                    && !set.elements.is_empty()
                {
                    let elements = set.elements.clone().into_iter().collect();
                    let (set, shape) = (name.clone(), shape.clone());
                    self.unlink.push(Step::DeleteElements { set, shape, elements });
                }
                self.remove.push(Step::DeleteSet { set: name.clone() });
            }
        }
    }

    fn elements(&mut self, name: &str, set: &Set, there: &BTreeMap<ElementKey, Value>) {
        if set.shape.timeout {
            return;
        }
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        // Both are sorted: one walk along them.
        let (mut wanted, mut there) = (set.elements.iter().peekable(), there.iter().peekable());
        loop {
            match (wanted.peek(), there.peek()) {
                (None, None) => break,
                (Some((key, value)), Some((other, held))) if key == other => {
                    if value != held {
                        gone.push(((*other).clone(), (*held).clone()));
                        new.push(((*key).clone(), (*value).clone()));
                    }
                    wanted.next();
                    there.next();
                }
                (Some((key, value)), other) if other.is_none_or(|(other, _)| key < other) => {
                    new.push(((*key).clone(), (*value).clone()));
                    wanted.next();
                }
                (_, Some((other, held))) => {
                    gone.push(((*other).clone(), (*held).clone()));
                    there.next();
                }
                (Some(_), None) => break,
            }
        }
        let (set_name, shape) = (name.to_owned(), &set.shape);
        if !gone.is_empty() {
            let (set, shape) = (set_name.clone(), shape.clone());
            self.unlink.push(Step::DeleteElements { set, shape, elements: gone });
        }
        if !new.is_empty() {
            let (set, shape) = (set_name, shape.clone());
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
