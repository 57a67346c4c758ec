//! Tables as they are wanted, and which parts of them have changed since the
//! kernel was last brought to them: so that a change costs what it touches, and
//! not what there is.
//!
//! ```text
//!   put, take ──▶ Tables, and the names of what they touched
//!                            │
//!                            └──▶ Kernel::follow ──▶ names forgotten, once applied
//! ```

use std::collections::{BTreeMap, BTreeSet};

use inn_domain::network::Instance;

use super::model::{Chain, ElementKey, Family, Set, Table, Tables, Value};

/// For one [`super::Kernel`].
#[derive(Debug, Clone)]
pub struct Wanted {
    tables: Tables,
    touched: Touched,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touched {
    Everything,
    Parts(BTreeMap<Family, TouchedTable>),
}

/// Names of what is new, different or gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TouchedTable {
    pub(super) chains: BTreeSet<String>,
    /// With all that is in them.
    pub(super) sets: BTreeSet<String>,
    pub(super) elements: BTreeMap<String, BTreeSet<ElementKey>>,
}

impl Wanted {
    /// No table at all.
    pub fn nothing(instance: Instance) -> Self {
        let tables = Tables { instance, tables: BTreeMap::new() };
        Self { tables, touched: Touched::Everything }
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn into_tables(self) -> Tables {
        self.tables
    }

    pub(super) fn touched(&self) -> &Touched {
        &self.touched
    }

    /// The kernel has all of it.
    pub(crate) fn applied(&mut self) {
        self.touched = Touched::Parts(BTreeMap::new());
    }

    /// Whether it is there.
    pub fn has_set(&self, family: Family, name: &str) -> bool {
        self.tables.tables.get(&family).is_some_and(|table| table.sets.contains_key(name))
    }

    /// Empty.
    pub fn put_table(&mut self, family: Family) {
        self.tables.tables.insert(family, Table::default());
        self.touched = Touched::Everything;
    }

    /// Whether there was one by this name before.
    pub fn put_chain(&mut self, family: Family, name: &str, chain: Chain) -> bool {
        let before = self.table(family).chains.insert(name.to_owned(), chain);
        self.touch(family, |touched| touched.chains.insert(name.to_owned()));
        before.is_some()
    }

    pub fn take_chain(&mut self, family: Family, name: &str) {
        if self.table(family).chains.remove(name).is_some() {
            self.touch(family, |touched| touched.chains.insert(name.to_owned()));
        }
    }

    /// In place of one by this name.
    pub fn put_set(&mut self, family: Family, name: &str, set: Set) {
        self.table(family).sets.insert(name.to_owned(), set);
        self.touch(family, |touched| touched.sets.insert(name.to_owned()));
    }

    pub fn take_set(&mut self, family: Family, name: &str) {
        if self.table(family).sets.remove(name).is_some() {
            self.touch(family, |touched| touched.sets.insert(name.to_owned()));
        }
    }

    /// Into a set like this, which is made where there is none. Whether there
    /// was one of this key before.
    pub fn put_element(
        &mut self,
        family: Family,
        set: &str,
        like: impl FnOnce() -> Set,
        (key, value): (ElementKey, Value),
    ) -> bool {
        if !self.has_set(family, set) {
            self.put_set(family, set, like());
        }
        self.touch_element(family, set, &key);
        let set = self.table(family).sets.get_mut(set);
        set.is_some_and(|set| set.elements.insert(key, value).is_some())
    }

    /// Whether its set is empty now.
    pub fn take_element(&mut self, family: Family, set: &str, key: &ElementKey) -> bool {
        self.touch_element(family, set, key);
        let set = self.table(family).sets.get_mut(set);
        set.is_some_and(|set| set.elements.remove(key).is_some() && set.elements.is_empty())
    }

    fn table(&mut self, family: Family) -> &mut Table {
        self.tables.tables.entry(family).or_default()
    }

    fn touch(&mut self, family: Family, name: impl FnOnce(&mut TouchedTable) -> bool) {
        if let Touched::Parts(tables) = &mut self.touched {
            // It may have been touched before.
            name(tables.entry(family).or_default());
        }
    }

    fn touch_element(&mut self, family: Family, set: &str, key: &ElementKey) {
        self.touch(family, |touched| {
            if touched.sets.contains(set) {
                return false;
            }
            match touched.elements.get_mut(set) {
                Some(keys) => keys.insert(key.clone()),
                None => {
                    let keys = BTreeSet::from([key.clone()]);
                    touched.elements.insert(set.to_owned(), keys).is_none()
                }
            }
        });
    }
}
