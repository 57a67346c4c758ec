use proptest::prelude::*;

use super::*;

const DAY: u64 = 86_400;
const NOW: u64 = 1_000 * DAY;

fn entry(
    name: &str,
    unused_days: u64,
    parts: &[(&str, u64)],
) -> (CacheEntry, Vec<(PathBuf, Bytes)>) {
    let entry = CacheEntry {
        kind: CacheKind::Image,
        id: name.to_owned(),
        name: name.to_owned(),
        parts: parts.iter().map(|(part, _)| PathBuf::from(part)).collect(),
        last_used: NOW - unused_days * DAY,
        uses: Vec::new(),
    };
    (entry, parts.iter().map(|(part, mib)| (PathBuf::from(part), Bytes::mib(*mib))).collect())
}

fn inventory(entries: impl IntoIterator<Item = (CacheEntry, Vec<(PathBuf, Bytes)>)>) -> Inventory {
    let mut all = Inventory::default();
    for (entry, sizes) in entries {
        all.entries.push(entry);
        all.sizes.extend(sizes);
    }
    all
}

fn removed(plan: &CachePlan) -> Vec<&str> {
    plan.removals().map(|decision| decision.entry.name.as_str()).collect()
}

fn sentence<'a>(plan: &'a CachePlan, name: &str) -> String {
    let of = |decision: &&'a CacheDecision| decision.entry.name == name;
    plan.decisions.iter().find(of).unwrap().verdict.to_string()
}

fn some() -> Inventory {
    let mut all = inventory([
        entry("web", 0, &[("web.img", 100), ("base", 50)]),
        entry("old", 31, &[("old.img", 200), ("base", 50)]),
        entry("older", 40, &[("older.img", 10)]),
        entry("new", 0, &[("new.img", 10)]),
        entry("weekly", 7, &[("weekly.img", 300)]),
    ]);
    all.entries[0].last_used = NOW - 90 * DAY;
    all.entries[0].uses.push(CacheUse::Vms(2));
    all
}

#[test]
fn without_a_limit_all_stays() {
    let plan = plan(&some(), CacheLimits::default(), NOW);
    assert_eq!((removed(&plan).len(), plan.used, plan.frees), (0, Bytes::mib(670), Bytes(0)));
    assert_eq!(sentence(&plan, "old"), "kept: unused for 31 d, and no limit is set");
    assert_eq!(sentence(&plan, "web"), "kept: 2 VMs run from it");
}

#[test]
fn what_is_too_old_goes_and_says_so() {
    let age = Some(Duration::from_secs(30 * DAY));
    let plan = plan(&some(), CacheLimits { age, ..CacheLimits::default() }, NOW);
    assert_eq!(removed(&plan), ["older", "old"]);
    // The blob that `web` has, too, stays.
    assert_eq!(plan.frees, Bytes::mib(210));
    let why = "removed: unused for 31 d, longer than the 30 d of images.max_age";
    assert_eq!(sentence(&plan, "old"), why);
    assert_eq!(sentence(&plan, "weekly"), "kept: unused for 7 d, and it may be for 30 d");
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let size = Some(Bytes::mib(500));
    let plan = plan(&some(), CacheLimits { size, ..CacheLimits::default() }, NOW);
    assert_eq!(removed(&plan), ["older", "old"]);
    let why =
        "removed to come below the limit of 500MiB: 660MiB were used, this the least recently";
    assert_eq!(sentence(&plan, "old"), why);
    assert_eq!(sentence(&plan, "weekly"), "kept: unused for 7 d, and 460MiB of 500MiB are used");
    let just = "kept: used 0 ms ago, and what was just used may be about to be used again";
    assert_eq!(sentence(&plan, "new"), just);
}

#[test]
fn room_is_made_where_something_needs_it() {
    let room = Some(Bytes::mib(100));
    let plan = plan(&some(), CacheLimits { room, ..CacheLimits::default() }, NOW);
    assert_eq!((removed(&plan), plan.frees), (vec!["older", "old"], Bytes::mib(210)));
    assert!(sentence(&plan, "old").starts_with("removed to make room for 100MiB"));
}

#[test]
fn what_no_image_leads_to_goes_first() {
    let mut all = some();
    all.entries[4].kind = CacheKind::Leftover;
    let plan = plan(&all, CacheLimits::default(), NOW);
    assert_eq!(removed(&plan), ["weekly"]);
    assert_eq!(sentence(&plan, "weekly"), "removed: no image refers to it");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_old() {
    let limits = CacheLimits { age: Some(Duration::from_secs(1)), size: None, room: None };
    assert!(removed(&plan(&some(), limits, 0)).is_empty());
}

fn inventories() -> impl Strategy<Value = Inventory> {
    let entry = (
        prop::collection::btree_set(0u8..24, 0..5),
        0u64..100 * DAY,
        prop::sample::select(vec![0usize, 0, 0, 1, 2]),
        prop::sample::select(vec![CacheKind::Image, CacheKind::Kernel, CacheKind::Leftover]),
    );
    let sizes = prop::collection::vec(0u64..1 << 30, 24);
    (prop::collection::vec(entry, 0..12), sizes).prop_map(|(entries, sizes)| {
        let part = |n: u8| PathBuf::from(n.to_string());
        let entries = entries.into_iter().enumerate().map(|(id, (parts, unused, vms, kind))| {
            let uses = if vms == 0 { Vec::new() } else { vec![CacheUse::Vms(vms)] };
            CacheEntry {
                kind,
                id: id.to_string(),
                name: id.to_string(),
                parts: parts.into_iter().map(part).collect(),
                last_used: NOW - unused,
                uses,
            }
        });
        let sizes = (0u8..).zip(sizes).map(|(n, size)| (part(n), Bytes(size)));
        Inventory { entries: entries.collect(), sizes: sizes.collect() }
    })
}

fn limits() -> impl Strategy<Value = CacheLimits> {
    let size = prop::option::of((0u64..8 << 30).prop_map(Bytes));
    let room = prop::option::of((0u64..4 << 30).prop_map(Bytes));
    let age = prop::option::of((0u64..100 * DAY).prop_map(Duration::from_secs));
    (size, age, room).prop_map(|(size, age, room)| CacheLimits { size, age, room })
}

/// What the entries that `keep` takes have on the disk.
fn total(all: &Inventory, keep: impl Fn(&CacheEntry) -> bool) -> u64 {
    let kept = all.entries.iter().filter(|entry| keep(entry)).flat_map(|entry| &entry.parts);
    let parts: std::collections::BTreeSet<_> = kept.collect();
    parts.into_iter().map(|part| all.sizes[part].get()).sum()
}

proptest! {
    #[test]
    fn a_plan_keeps_its_promises(all in inventories(), limits in limits()) {
        let plan = plan(&all, limits, NOW);
        prop_assert_eq!(plan.decisions.len(), all.entries.len());
        let gone = |entry: &CacheEntry| plan.removals().any(|d| d.entry.id == entry.id);
        let movable = |entry: &CacheEntry| entry.uses.is_empty()
            && (entry.kind == CacheKind::Leftover || NOW - entry.last_used >= RECENT.as_secs());

        // Never what is used, nor what was just used.
        prop_assert!(plan.removals().all(|d| movable(&d.entry)));

        // What it says that it frees, it frees.
        let (before, after) = (total(&all, |_| true), total(&all, |entry| !gone(entry)));
        prop_assert_eq!((plan.used.get(), plan.frees.get()), (before, before - after));

        // It comes below the limit and makes the room, or nothing is left to remove.
        let reached = limits.size.is_none_or(|size| after <= size.get())
            && limits.room.is_none_or(|room| before - after >= room.get().min(before));
        prop_assert!(reached || all.entries.iter().all(|entry| gone(entry) || !movable(entry)));

        // The least recently used first, and none after that was enough.
        let for_size: Vec<_> = plan.removals().filter(|d| matches!(
            d.verdict, CacheVerdict::OverLimit { .. } | CacheVerdict::ForRoom { .. }
        )).collect();
        prop_assert!(for_size.windows(2).all(|w| w[0].entry.last_used <= w[1].entry.last_used));
        if let Some(last) = for_size.last() {
            let older = |entry: &&CacheEntry| entry.last_used < last.entry.last_used;
            let candidates = all.entries.iter().filter(|entry| movable(entry)).filter(older);
            prop_assert!(candidates.clone().all(gone));
            let without = total(&all, |entry| !gone(entry) || entry.id == last.entry.id);
            let enough = limits.size.is_none_or(|size| without <= size.get())
                && limits.room.is_none_or(|room| before - without >= room.get().min(before));
            // One that shares all it has frees nothing, and its turn comes all the same.
            prop_assert!(!enough);
        }
    }
}
