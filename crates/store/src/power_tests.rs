//! The power fails after every single write to the state database.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use inn_domain::Power;
use inn_store_faults::{PowerCut, Tap, power_cuts};
use inn_units::Generation;

use super::tests::{record, seen};
use super::*;

/// All that the database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    vms: Vec<(VmRecord, ObservedRecord)>,
    successors: Vec<(VmId, VmRecord)>,
    tokens: Vec<crate::TokenRecord>,
    id: Option<String>,
}

impl Contents {
    async fn of(store: &Store) -> Self {
        Self {
            vms: store.vms().await.unwrap(),
            successors: store.successors().await.unwrap(),
            tokens: store.tokens().await.unwrap(),
            id: store.node_value("id").await.unwrap(),
        }
    }
}

/// Writes and remembers what was there after each.
struct Writer {
    directory: tempfile::TempDir,
    tap: Tap,
    store: Store,
    after: Vec<Contents>,
    durable: Vec<bool>,
}

impl Writer {
    async fn new() -> Self {
        let directory = memory_backed();
        let tap = Tap::on(directory.path()).unwrap();
        let store = Store::open(directory.path()).unwrap();
        let after = vec![Contents::of(&store).await];
        Self { directory, tap, store, after, durable: Vec::new() }
    }

    async fn write(
        &mut self,
        durability: Durability,
        write: impl AsyncFnOnce(&Store, Durability) -> Result<(), StoreError>,
    ) {
        let number = self.durable.len();
        self.tap.begun(number);
        write(&self.store, durability).await.unwrap();
        self.tap.answered(number);
        self.durable.push(durability == Durability::Host);
        self.after.push(Contents::of(&self.store).await);
    }

    /// Everything into the database file, as it is done each thousand pages.
    async fn checkpoint(&self) {
        let busy: i64 = self
            .store
            .call("checkpoint", Durability::Agent, |c| {
                c.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0))
            })
            .await
            .unwrap();
        assert_eq!(busy, 0);
    }

    /// Ends in good order, which empties the log, and begins again.
    fn reopen(self) -> Self {
        let Self { directory, tap, store, after, durable } = self;
        store.close();
        let store = Store::open(directory.path()).unwrap();
        Self { directory, tap, store, after, durable }
    }

    /// What a life of some VMs writes.
    async fn live(&mut self, from: u8) {
        use Durability::{Agent, Host};
        let mut first = record(from);
        // Over several pages of the database, and so of the log.
        first.spec.env.insert("LONG".into(), "x".repeat(20_000));
        let first_id = first.id;
        let mut desired = first.desired.clone();
        self.write(Host, async |s, d| s.insert_vm(first, d).await).await;
        self.write(Agent, async |s, _| s.set_observed(first_id, seen()).await).await;
        for power in [Power::Stopped, Power::Running, Power::Stopped] {
            desired.power = power;
            desired.generation = Generation(desired.generation.0 + 1);
            let desired = desired.clone();
            self.write(Host, async |s, d| s.set_desired(first_id, desired, d).await).await;
            let mut seen = seen();
            seen.observed_generation = Generation(desired_generation(&self.after));
            self.write(Agent, async |s, _| s.set_observed(first_id, seen).await).await;
        }
        let leased = record(from + 1);
        let leased_id = leased.id;
        self.write(Agent, async |s, d| s.insert_vm(leased, d).await).await;
        let size = Bytes::gib(9);
        self.write(Host, async |s, d| s.set_grown_disk(first_id, size, d).await).await;
        self.write(Agent, async |s, d| s.forget_vm(leased_id, d).await).await;
        let value = format!("node-{from}");
        self.write(Host, async |s, _| s.set_node_value("id", value).await).await;
        let token = crate::tokens::token(from);
        let (id, at) = (token.id, Timestamp::from_second(2).unwrap());
        self.write(Host, async |s, _| s.add_token(token).await).await;
        self.write(Host, async |s, _| s.revoke_token(id, at).await).await;
        let second = record(from + 2);
        let second_id = second.id;
        let mut third = record(from + 3);
        third.spec.name = second.spec.name.clone();
        let (third_id, mut gone) = (third.id, second.desired.clone());
        gone.power = Power::Deleted;
        self.write(Host, async |s, d| s.insert_vm(second, d).await).await;
        let next = (third, None);
        self.write(Host, async |s, d| s.replace_vm(second_id, gone, next, d).await).await;
        // One write, by which one is a VM no more and the other one is.
        self.write(Host, async |s, d| s.forget_vm(second_id, d).await).await;
        self.write(Host, async |s, d| s.forget_vm(third_id, d).await).await;
    }

    /// Cuts the power everywhere and looks at what is found. Says at how many
    /// points, and how many states that were.
    async fn check(self) -> (usize, usize) {
        let Self { directory: _directory, tap, store, after, durable } = self;
        store.close();
        let (mut points, mut states) = (0, 0);
        for cut in power_cuts(&tap) {
            points += 1;
            states += cut.found.len();
            for found in &cut.found {
                check(&cut, &found.files, found.is_all, &after, &durable).await;
            }
        }
        (points, states)
    }
}

async fn check(
    cut: &PowerCut,
    files: &BTreeMap<String, Vec<u8>>,
    process_only: bool,
    after: &[Contents],
    durable: &[bool],
) {
    let directory = memory_backed();
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    // The log's index is memory: whatever it holds after a power loss, nobody
    // may believe it.
    if cut.events.is_multiple_of(2) && files.contains_key("state.db-wal") {
        fs::write(directory.path().join("state.db-shm"), [0xa5; 32 << 10]).unwrap();
    }
    let lengths = || files.iter().map(|(name, b)| (name.clone(), b.len())).collect::<Vec<_>>();
    let event = cut.events;
    let store = Store::open(directory.path())
        .unwrap_or_else(|e| panic!("cut after {event} events: {e:?}; found {:?}", lengths()));
    let verdict: String = store
        .call("check", Durability::Agent, |c| {
            c.query_row("PRAGMA integrity_check", [], |row| row.get(0))
        })
        .await
        .unwrap();
    assert_eq!(verdict, "ok", "cut after {event} events");
    let found = Contents::of(&store).await;
    let must = |write: &usize| process_only || durable[*write];
    // As it was after some write: from the last that was promised, to the last
    // that was begun.
    let promised = (0..cut.answered).rfind(must).map_or(0, |write| write + 1);
    let latest = cut.begun.max(promised);
    assert!(
        after[promised..=latest].contains(&found),
        "cut after {event} events, {promised} writes promised and {latest} begun; found {:?}: \
         {found:?}",
        lengths()
    );
    // And it goes on from there.
    store.insert_vm(record(200), Durability::Host).await.unwrap();
    assert_eq!(store.vms().await.unwrap().len(), found.vms.len() + 1);
    store.close();
}

fn desired_generation(after: &[Contents]) -> u64 {
    after.last().and_then(|last| last.vms.last()).map_or(0, |(vm, _)| vm.desired.generation.0)
}

/// Nothing here is about the speed of a disk.
fn memory_backed() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

#[tokio::test]
async fn a_power_loss_at_any_write_loses_nothing_that_was_promised() {
    let mut writer = Writer::new().await;
    writer.live(10).await;
    writer.checkpoint().await;
    // The log begins anew over what is in it.
    writer.live(20).await;
    let mut writer = writer.reopen();
    writer.live(30).await;
    writer.checkpoint().await;
    let writer = writer.reopen();
    let (points, states) = writer.check().await;
    println!("{points} points, {states} different states of the files");
    assert!(points > 300 && states > 1_000, "{points} points, {states} states");
}

#[tokio::test]
async fn a_power_loss_at_any_write_of_an_upgrade_leaves_the_old_state_or_the_new() {
    let data = upgrade_tests::data_of(1);
    let tap = Tap::on(data.path()).unwrap();
    Store::open(data.path()).unwrap().close();
    let (mut points, mut states) = (0, 0);
    for cut in power_cuts(&tap) {
        points += 1;
        for found in &cut.found {
            states += 1;
            let directory = memory_backed();
            for (name, bytes) in &found.files {
                fs::write(directory.path().join(name), bytes).unwrap();
            }
            let store = Store::open(directory.path())
                .unwrap_or_else(|e| panic!("cut after {} events: {e:?}", cut.events));
            upgrade_tests::expect_the_sample(&store, 1).await;
            store.close();
        }
    }
    println!("{points} points, {states} different states of the files");
    assert!(points > 20 && states > 50, "{points} points, {states} states");
}

/// The disk is full from the first write on, from the second, and so on.
#[tokio::test]
async fn a_full_disk_refuses_writes_with_its_reason_and_nothing_else_is_lost() {
    let mut refusals = 0;
    for room in 0..40 {
        let directory = memory_backed();
        let tap = Tap::on(directory.path()).unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.insert_vm(record(1), Durability::Host).await.unwrap();
        let mut kept = vec![record(1)];
        tap.fill_after(room);
        for n in 2..20 {
            match store.insert_vm(record(n), Durability::Host).await {
                Ok(()) => kept.push(record(n)),
                Err(StoreError::Full { path }) => {
                    assert_eq!(path, directory.path().join("state.db"));
                }
                Err(error) => panic!("{error:?}"),
            }
            // What is there can be read meanwhile.
            let all = store.vms().await.unwrap();
            assert_eq!(all.into_iter().map(|(vm, _)| vm).collect::<Vec<_>>(), kept, "room {room}");
        }
        let refused = tap.free();
        assert!(refused > 0 && kept.len() < 19, "room {room}: {refused}, {}", kept.len());
        refusals += refused;
        store.insert_vm(record(30), Durability::Host).await.unwrap();
        kept.push(record(30));
        store.close();
        let store = Store::open(directory.path()).unwrap();
        let all = store.vms().await.unwrap();
        assert_eq!(all.into_iter().map(|(vm, _)| vm).collect::<Vec<_>>(), kept, "room {room}");
    }
    println!("{refusals} writes were refused");
}

/// No room for the database itself, or for what an upgrade wants.
#[tokio::test]
async fn a_disk_too_full_to_open_on_says_so_and_is_opened_on_later() {
    for schema in [0, 1] {
        let mut room = 0;
        loop {
            let data = match schema {
                0 => memory_backed(),
                schema => upgrade_tests::data_of(schema),
            };
            let tap = Tap::on(data.path()).unwrap();
            tap.fill_after(room);
            match Store::open(data.path()) {
                Ok(_) if tap.free() == 0 => break,
                // What the full disk refused was no more than an end in good
                // order wants.
                Ok(store) => store.close(),
                Err(StoreError::Full { .. }) => {}
                Err(error) => panic!("schema {schema}, room {room}: {error:?}"),
            }
            tap.free();
            let store = Store::open(data.path()).unwrap();
            assert_eq!(store.vms().await.unwrap().len(), schema * 2, "room {room}");
            store.close();
            room += 1;
        }
        assert!(room > 5, "{room}");
    }
}
