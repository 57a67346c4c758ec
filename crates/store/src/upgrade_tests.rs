//! State of earlier schemas, and of later ones.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::tests::{record, seen};
use super::*;
use crate::connection::LATEST;

/// One file for each schema there has been, as text: what `write_the_fixture`
/// made of it when it was the latest.
fn fixture(schema: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{schema:04}.sql"))
}

/// A data directory with the fixture's database.
pub(super) fn data_of(schema: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = fixture(schema);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; make it where that schema is the latest", path.display())
    });
    let database = Connection::open(directory.path().join("state.db")).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database.execute_batch(&text).unwrap();
    let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(usize::try_from(version).unwrap(), schema, "{}", path.display());
    directory
}

async fn sample(store: &Store) {
    let (mut first, second) = (record(1), record(2));
    first.grown_disk = Some(Bytes::gib(5));
    store.insert_vm(first.clone(), Durability::Host).await.unwrap();
    store.set_grown_disk(first.id, Bytes::gib(5), Durability::Host).await.unwrap();
    store.set_observed(first.id, seen()).await.unwrap();
    store.insert_vm(second, Durability::Host).await.unwrap();
    store.add_token(crate::tokens::token(3)).await.unwrap();
    store.set_node_value("id", "node-1".into()).await.unwrap();
}

/// What every schema has had.
pub(super) async fn expect_the_sample(store: &Store, schema: usize) {
    let all = store.vms().await.unwrap();
    assert_eq!(all.len(), 2, "{schema}");
    for ((vm, _), n) in all.iter().zip([1, 2]) {
        let wanted = record(n);
        assert_eq!((vm.id, &vm.spec.name), (wanted.id, &wanted.spec.name), "{schema}");
        assert_eq!((vm.spec.memory, vm.spec.disk), (wanted.spec.memory, wanted.spec.disk));
        assert_eq!(vm.spec.image(), wanted.spec.image(), "{schema}");
        assert_eq!((&vm.spec.env, &vm.spec.labels), (&wanted.spec.env, &wanted.spec.labels));
        assert_eq!((&vm.desired, vm.created_at), (&wanted.desired, wanted.created_at), "{schema}");
        let grown = (n == 1 && schema >= 2).then_some(Bytes::gib(5));
        assert_eq!(vm.grown_disk, grown, "{schema}");
    }
    let (seen_now, mut wanted) = (&all[0].1, seen());
    if let Some(failure) = wanted.failure.as_mut().filter(|_| schema < 3) {
        failure.causes.clear();
        failure.command = None;
    }
    assert_eq!(seen_now.observed.machine.map(|machine| machine.run), Some(Generation(2)));
    assert_eq!(seen_now.observed.disks, wanted.observed.disks);
    assert_eq!(seen_now.machine, wanted.machine, "{schema}");
    assert_eq!(seen_now.failure, wanted.failure, "{schema}");
    assert_eq!(seen_now.workload.as_ref().map(|w| w.log_base), Some(-17), "{schema}");
    assert_eq!(all[1].1, ObservedRecord::default(), "{schema}");
    assert_eq!(store.tokens().await.unwrap(), [crate::tokens::token(3)], "{schema}");
    assert_eq!(store.node_value("id").await.unwrap().as_deref(), Some("node-1"), "{schema}");
}

#[tokio::test]
async fn state_of_every_earlier_schema_is_brought_up_with_all_that_is_in_it() {
    for schema in 1..LATEST {
        let data = data_of(schema);
        let store = Store::open(data.path()).unwrap();
        expect_the_sample(&store, schema).await;
        let backup = data.path().join(format!("state.db.before-{LATEST}"));
        assert!(backup.exists(), "schema {schema} was not kept");
        // And it is written to as any other.
        store.insert_vm(record(7), Durability::Host).await.unwrap();
        store.set_observed(record(7).id, seen()).await.unwrap();
        store.close();
        let again = Store::open(data.path()).unwrap();
        assert_eq!(again.vms().await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn the_sample_is_the_sample_in_this_schema_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    sample(&store).await;
    expect_the_sample(&store, LATEST).await;
}

/// The state goes up to a schema of a version to come and back again.
#[tokio::test]
async fn a_newer_schema_is_refused_with_the_way_back_and_that_works() {
    let data = data_of(1);
    let path = data.path().join("state.db");
    let to = LATEST + 1;
    // What that version would do: keep the state, change it, say who it is.
    let store = Store::open(data.path()).unwrap();
    store.close();
    let newer = Connection::open(&path).unwrap();
    crate::backup::keep(&newer, &path, to).unwrap();
    newer
        .execute_batch(&format!(
            "CREATE TABLE to_come (x TEXT); PRAGMA user_version = {to};
             UPDATE node SET value = '9.8.7' WHERE key = 'schema_written_by';
             DELETE FROM vms WHERE name = 'vm-2';"
        ))
        .unwrap();
    // Killed: its log stays, and would be read into the backup.
    let log = fs::read(data.path().join("state.db-wal")).unwrap();
    drop(newer);
    fs::write(data.path().join("state.db-wal"), log).unwrap();

    let error = Store::open(data.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
    let text = error.to_string();
    let shown = path.display();
    for part in [
        "newer version of inn, 9.8.7".to_owned(),
        format!("its schema is {to}, this version knows {LATEST}"),
        "install that version again".to_owned(),
        format!("`rm -f {shown}-wal {shown}-shm && mv {shown}.before-{to} {shown}`"),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(data.path().join(format!("state.db{suffix}")));
    }
    fs::rename(data.path().join(format!("state.db.before-{to}")), &path).unwrap();
    let store = Store::open(data.path()).unwrap();
    expect_the_sample(&store, 1).await;

    // Without a backup that this version can read there is another way.
    store.close();
    for entry in fs::read_dir(data.path()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(".before-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let text = Store::open(data.path()).unwrap_err().to_string();
    assert!(text.contains("or use another data directory"), "{text}");
}

#[tokio::test]
async fn the_state_is_nobody_else_s_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let directory = data_of(1);
    let state = directory.path().join("state.db");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o644)).unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.set_node_value("id", "node-1".into()).await.unwrap();
    let mut seen = Vec::new();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".reserve") {
            // It holds nothing.
            continue;
        }
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}: {mode:o}");
        seen.push(name);
    }
    seen.sort();
    let before = format!("state.db.before-{LATEST}");
    assert_eq!(seen, ["state.db", "state.db-shm", "state.db-wal", &before]);
}

#[tokio::test]
async fn only_the_latest_backups_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = Store::open(directory.path()).unwrap();
    sample(&store).await;
    store.close();
    let connection = Connection::open(&path).unwrap();
    fs::write(directory.path().join("state.db.before-5.new"), "half of one").unwrap();
    for upgrade in [3, 4, 5, 10] {
        crate::backup::keep(&connection, &path, upgrade).unwrap();
    }
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".before-"))
        .collect();
    names.sort();
    assert_eq!(names, ["state.db.before-10", "state.db.before-5"]);
    // A damaged database names the latest of them.
    drop(connection);
    fs::write(&path, "no database at all").unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let text = error.to_string();
    for part in ["is damaged", "its VMs run on", "state.db.before-10", "or move it away"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// `cargo test -p inn-store write_the_fixture -- --ignored`, in the commit
/// before a migration is added.
#[tokio::test]
#[ignore = "writes the fixture of the latest schema"]
async fn write_the_fixture() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    sample(&store).await;
    store.close();
    let database = Connection::open(directory.path().join("state.db")).unwrap();
    fs::create_dir_all(fixture(LATEST).parent().unwrap()).unwrap();
    fs::write(fixture(LATEST), dump(&database)).unwrap();
}

fn dump(database: &Connection) -> String {
    let mut text = String::new();
    let mut of_schema = database
        .prepare(
            "SELECT type, name, sql FROM sqlite_schema \
             WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid",
        )
        .unwrap();
    let rows = of_schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    for row in rows {
        let (kind, name, sql): (String, String, String) = row.unwrap();
        writeln!(text, "{sql};").unwrap();
        if kind != "table" {
            continue;
        }
        let mut of_table = database.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = of_table.column_names().join(", ");
        let quoted =
            of_table.column_names().iter().map(|c| format!("quote({c})")).collect::<Vec<_>>();
        let mut values = database
            .prepare(&format!("SELECT {} FROM {name}", quoted.join(" || ', ' || ")))
            .unwrap();
        for values in values.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            writeln!(text, "INSERT INTO {name} ({columns}) VALUES ({});", values.unwrap()).unwrap();
        }
        let _ = of_table.query([]).unwrap();
    }
    let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    writeln!(text, "PRAGMA user_version = {version};").unwrap();
    text
}
