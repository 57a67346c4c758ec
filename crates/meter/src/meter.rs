//! The state of all accounts between two blocks.
//!
//! ```text
//!             ┌─ Moves, Counts, Weighs ─┐
//!   Begins ─▶ open ◀────────────────────┘ ── an hour is over, Changes, a clock is set ─▶ Entry, open again
//!                └── Ends ─▶ Entry, its last
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use inn_units::VmId;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::audit::Standing;
use crate::block::{Block, BlockError, Head, Signer};
use crate::entry::{Entry, Span};
use crate::input::{Counters, Input, Life, Moment, State, What};

/// Milliseconds.
const HOUR: i64 = 3_600_000;

/// Microseconds by which the clocks may part between two looks before one of
/// them counts as set: a clock that is slewed parts by 500 of a million
/// (adjtimex(2)).
const SET: i64 = 1_000_000;

const MICROS: u128 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    node: String,
    /// The host's boot that `steady` counts from.
    boot: String,
    head: Head,
    /// Of the next account.
    number: u32,
    /// When anything was seen last.
    seen: Option<Moment>,
    /// When something was last seen by the agent before this one.
    before: Option<Moment>,
    open: BTreeMap<VmId, Open>,
    /// Closed, and in no block yet.
    entries: Vec<Entry>,
    /// The same of boots before.
    earlier: VecDeque<(String, Vec<Entry>)>,
    /// What their numbers stand for.
    accounts: BTreeMap<u32, Account>,
    /// Those of them that no block of the file has said.
    unsaid: BTreeSet<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    account: Account,
    /// As the file that is written to has it.
    number: Option<u32>,
    from: Moment,
    /// `steady` up to which `sums` are.
    at: u64,
    state: State,
    life: Option<Life>,
    counted: Counters,
    resident: u64,
    occupied: u64,
    sums: Sums,
    first: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    running: u64,
    paused: u64,
    /// Bytes times microseconds, as `occupied`.
    resident: u128,
    occupied: u128,
    used: Counters,
}

impl Meter {
    pub fn new(node: String, boot: String, head: Head) -> Self {
        Self {
            node,
            boot,
            head,
            number: 1,
            seen: None,
            before: None,
            open: BTreeMap::new(),
            entries: Vec::new(),
            earlier: VecDeque::new(),
            accounts: BTreeMap::new(),
            unsaid: BTreeSet::new(),
        }
    }

    /// Goes on after the agent was away. In the same boot of the host what ran
    /// goes on as it was, until it is said to be [`What::Lost`]; in another one
    /// everything ended when something was last seen, and is stopped now.
    pub fn resume(&mut self, boot: &str, now: Moment) {
        self.before = self.seen;
        if self.boot == boot {
            return;
        }
        let seen = self.seen.unwrap_or(now);
        let vms: Vec<VmId> = self.open.keys().copied().collect();
        for vm in vms {
            self.roll(vm, seen);
            self.close(vm, seen, false);
            if let Some(open) = self.open.get_mut(&vm) {
                open.begin_again(now);
                open.state = State::Stopped;
                open.life = None;
            }
        }
        let boot_before = std::mem::replace(&mut self.boot, boot.to_owned());
        self.earlier.push_back((boot_before, std::mem::take(&mut self.entries)));
        self.seen = Some(now);
        self.before = Some(now);
    }

    /// Goes on where a ledger ends, for one whose own state is lost: its VMs
    /// count as stopped since, until they are seen again.
    pub fn take_up(&mut self, standing: &Standing, now: Moment) {
        let same_boot = standing.boot.as_ref() == Some(&self.boot);
        for (vm, (to, account)) in &standing.vms {
            let from = if same_boot { *to } else { now };
            let open = Open { first: false, ..Open::new(account.clone(), from) };
            self.open.insert(*vm, open);
        }
        self.number = standing.number;
        self.seen = Some(now);
    }

    pub fn input(&mut self, input: &Input) {
        let Input { at, vm, what } = input;
        self.look(*at);
        let at = match (what, self.before) {
            (What::Lost, Some(before)) => before,
            _ => *at,
        };
        self.roll(*vm, at);
        match what {
            What::Begins(account) => {
                self.open.entry(*vm).or_insert_with(|| Open::new(account.clone(), at));
            }
            What::Changes(account) => {
                if self.open.get(vm).is_some_and(|open| open.account != *account) {
                    self.close(*vm, at, false);
                    if let Some(open) = self.open.get_mut(vm) {
                        open.account = account.clone();
                        open.number = None;
                    }
                }
            }
            What::Ends => {
                self.close(*vm, at, true);
                self.open.remove(vm);
            }
            What::Moves { .. }
            | What::Had { .. }
            | What::Counts { .. }
            | What::Weighs { .. }
            | What::Lost => {
                if let Some(open) = self.open.get_mut(vm) {
                    open.advance(at.steady);
                    open.see(what);
                }
            }
        }
    }

    /// Time has passed, and nothing else.
    pub fn tick(&mut self, now: Moment) {
        self.look(now);
        let vms: Vec<VmId> = self.open.keys().copied().collect();
        for vm in vms {
            self.roll(vm, now);
            if let Some(open) = self.open.get_mut(&vm) {
                open.advance(now.steady);
            }
        }
    }

    /// The next block, of what is closed by `now` and of one boot; `None` where nothing
    /// is left.
    ///
    /// # Errors
    /// [`BlockError`] where it cannot be signed.
    pub fn block(
        &mut self,
        now: Moment,
        signer: &dyn Signer,
    ) -> Result<Option<String>, BlockError> {
        self.tick(now);
        self.earlier.retain(|(_, entries)| !entries.is_empty());
        let (boot, entries) = match self.earlier.pop_front() {
            Some(earlier) => earlier,
            None if self.entries.is_empty() => return Ok(None),
            None => (self.boot.clone(), std::mem::take(&mut self.entries)),
        };
        let unsaid = std::mem::take(&mut self.unsaid);
        let accounts = self.accounts.iter().filter(|(number, _)| unsaid.contains(number));
        let accounts = accounts.map(|(number, account)| (*number, account.clone())).collect();
        if self.entries.is_empty() && self.earlier.is_empty() {
            self.accounts.clear();
        }
        let block = Block {
            block: self.head.block + 1,
            prev: self.head.hash.clone(),
            node: self.node.clone(),
            key: signer.key(),
            boot,
            at: now,
            accounts,
            entries,
        };
        let (line, head) = block.sealed(signer)?;
        self.head = head;
        Ok(Some(line))
    }

    /// Where no block can be written and more than `most` entries wait: those of
    /// a VM that follow each other on one account become one. Its amounts are
    /// theirs; which hour each was in is not known any more.
    pub fn gather(&mut self, most: usize) {
        if self.entries.len() <= most {
            return;
        }
        let mut gathered: Vec<Entry> = Vec::new();
        let mut last: BTreeMap<VmId, usize> = BTreeMap::new();
        for entry in std::mem::take(&mut self.entries) {
            let before = last.get(&entry.vm).and_then(|at| gathered.get_mut(*at));
            match before.filter(|before| before.is_followed_by(&entry)) {
                Some(before) => before.append(&entry),
                None => {
                    last.insert(entry.vm, gathered.len());
                    gathered.push(entry);
                }
            }
        }
        self.entries = gathered;
    }

    /// How many entries no block has yet.
    pub fn waiting(&self) -> usize {
        self.entries.len() + self.earlier.iter().map(|(_, entries)| entries.len()).sum::<usize>()
    }

    /// The next block is a file's first: it says again what accounts are.
    pub fn new_file(&mut self) {
        for open in self.open.values_mut() {
            open.number = None;
        }
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn vms(&self) -> impl Iterator<Item = VmId> {
        self.open.keys().copied()
    }

    pub fn account(&self, vm: VmId) -> Option<&Account> {
        self.open.get(&vm).map(|open| &open.account)
    }

    pub fn state(&self, vm: VmId) -> Option<(State, Option<Life>)> {
        self.open.get(&vm).map(|open| (open.state, open.life))
    }

    /// Bytes of memory and of disk, as they were last seen.
    pub fn weight(&self, vm: VmId) -> Option<(u64, u64)> {
        self.open.get(&vm).map(|open| (open.resident, open.occupied))
    }

    /// What no block has yet, up to now.
    pub fn unwritten(&self, now: Moment) -> Vec<(Entry, Account)> {
        let mut later = self.clone();
        later.tick(now);
        let vms: Vec<VmId> = later.open.keys().copied().collect();
        for vm in vms {
            later.close(vm, now, false);
        }
        let Self { accounts, entries, earlier, .. } = later;
        let earlier = earlier.into_iter().flat_map(|(_, entries)| entries);
        let with = |entry: Entry| {
            let account = accounts.get(&entry.account).cloned();
            account.map(|account| (entry, account))
        };
        earlier.chain(entries).filter_map(with).collect()
    }

    /// Begins everything anew where somebody has set the clock, so that each
    /// entry's two clocks agree.
    fn look(&mut self, now: Moment) {
        let seen = self.seen.replace(now);
        let Some(seen) = seen else { return };
        let parted = now.offset() - seen.offset();
        if parted.abs() <= SET {
            // Of two that come out of order the later one was.
            if now.steady < seen.steady {
                self.seen = Some(seen);
            }
            return;
        }
        let unset = seen.later(now.steady);
        let vms: Vec<VmId> = self.open.keys().copied().collect();
        for vm in vms {
            self.roll(vm, unset);
            self.close(vm, unset, false);
            if let Some(open) = self.open.get_mut(&vm) {
                open.from = Moment { wall: now.wall, ..open.from };
            }
        }
        self.before = None;
    }

    /// Closes what each hour of the clock that is over by `now` has had.
    fn roll(&mut self, vm: VmId, now: Moment) {
        while let Some(open) = self.open.get(&vm) {
            let over = (open.from.wall.div_euclid(HOUR) + 1) * HOUR;
            if now.wall < over {
                return;
            }
            let to = Moment {
                wall: over,
                steady: open.from.after(over).clamp(open.at, now.steady.max(open.at)),
            };
            self.close(vm, to, false);
        }
    }

    fn close(&mut self, vm: VmId, to: Moment, last: bool) {
        let Some(open) = self.open.get_mut(&vm) else { return };
        let to = Moment { steady: to.steady.max(open.at), ..to };
        open.advance(to.steady);
        let span = Span { from: open.from, to };
        if span.lasted() == 0 && open.sums.is_nothing() && !last {
            open.from = to;
            return;
        }
        let account = *open.number.get_or_insert_with(|| {
            let number = self.number;
            self.number = self.number.wrapping_add(1);
            self.unsaid.insert(number);
            number
        });
        self.accounts.entry(account).or_insert_with(|| open.account.clone());
        let Sums { running, paused, resident, occupied, used } = open.sums;
        self.entries.push(Entry {
            vm,
            account,
            span,
            running,
            paused,
            cpu: used.cpu,
            resident: whole(resident),
            occupied: whole(occupied),
            sent: used.sent,
            received: used.received,
            first: open.first,
            last,
        });
        open.from = to;
        open.first = false;
        // What is left over counts in the next.
        open.sums =
            Sums { resident: resident % MICROS, occupied: occupied % MICROS, ..Sums::default() };
    }
}

impl Open {
    fn new(account: Account, now: Moment) -> Self {
        Self {
            account,
            number: None,
            from: now,
            at: now.steady,
            state: State::Stopped,
            life: None,
            counted: Counters::default(),
            resident: 0,
            occupied: 0,
            sums: Sums::default(),
            first: true,
        }
    }

    fn begin_again(&mut self, now: Moment) {
        self.from = now;
        self.at = now.steady;
        self.resident = 0;
    }

    fn advance(&mut self, to: u64) {
        let passed = to.saturating_sub(self.at);
        self.at += passed;
        let sums = &mut self.sums;
        match self.state {
            State::Stopped => {}
            State::Running => sums.running += passed,
            State::Paused => sums.paused += passed,
        }
        sums.resident += u128::from(self.resident) * u128::from(passed);
        sums.occupied += u128::from(self.occupied) * u128::from(passed);
    }

    fn see(&mut self, what: &What) {
        match what {
            What::Moves { state, life } => {
                if life.is_some() && self.life != *life {
                    self.life = *life;
                    self.counted = Counters::default();
                    self.resident = 0;
                }
                self.state = *state;
                if *state == State::Stopped {
                    self.resident = 0;
                }
            }
            // Of a machine that another one has followed: too late.
            What::Counts { life, .. } | What::Had { life, .. } if self.life != Some(*life) => {}
            What::Had { counters, .. } => self.counted = counters.at_least(self.counted),
            What::Counts { counters, .. } => {
                self.sums.used = self.sums.used.plus(counters.beyond(self.counted));
                self.counted = counters.at_least(self.counted);
            }
            What::Weighs { resident, occupied } => {
                let has_memory = self.state != State::Stopped;
                self.resident = if has_memory { *resident } else { 0 };
                self.occupied = *occupied;
            }
            What::Lost => {
                self.state = State::Stopped;
                self.resident = 0;
            }
            What::Begins(_) | What::Changes(_) | What::Ends => {}
        }
    }
}

impl Sums {
    /// But for what is less than a byte-second.
    fn is_nothing(&self) -> bool {
        let Self { running, paused, resident, occupied, used } = *self;
        running == 0
            && paused == 0
            && resident < MICROS
            && occupied < MICROS
            && used == Counters::default()
    }
}

/// Byte-seconds. What is beyond a u64 would take 100 PiB for an hour and more.
fn whole(sum: u128) -> u64 {
    u64::try_from(sum / MICROS).unwrap_or(u64::MAX)
}

impl Counters {
    fn beyond(self, before: Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Each is told by somebody else, so one that is not known is zero.
    fn at_least(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    fn with(self, other: Self, each: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            cpu: each(self.cpu, other.cpu),
            sent: each(self.sent, other.sent),
            received: each(self.received, other.received),
        }
    }
}

impl Moment {
    /// Microseconds by which the wall's clock is ahead of the steady one.
    fn offset(self) -> i64 {
        let steady = i64::try_from(self.steady).unwrap_or(i64::MAX);
        self.wall.saturating_mul(1000).saturating_sub(steady)
    }

    /// The same clocks at another instant, by the steady one.
    fn later(self, steady: u64) -> Self {
        let passed = steady.saturating_sub(self.steady) / 1000;
        Self { wall: self.wall.saturating_add_unsigned(passed), steady }
    }

    /// What the steady clock shows when the wall's shows `wall`.
    fn after(self, wall: i64) -> u64 {
        let passed = u64::try_from(wall.saturating_sub(self.wall)).unwrap_or(0);
        self.steady.saturating_add(passed.saturating_mul(1000))
    }
}
