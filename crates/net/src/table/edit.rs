use crate::nft::{Chain, ElementKey, Family, Rule, Set, Value, Wanted};

/// Sets that are there as long as their table is: rules that are always there
/// name them.
pub(super) const LASTING: [&str; 12] = [
    "bridges",
    "from4",
    "from6",
    "to4",
    "to6",
    "gateways4",
    "gateways6",
    "open",
    "nat-to",
    "cards",
    "alone",
    "ruled",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Put,
    Take,
}

/// Puts what one declared thing says into a table, or takes it out again: the
/// same walk, so that neither forgets what the other knows of.
#[derive(Debug)]
pub(super) struct Edit<'a> {
    pub(super) wanted: &'a mut Wanted,
    pub(super) family: Family,
    pub(super) way: Way,
    /// Two say something by the same name or key: neither could be taken out
    /// without the other.
    pub(super) doubled: bool,
}

impl Edit<'_> {
    /// Its own.
    pub(super) fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        match self.way {
            Way::Put => {
                let chain = Chain { hook: None, rules };
                self.doubled |= self.wanted.put_chain(self.family, name, chain);
            }
            Way::Take => self.wanted.take_chain(self.family, name),
        }
    }

    /// Its own, whatever comes to be in it; several of its rules may name it.
    pub(super) fn set(&mut self, name: &str, set: Set) {
        match self.way {
            Way::Put => self.wanted.put_set(self.family, name, set),
            Way::Take => self.wanted.take_set(self.family, name),
        }
    }

    /// Of a set that others have elements in, too.
    pub(super) fn element(
        &mut self,
        set: &str,
        like: impl FnOnce() -> Set,
        key: Vec<u8>,
        value: Value,
    ) {
        self.range(set, like, ElementKey::single(key), value);
    }

    pub(super) fn range(
        &mut self,
        set: &str,
        like: impl FnOnce() -> Set,
        key: ElementKey,
        value: Value,
    ) {
        match self.way {
            Way::Put => {
                self.doubled |= self.wanted.put_element(self.family, set, like, (key, value));
            }
            Way::Take => {
                if self.wanted.take_element(self.family, set, &key) && !LASTING.contains(&set) {
                    self.wanted.take_set(self.family, set);
                }
            }
        }
    }
}
