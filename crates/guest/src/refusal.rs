//! Why a request failed, in the words the host shows.

use std::io;

use inn_guest_proto::wire::{Failure, FailureKind, end::Outcome};

/// Longer sentences are cut: a path may be 4096 bytes, twice.
const MAX_TEXT: usize = 512;

#[derive(Debug)]
pub(crate) struct Refusal {
    /// Completes "the guest cannot …".
    what: String,
    kind: FailureKind,
    errno: i32,
}

impl Refusal {
    pub(crate) fn new(kind: FailureKind, what: impl Into<String>) -> Self {
        Self { what: what.into(), kind, errno: 0 }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(FailureKind::Invalid, what)
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::new(FailureKind::NotFound, what)
    }

    /// Where the kind that the error has would be mistaken for another's.
    pub(crate) fn of_kind(self, kind: FailureKind) -> Self {
        Self { kind, ..self }
    }

    pub(crate) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        let (what, errno) = (what.into(), error.raw_os_error().unwrap_or(0));
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FailureKind::NotFound,
            io::ErrorKind::PermissionDenied => FailureKind::Denied,
            io::ErrorKind::AlreadyExists => FailureKind::AlreadyExists,
            io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => FailureKind::Invalid,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => FailureKind::NoSpace,
            io::ErrorKind::OutOfMemory => FailureKind::Exhausted,
            io::ErrorKind::Unsupported => FailureKind::Unsupported,
            _ => FailureKind::Failed,
        };
        // Without a number the host has only our words.
        let what = if errno == 0 { format!("{what}: {error}") } else { what };
        Self { what, kind, errno }
    }
}

/// For the console; the host gets all of it.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        let what = refusal.what.chars().take(MAX_TEXT).collect();
        Outcome::Failure(Failure { what, kind: refusal.kind.into(), errno: refusal.errno })
    }
}

/// `result.or_refuse(|| "open /x".into())`.
pub(crate) trait OrRefuse<T> {
    fn or_refuse(self, what: impl FnOnce() -> String) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> OrRefuse<T> for Result<T, E> {
    fn or_refuse(self, what: impl FnOnce() -> String) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::io(what(), &error.into()))
    }
}
