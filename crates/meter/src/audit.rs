use std::collections::BTreeMap;

use inn_units::VmId;

use crate::account::Account;
use crate::block::{Block, Head, hash};
use crate::entry::Entry;
use crate::input::Moment;

/// So many are told one by one; the rest are counted.
const TOLD: usize = 100;

/// Reads a ledger from its first line to its last, and finds what was changed
/// in it, what is missing and what is there twice.
#[derive(Debug)]
pub struct Audit {
    head: Head,
    node: Option<String>,
    accounts: BTreeMap<u32, Account>,
    vms: BTreeMap<VmId, Place>,
    /// By boot: up to when it is known what was used.
    latest: BTreeMap<String, u64>,
    boot: Option<String>,
    /// Of the next account.
    number: u32,
    expected: Vec<Head>,
    report: Report,
}

/// How far a VM's entries reach.
#[derive(Debug, Clone)]
struct Place {
    boot: String,
    to: Moment,
    ended: bool,
    account: Option<Account>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub blocks: u64,
    pub entries: u64,
    pub vms: u64,
    /// At most a hundred.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub found: u64,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    /// From 1.
    pub line: u64,
    pub what: String,
}

/// Where a ledger stands: what a meter that has lost its own state goes on from.
#[derive(Debug, Clone)]
pub struct Standing {
    pub head: Head,
    pub boot: Option<String>,
    /// VMs that have not ended, how far their entries reach, and on whose account.
    pub vms: BTreeMap<VmId, (Moment, Account)>,
    /// Of the next account.
    pub number: u32,
}

impl Audit {
    /// Of a ledger from its beginning, or from a block on that comes after
    /// `head`.
    pub fn new(head: Head) -> Self {
        Self {
            head,
            node: None,
            accounts: BTreeMap::new(),
            vms: BTreeMap::new(),
            latest: BTreeMap::new(),
            boot: None,
            number: 1,
            expected: Vec::new(),
            report: Report::default(),
        }
    }

    /// A block as somebody knows it who keeps it elsewhere.
    pub fn expect(&mut self, head: Head) {
        self.expected.push(head);
    }

    /// Each file says by itself what its accounts are.
    pub fn file(&mut self) {
        self.accounts.clear();
    }

    /// The next line, without its line feed. `genuine` says of a public key in
    /// hex, a message and a signature whether they belong together and the key
    /// is one that is trusted. `each` is told of entries, whatever is wrong.
    pub fn line(
        &mut self,
        (file, number): (&str, u64),
        line: &[u8],
        genuine: impl Fn(&str, &[u8], &[u8]) -> Result<(), String>,
        mut each: impl FnMut(&Entry, &Account),
    ) {
        self.report.blocks += 1;
        let mut found = Vec::new();
        let before = std::mem::replace(&mut self.head.hash, hash(line));
        match Block::parse(line) {
            Err(why) => {
                found.push(format!("it is no block: {why}"));
                self.head.block += 1;
            }
            Ok((block, signed, signature)) => {
                if let Err(why) = genuine(&block.key, signed, &signature) {
                    found.push(why);
                }
                let expected = self.head.block + 1;
                if block.block != expected {
                    found.push(format!(
                        "block {expected} should be here, and it is {}",
                        block.block
                    ));
                }
                if block.prev != before {
                    found.push("the line before is not the one that it was written after".into());
                }
                self.head.block = block.block;
                let is_other =
                    |known: &Head| known.block == block.block && known.hash != self.head.hash;
                if self.expected.iter().any(is_other) {
                    found.push("it is not the block that is known to be here".into());
                }
                self.see(&block, &mut found, &mut each);
            }
        }
        self.tell(file, number, found);
    }

    fn see(
        &mut self,
        block: &Block,
        found: &mut Vec<String>,
        each: &mut impl FnMut(&Entry, &Account),
    ) {
        match &self.node {
            Some(node) if *node != block.node => {
                found.push(format!("it is of node {}, and those before are of {node}", block.node));
            }
            Some(_) => {}
            None => self.node = Some(block.node.clone()),
        }
        for (number, account) in &block.accounts {
            self.number = self.number.max(number.saturating_add(1));
            if self.accounts.insert(*number, account.clone()).is_some_and(|old| old != *account) {
                found.push(format!("account {number} stood for another one before"));
            }
        }
        self.boot = Some(block.boot.clone());
        for entry in &block.entries {
            self.report.entries += 1;
            match self.accounts.get(&entry.account) {
                Some(account) => each(entry, account),
                None => {
                    found.push(format!("what account {} stands for is not said", entry.account))
                }
            }
            self.follow(entry, &block.boot, found);
        }
    }

    /// Whether an entry begins where its VM's last one has ended.
    fn follow(&mut self, entry: &Entry, boot: &str, found: &mut Vec<String>) {
        let Entry { vm, span, running, paused, first, last, .. } = entry;
        let lasted = span.lasted();
        if span.to.steady < span.from.steady || running.saturating_add(*paused) > lasted {
            found.push(format!("{vm} ran for longer than the entry lasts"));
        }
        match self.vms.get(vm) {
            None if !first => found.push(format!("{vm}'s beginning is missing")),
            None => self.report.vms += 1,
            Some(_) if *first => found.push(format!("{vm} begins twice")),
            Some(place) if place.ended => found.push(format!("{vm} has ended before")),
            Some(place) if place.boot == boot => {
                let (was, is) = (place.to.steady, span.from.steady);
                if is > was {
                    found.push(format!("of {vm} {} us are missing", is - was));
                } else if is < was {
                    found.push(format!("of {vm} {} us are there twice", was - is));
                }
            }
            Some(_) => {}
        }
        let latest = self.latest.entry(boot.to_owned()).or_default();
        *latest = (*latest).max(span.to.steady);
        let account = self.accounts.get(&entry.account).cloned();
        self.vms.insert(*vm, Place { boot: boot.to_owned(), to: span.to, ended: *last, account });
    }

    /// Where it stands, for a meter to go on.
    pub fn standing(&self) -> Standing {
        let goes_on = |(vm, place): (&VmId, &Place)| {
            let account = place.account.clone().filter(|_| !place.ended)?;
            Some((*vm, (place.to, account)))
        };
        Standing {
            head: self.head.clone(),
            boot: self.boot.clone(),
            vms: self.vms.iter().filter_map(goes_on).collect(),
            number: self.number,
        }
    }

    pub fn finish(mut self) -> Report {
        const HOUR: u64 = 3_600_000_000;
        let mut found = Vec::new();
        let last = self.expected.iter().map(|head| head.block).max().unwrap_or_default();
        if let Some(missing) = last.checked_sub(self.head.block).filter(|missing| *missing > 0) {
            found.push(format!("{missing} blocks are missing at the end"));
        }
        for (vm, place) in &self.vms {
            // Those of one boot are cut each hour, so nobody may be further behind.
            let latest = self.latest.get(&place.boot).copied().unwrap_or_default();
            let is_last_boot = self.boot.as_ref() == Some(&place.boot);
            if !place.ended && is_last_boot && latest.saturating_sub(place.to.steady) > 2 * HOUR {
                found.push(format!("{vm} has no entries since {} us", place.to.steady));
            }
        }
        self.tell("", 0, found);
        self.report
    }

    fn tell(&mut self, file: &str, line: u64, found: Vec<String>) {
        for what in found {
            self.report.found += 1;
            if self.report.findings.len() < TOLD {
                self.report.findings.push(Finding { file: file.to_owned(), line, what });
            }
        }
    }
}
