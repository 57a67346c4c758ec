//! What is kept of a state database before an upgrade rewrites it, and how an
//! older version finds its way back.
//!
//! ```text
//!   schema 3 ──▶ state.db.before-5 (whole, schema 3) ──▶ migrations ──▶ schema 5
//!                      ▲
//!   an agent that knows 4 finds schema 5, refuses, and names this file
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::connection::own_alone;
use crate::error::StoreError;

/// Of so many upgrades, the latest, the state before is kept: whoever goes
/// back goes back by one or two versions.
const KEPT: usize = 2;

/// Copies the database, as it is, beside itself. Under its own name only once
/// it is whole and on the disk.
pub(crate) fn keep(connection: &Connection, path: &Path, before: usize) -> Result<(), StoreError> {
    let backup = of_upgrade(path, before);
    let fresh = with_suffix(&backup, ".new");
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| StoreError::Backup {
        path: backup.clone(),
        source: error,
    };
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Full { path: path.to_owned() },
        _ => failed(error.into()),
    };
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let name = fresh.to_str().ok_or_else(|| failed("its name is not UTF-8".into()))?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(|error| match error {
        error if crate::error::is_full(&error) => StoreError::Full { path: path.to_owned() },
        error => failed(error.into()),
    })?;
    // VACUUM INTO syncs nothing (sqlite.org/lang_vacuum.html, 3).
    own_alone(&fresh).and_then(|()| File::open(&fresh)?.sync_all()).map_err(io)?;
    fs::rename(&fresh, &backup).map_err(io)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    drop_old(path);
    Ok(())
}

/// The latest backup whose schema this version knows.
pub(crate) fn newest_usable(path: &Path, known: usize) -> Option<PathBuf> {
    let mut all = all(path);
    all.sort_by_key(|(upgrade, _)| std::cmp::Reverse(*upgrade));
    let usable = |(_, path): &(usize, PathBuf)| schema_of(path).is_ok_and(|is| is <= known);
    all.into_iter().find(usable).map(|(_, path)| path)
}

fn drop_old(path: &Path) {
    let mut all = all(path);
    all.sort_by_key(|(upgrade, _)| std::cmp::Reverse(*upgrade));
    for (_, old) in all.into_iter().skip(KEPT) {
        // One too many does no harm; the next upgrade tries again.
        let _ = fs::remove_file(old);
    }
}

fn all(path: &Path) -> Vec<(usize, PathBuf)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let prefix = format!("{}.before-", name.to_string_lossy());
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let upgrade = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((upgrade, entry.path()))
        })
        .collect()
}

/// From the file alone: sqlite.org/fileformat2.html, 1.3, has the user version
/// at offset 60.
fn schema_of(path: &Path) -> io::Result<usize> {
    let mut header = [0; 64];
    File::open(path)?.read_exact(&mut header)?;
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let version = u32::from_be_bytes([header[60], header[61], header[62], header[63]]);
    usize::try_from(version).map_err(io::Error::other)
}

fn of_upgrade(path: &Path, to: usize) -> PathBuf {
    with_suffix(path, &format!(".before-{to}"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
