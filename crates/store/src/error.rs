use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the state database {} is damaged; stop the agent and restore the file from a backup, or move it away to start with no VMs (their disks are then removed as nobody's)",
        path.display()
    )]
    Corrupt { path: PathBuf, source: Option<rusqlite::Error> },
    #[error(
        "the state database {} was written by a newer version of inn; install that version again, or another data directory",
        path.display()
    )]
    Newer { path: PathBuf },
    #[error("the disk of the state database {} is full; free some space", path.display())]
    Full { path: PathBuf },
    #[error("cannot open the state database {}", path.display())]
    Open { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
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

/// SQLite's own verdicts, by its primary result codes (sqlite.org/rescode.html).
pub(crate) fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}
