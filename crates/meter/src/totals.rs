use std::collections::{BTreeMap, BTreeSet};

use inn_units::VmId;

use crate::account::Account;
use crate::entry::Entry;

/// By what usage is added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// One row for each VM.
    Vm,
    /// One for each value of a label; VMs without it have one together.
    Label(String),
    /// One row.
    All,
}

/// Adds entries up, or of those that reach beyond the time the part that lies
/// in it: usage counts as spread evenly over its entry. Parts of adjacent times
/// add up to the whole.
#[derive(Debug)]
pub struct Totals {
    /// Milliseconds since 1970.
    from: i64,
    to: i64,
    by: By,
    rows: BTreeMap<Key, Summed>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    All,
    Label(Option<String>),
    Vm(VmId),
}

#[derive(Debug, Default)]
struct Summed {
    name: Option<String>,
    vms: BTreeSet<VmId>,
    used: Used,
}

/// A row of [`Totals`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The label's value, or the VM's id; `None` for VMs without the label,
    /// and where all are one row.
    pub key: Option<String>,
    /// What a VM was called last.
    pub name: Option<String>,
    pub vms: u64,
    pub used: Used,
}

/// Times are in microseconds, areas in byte-microseconds, the rest in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub cpu_allotted: u128,
    pub cpu_used: u128,
    pub gpu_allotted: u128,
    pub memory_allotted: u128,
    pub memory_resident: u128,
    pub disk_allotted: u128,
    pub disk_occupied: u128,
    pub sent: u128,
    pub received: u128,
}

impl Totals {
    /// From and to in milliseconds since 1970; what is at `to` is no part.
    pub fn new(from: i64, to: i64, by: By) -> Self {
        Self { from, to, by, rows: BTreeMap::new() }
    }

    pub fn add(&mut self, entry: &Entry, account: &Account) {
        let Some(part) = self.part(entry) else { return };
        let key = match &self.by {
            By::All => Key::All,
            By::Vm => Key::Vm(entry.vm),
            By::Label(label) => Key::Label(account.labels.get(label).cloned()),
        };
        let row = self.rows.entry(key).or_default();
        if self.by == By::Vm {
            row.name = Some(account.name.clone());
        }
        row.vms.insert(entry.vm);
        row.used.plus(&Used::of(entry, account), part);
    }

    pub fn rows(self) -> Vec<Row> {
        let row = |(key, summed): (Key, Summed)| Row {
            key: match key {
                Key::All => None,
                Key::Label(value) => value,
                Key::Vm(vm) => Some(vm.to_string()),
            },
            name: summed.name,
            vms: u64::try_from(summed.vms.len()).unwrap_or(u64::MAX),
            used: summed.used,
        };
        self.rows.into_iter().map(row).collect()
    }

    /// Which part of an entry lies in the time; `None` where none does.
    fn part(&self, entry: &Entry) -> Option<Part> {
        let (from, to) = (entry.span.from.wall, entry.span.to.wall);
        let whole = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        if whole == 0 {
            let within = (self.from..self.to).contains(&from);
            return within.then_some(Part { begins: 0, ends: 1, whole: 1 });
        }
        let place = |at: i64| u64::try_from(at.clamp(from, to) - from).unwrap_or(0);
        let (begins, ends) = (place(self.from), place(self.to));
        (begins < ends).then_some(Part { begins, ends, whole })
    }
}

#[derive(Debug, Clone, Copy)]
struct Part {
    begins: u64,
    ends: u64,
    whole: u64,
}

impl Part {
    /// Rounded so that adjacent parts lose nothing between them.
    fn of(self, amount: u128) -> u128 {
        if (self.begins, self.ends) == (0, self.whole) {
            return amount;
        }
        let until = |place: u64| {
            let (place, whole) = (u128::from(place), u128::from(self.whole));
            // Without the product of all of it, which might not fit.
            amount / whole * place + amount % whole * place / whole
        };
        until(self.ends) - until(self.begins)
    }
}

impl Used {
    /// Of a whole entry.
    pub fn of(entry: &Entry, account: &Account) -> Self {
        const MICROS: u128 = 1_000_000;
        let running = u128::from(entry.running);
        let held = running + u128::from(entry.paused);
        Self {
            cpu_allotted: running * u128::from(account.vcpus),
            cpu_used: entry.cpu.into(),
            gpu_allotted: running * u128::from(account.gpus),
            memory_allotted: held * u128::from(account.memory),
            memory_resident: u128::from(entry.resident) * MICROS,
            disk_allotted: u128::from(entry.span.lasted()) * u128::from(account.disk),
            disk_occupied: u128::from(entry.occupied) * MICROS,
            sent: entry.sent.into(),
            received: entry.received.into(),
        }
    }

    fn plus(&mut self, other: &Self, part: Part) {
        let Self {
            cpu_allotted,
            cpu_used,
            gpu_allotted,
            memory_allotted,
            memory_resident,
            disk_allotted,
            disk_occupied,
            sent,
            received,
        } = other;
        self.cpu_allotted += part.of(*cpu_allotted);
        self.cpu_used += part.of(*cpu_used);
        self.gpu_allotted += part.of(*gpu_allotted);
        self.memory_allotted += part.of(*memory_allotted);
        self.memory_resident += part.of(*memory_resident);
        self.disk_allotted += part.of(*disk_allotted);
        self.disk_occupied += part.of(*disk_occupied);
        self.sent += part.of(*sent);
        self.received += part.of(*received);
    }
}
