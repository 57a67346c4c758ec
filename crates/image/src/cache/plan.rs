use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use inn_units::Bytes;

use super::{
    CacheDecision, CacheEntry, CacheKind, CacheLimits, CachePlan, CacheVerdict, Inventory, RECENT,
};

/// Decides what goes: what nothing leads to, what is too old, and then the
/// least recently used until the limit holds and the room is there. Never what
/// somebody uses or has just used.
pub fn plan(inventory: &Inventory, limits: CacheLimits, now_unix: u64) -> CachePlan {
    let mut left = Left::of(inventory);
    let used = left.total();
    let goal = goal(used, limits);
    let mut verdicts: Vec<Option<CacheVerdict>> = vec![None; inventory.entries.len()];
    let mut order = Vec::new();
    let mut candidates = Vec::new();
    for (index, entry) in inventory.entries.iter().enumerate() {
        let unused = unused(entry, now_unix);
        let verdict = if !entry.uses.is_empty() {
            Some(CacheVerdict::InUse(entry.uses.clone()))
        } else if entry.kind == CacheKind::Leftover {
            Some(CacheVerdict::Unreferenced)
        } else if unused < RECENT {
            Some(CacheVerdict::JustUsed { ago: unused })
        } else {
            match limits.age {
                Some(limit) if unused > limit => Some(CacheVerdict::Expired { unused, limit }),
                _ => None,
            }
        };
        match &verdict {
            None => candidates.push(index),
            Some(verdict) if verdict.removes() => order.push(index),
            Some(_) => {}
        }
        verdicts[index] = verdict;
    }
    let by_use = |index: &usize| (inventory.entries[*index].last_used, *index);
    order.sort_by_key(by_use);
    candidates.sort_by_key(by_use);
    for index in &order {
        left.without(&inventory.entries[*index]);
    }
    for index in candidates {
        let entry = &inventory.entries[index];
        let now_used = left.total();
        let verdict = if now_used > goal {
            order.push(index);
            left.without(entry);
            match limits.size {
                Some(limit) if now_used > limit => {
                    CacheVerdict::OverLimit { used: now_used, limit }
                }
                _ => CacheVerdict::ForRoom { needed: limits.room.unwrap_or_default() },
            }
        } else {
            CacheVerdict::Within { unused: unused(entry, now_unix), used: now_used, limits }
        };
        verdicts[index] = Some(verdict);
    }
    let frees = used.saturating_sub(left.total());
    let decisions = decisions(inventory, order, verdicts);
    CachePlan { decisions, used, frees, limits }
}

/// What may be left of `used`.
fn goal(used: Bytes, limits: CacheLimits) -> Bytes {
    let by_room = limits.room.map(|room| used.saturating_sub(room));
    [limits.size, by_room].into_iter().flatten().min().unwrap_or(Bytes(u64::MAX))
}

fn unused(entry: &CacheEntry, now_unix: u64) -> Duration {
    // A clock that went back makes nothing old.
    Duration::from_secs(now_unix.saturating_sub(entry.last_used))
}

fn decisions(
    inventory: &Inventory,
    removed: Vec<usize>,
    verdicts: Vec<Option<CacheVerdict>>,
) -> Vec<CacheDecision> {
    let mut kept: Vec<usize> =
        (0..verdicts.len()).filter(|index| !removed.contains(index)).collect();
    kept.sort_by_key(|index| {
        let entry = &inventory.entries[*index];
        (entry.kind, entry.name.clone())
    });
    let ordered = removed.into_iter().chain(kept);
    ordered
        .filter_map(|index| {
            let entry = inventory.entries[index].clone();
            let size =
                |part: &std::path::PathBuf| inventory.sizes.get(part).map_or(0, |size| size.get());
            let bytes = Bytes(entry.parts.iter().map(size).sum());
            Some(CacheDecision { entry, bytes, verdict: verdicts[index].clone()? })
        })
        .collect()
}

/// What would be left: each file with the number of entries that it is part of.
struct Left<'a> {
    sizes: BTreeMap<&'a Path, (usize, Bytes)>,
    total: u64,
}

impl<'a> Left<'a> {
    fn of(inventory: &'a Inventory) -> Self {
        let mut sizes: BTreeMap<&Path, (usize, Bytes)> = BTreeMap::new();
        for part in inventory.entries.iter().flat_map(|entry| &entry.parts) {
            let size = inventory.sizes.get(part).copied().unwrap_or_default();
            sizes.entry(part).or_insert((0, size)).0 += 1;
        }
        let total = sizes.values().map(|(_, size)| size.get()).sum();
        Self { sizes, total }
    }

    fn total(&self) -> Bytes {
        Bytes(self.total)
    }

    fn without(&mut self, entry: &CacheEntry) {
        for part in &entry.parts {
            let Some((holders, size)) = self.sizes.get_mut(part.as_path()) else { continue };
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.total = self.total.saturating_sub(size.get());
                *size = Bytes(0);
            }
        }
    }
}
