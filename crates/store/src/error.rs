use std::fmt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Corrupt(#[from] Box<DamagedState>),
    #[error(transparent)]
    Newer(#[from] Box<NewerState>),
    #[error("the disk of the state database {} is full; free some space", path.display())]
    Full { path: PathBuf },
    #[error("cannot open the state database {}", path.display())]
    Open { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot keep {}, the state before the upgrade", path.display())]
    Backup { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the name is taken")]
    NameTaken,
    #[error("cannot {step} in the state database")]
    Sql { step: &'static str, source: rusqlite::Error },
    /// A row that this version cannot make sense of.
    #[error("the state database holds {what} that cannot be read: {why}")]
    Row { what: String, why: String },
    #[error("the state database's thread has ended")]
    Closed,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the state database {} is damaged; its VMs run on; stop the agent, then {}",
    path.display(),
    WayOut(path, backup.as_deref())
)]
pub struct DamagedState {
    pub path: PathBuf,
    /// The state before the last upgrade, if it is still there.
    pub backup: Option<PathBuf>,
    pub source: Option<rusqlite::Error>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the state database {} was written by a newer version of inn{}: its schema is {schema}, this version knows {known}; install that version again{}",
    path.display(),
    written_by.as_ref().map(|version| format!(", {version}")).unwrap_or_default(),
    GoBack(path, backup.as_deref())
)]
pub struct NewerState {
    pub path: PathBuf,
    /// As it says itself.
    pub written_by: Option<String>,
    pub schema: usize,
    pub known: usize,
    /// The state before the upgrade, if it is still there.
    pub backup: Option<PathBuf>,
}

/// What puts a backup in the database's place, for a shell. A write-ahead log
/// that stayed would be read into the backup.
struct Restore<'a>(&'a Path, &'a Path);

impl fmt::Display for Restore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, backup) = (self.0.display(), self.1.display());
        write!(f, "`rm -f {path}-wal {path}-shm && mv {backup} {path}`")
    }
}

struct WayOut<'a>(&'a Path, Option<&'a Path>);

impl fmt::Display for WayOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(backup) => write!(
                f,
                "restore a copy of it, at the latest the one before the last upgrade by {}",
                Restore(self.0, backup)
            )?,
            None => write!(f, "restore it from a backup")?,
        }
        let path = self.0.display();
        write!(
            f,
            ", or move it away with {path}-wal and {path}-shm to start with no VMs (their disks are then removed as nobody's)"
        )
    }
}

struct GoBack<'a>(&'a Path, Option<&'a Path>);

impl fmt::Display for GoBack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(backup) => write!(
                f,
                ", or go back to the state before that upgrade (VMs made since are removed): {}",
                Restore(self.0, backup)
            ),
            None => write!(f, ", or use another data directory"),
        }
    }
}

/// SQLite's own verdicts, by its primary result codes (sqlite.org/rescode.html).
pub(crate) fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Also where it is the log's index that does not grow: SQLite knows of no
/// other reason for that (os_unix.c, unixShmMap).
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    const IOERR_SHMSIZE: i32 = 4874;
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        || error.sqlite_error().is_some_and(|error| error.extended_code == IOERR_SHMSIZE)
}
