use std::path::Path;

use rusqlite::Connection;
use rusqlite_migration::{Error as MigrationError, M, MigrationDefinitionError, Migrations};

use crate::error::{StoreError, is_corrupt, is_full};
use crate::records::Durability;

/// In order; released ones never change.
const MIGRATIONS: &[M<'static>] = &[
    M::up(include_str!("../migrations/0001-spine.sql")),
    M::up(include_str!("../migrations/0002-full-vms.sql")),
];

/// The one connection to the state database.
pub(crate) struct Db {
    pub(crate) connection: Connection,
    durability: Durability,
}

impl Db {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let corrupt = |source| StoreError::Corrupt { path: path.to_owned(), source: Some(source) };
        let explain = |error: rusqlite::Error| match error {
            error if is_corrupt(&error) => corrupt(error),
            error if is_full(&error) => StoreError::Full { path: path.to_owned() },
            error => StoreError::Open { path: path.to_owned(), source: error.into() },
        };
        let mut connection = Connection::open(path).map_err(explain)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(explain)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(explain)?;
        // 1 MiB instead of 2: the whole state of a thousand VMs.
        connection.pragma_update(None, "cache_size", -1024).map_err(explain)?;
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(explain)?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt { path: path.to_owned(), source: None });
        }
        Migrations::from_slice(MIGRATIONS).to_latest(&mut connection).map_err(
            |error| match error {
                MigrationError::MigrationDefinition(
                    MigrationDefinitionError::DatabaseTooFarAhead,
                ) => StoreError::Newer { path: path.to_owned() },
                MigrationError::RusqliteError { err, .. } => explain(err),
                error => StoreError::Open { path: path.to_owned(), source: error.into() },
            },
        )?;
        let mut db = Self { connection, durability: Durability::Agent };
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

#[cfg(test)]
pub(crate) fn check_migrations() {
    Migrations::from_slice(MIGRATIONS).validate().unwrap();
}
