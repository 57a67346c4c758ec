//! What the tables have counted, told by whose it is.

use std::collections::BTreeMap;

use inn_units::VmId;

use super::policy::{DENIED, RULE, TOO_MUCH, UNASKED};
use crate::nft::{Observed, Rule};

/// Of every VM that has chains.
pub type Tally = BTreeMap<VmId, VmTally>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmTally {
    /// Of its policy's rules, by their place from 1 on.
    pub rules: BTreeMap<usize, Counted>,
    /// From it, and to it, what no rule allowed.
    pub denied_out: Counted,
    pub denied_in: Counted,
    /// Above its rates.
    pub too_much: Counted,
    /// What it sent in another's name, or as what it is not: by what it was.
    pub spoofed: BTreeMap<String, Counted>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

impl Counted {
    fn add(&mut self, more: Self) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Of what was just read: a memory has old numbers.
pub fn tally(observed: &Observed) -> Tally {
    let mut all = Tally::new();
    let chains = observed.tables.values().flat_map(|table| &table.chains);
    for (name, chain) in chains {
        let Some((kind, vm)) = name.rsplit_once('-') else { continue };
        let Ok(vm) = vm.parse::<VmId>() else { continue };
        if !matches!(kind, "out" | "in" | "card" | "rate-out" | "rate-in") {
            continue;
        }
        let of = all.entry(vm).or_default();
        for rule in &chain.rules {
            let counted = Counted { packets: rule.packets, bytes: rule.bytes };
            let label = rule.comment.as_deref().and_then(Rule::label_of).unwrap_or_default();
            match (kind, label) {
                ("card", label) if counted.packets > 0 => {
                    of.spoofed.entry(label.to_owned()).or_default().add(counted);
                }
                ("out", DENIED) => of.denied_out.add(counted),
                ("in", DENIED | UNASKED) => of.denied_in.add(counted),
                (_, TOO_MUCH) => of.too_much.add(counted),
                (_, label) => {
                    let place = label.strip_prefix(RULE).and_then(|at| at.trim().parse().ok());
                    if let Some(place) = place {
                        of.rules.entry(place).or_default().add(counted);
                    }
                }
            }
        }
    }
    all
}
