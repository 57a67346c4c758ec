use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use rusqlite_migration::{Error as MigrationError, M, Migrations};

use crate::backup;
use crate::error::{DamagedState, NewerState, StoreError, is_corrupt, is_full};
use crate::records::Durability;
use crate::reserve::Reserve;

/// In order; released ones never change.
const MIGRATIONS: &[M<'static>] = &[
    M::up(include_str!("../migrations/0001-spine.sql")),
    M::up(include_str!("../migrations/0002-full-vms.sql")),
    M::up(include_str!("../migrations/0003-boots.sql")),
    M::up(include_str!("../migrations/0004-tokens.sql")),
    M::up(include_str!("../migrations/0005-events.sql")),
    M::up(include_str!("../migrations/0006-limits.sql")),
    M::up(include_str!("../migrations/0007-ttl.sql")),
    M::up(include_str!("../migrations/0008-keys.sql")),
    M::up(include_str!("../migrations/0009-successors.sql")),
    M::up(include_str!("../migrations/0010-networks.sql")),
    M::up(include_str!("../migrations/0011-snapshots.sql")),
    M::up(include_str!("../migrations/0012-addresses.sql")),
];

const WRITTEN_BY: &str = "schema_written_by";

/// The one connection to the state database.
pub(crate) struct Db {
    pub(crate) connection: Connection,
    pub(crate) reserve: Reserve,
    durability: Durability,
}

impl Db {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let corrupt = |source| -> StoreError {
            let backup = backup::newest_usable(path, MIGRATIONS.len());
            Box::new(DamagedState { path: path.to_owned(), backup, source }).into()
        };
        let explain = |error: rusqlite::Error| match error {
            error if is_corrupt(&error) => corrupt(Some(error)),
            error if is_full(&error) => StoreError::Full { path: path.to_owned() },
            error => StoreError::Open { path: path.to_owned(), source: error.into() },
        };
        let mut connection = Connection::open(path).map_err(explain)?;
        own_alone(path)
            .map_err(|error| StoreError::Open { path: path.to_owned(), source: error.into() })?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(explain)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(explain)?;
        // 1 MiB instead of 2: the whole state of a thousand VMs.
        connection.pragma_update(None, "cache_size", -1024).map_err(explain)?;
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(explain)?;
        if verdict != "ok" {
            return Err(corrupt(None));
        }
        upgrade(&mut connection, path, explain)?;
        let reserve = Reserve::beside(path);
        let mut db = Self { connection, reserve, durability: Durability::Agent };
        db.set_durability(Durability::Host).map_err(explain)?;
        Ok(db)
    }

    /// Takes effect from the next transaction on.
    pub(crate) fn set_durability(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if durability == self.durability {
            return Ok(());
        }
        let level = match durability {
            Durability::Host => "FULL",
            Durability::Agent => "NORMAL",
        };
        self.connection.pragma_update(None, "synchronous", level)?;
        self.durability = durability;
        Ok(())
    }
}

/// Makes a file of ours nobody else's to read: VMMs run as users of their own,
/// and the data directory may have been opened to all. SQLite gives the
/// database's mode to the files beside it (sqlite.org/src, `findCreateFileMode`).
pub(crate) fn own_alone(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 == 0 => Ok(()),
        Ok(_) => fs::set_permissions(path, Permissions::from_mode(0o600)),
        // On no disk: there is nothing to read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Brings the schema up to this version's, with the state before kept; refuses
/// one of a later version.
fn upgrade(
    connection: &mut Connection,
    path: &Path,
    explain: impl Fn(rusqlite::Error) -> StoreError,
) -> Result<(), StoreError> {
    let version: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(&explain)?;
    // A negative one is nobody's: then the migrations say so.
    let schema = usize::try_from(version).unwrap_or(0);
    let known = MIGRATIONS.len();
    let written_by = written_by(connection);
    if schema > known {
        let backup = backup::newest_usable(path, known);
        let path = path.to_owned();
        return Err(Box::new(NewerState { path, written_by, schema, known, backup }).into());
    }
    if schema > 0 && schema < known {
        backup::keep(connection, path, known)?;
    }
    Migrations::from_slice(MIGRATIONS).to_latest(connection).map_err(|error| match error {
        MigrationError::RusqliteError { err, .. } => explain(err),
        error => StoreError::Open { path: path.to_owned(), source: error.into() },
    })?;
    if schema < known || written_by.is_none() {
        connection
            .execute(
                "INSERT INTO node (key, value) VALUES (?1, ?2) \
                 ON CONFLICT (key) DO UPDATE SET value = ?2",
                [WRITTEN_BY, env!("CARGO_PKG_VERSION")],
            )
            .map_err(explain)?;
    }
    Ok(())
}

/// The version that made the schema what it is. Whatever becomes of the rest,
/// this row stays where it is, for older versions to read.
fn written_by(connection: &Connection) -> Option<String> {
    connection
        .query_row("SELECT value FROM node WHERE key = ?1", [WRITTEN_BY], |row| row.get(0))
        .ok()
}

#[cfg(test)]
pub(crate) fn check_migrations() {
    Migrations::from_slice(MIGRATIONS).validate().unwrap();
}

/// The newest schema of the state that this version knows.
pub const LATEST: usize = MIGRATIONS.len();
