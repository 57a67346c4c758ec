use std::io;
use std::path::{Path, PathBuf};

use inn_units::{Bytes, Digest};
use rustix::io::Errno;

/// What can go wrong with an image. Every sentence names the thing and the
/// way out; the source is never repeated in it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{what} was not found; {hint}")]
    NotFound { what: String, hint: String },
    /// What was given is no image, is damaged, or cannot run here.
    #[error("{what} {why}")]
    Invalid { what: String, why: String },
    #[error(
        "{what} has the digest {got} where {expected} was expected; it is damaged or is another one, get it again"
    )]
    DigestMismatch { what: String, expected: Digest, got: Digest },
    #[error("the disk of {} is full{}; free some space or choose another image cache directory", path.display(), space(*needed, *free))]
    DiskFull { path: PathBuf, needed: Option<Bytes>, free: Option<Bytes> },
    #[error("{what} is too large: {limit}")]
    TooLarge { what: String, limit: String },
    #[error("the import was cancelled")]
    Cancelled,
    /// Where it comes from did not give it.
    #[error("{what} could not be fetched")]
    Remote {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{program} is not installed; {hint}")]
    MissingProgram { program: String, hint: String },
    #[error("cannot {step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn space(needed: Option<Bytes>, free: Option<Bytes>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => format!(" ({needed} needed, {free} free)"),
        (Some(needed), None) => format!(" ({needed} needed)"),
        (None, Some(free)) => format!(" ({free} free)"),
        (None, None) => String::new(),
    }
}

impl ImageError {
    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    /// The same once more, for another one who waited for it; the chain of a
    /// foreign error becomes its sentence.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::NotFound { what, hint } => {
                Self::NotFound { what: what.clone(), hint: hint.clone() }
            }
            Self::Invalid { what, why } => Self::Invalid { what: what.clone(), why: why.clone() },
            Self::DigestMismatch { what, expected, got } => {
                Self::DigestMismatch { what: what.clone(), expected: *expected, got: *got }
            }
            Self::DiskFull { path, needed, free } => {
                Self::DiskFull { path: path.clone(), needed: *needed, free: *free }
            }
            Self::TooLarge { what, limit } => {
                Self::TooLarge { what: what.clone(), limit: limit.clone() }
            }
            Self::Cancelled => Self::Cancelled,
            Self::Remote { what, source } => {
                Self::Remote { what: what.clone(), source: chain(source.as_ref()).into() }
            }
            Self::MissingProgram { program, hint } => {
                Self::MissingProgram { program: program.clone(), hint: hint.clone() }
            }
            Self::Io { step, path, source } => Self::Io {
                step,
                path: path.clone(),
                source: io::Error::new(source.kind(), chain(source)),
            },
        }
    }

    /// Reads an I/O error: one of ours that travelled through a `Read` comes
    /// out as it went in, a full disk becomes `DiskFull`.
    pub(crate) fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        let source = match source.downcast::<Self>() {
            Ok(ours) => return ours,
            Err(source) => source,
        };
        let full = [Errno::NOSPC.raw_os_error(), Errno::DQUOT.raw_os_error()];
        if source.raw_os_error().is_some_and(|code| full.contains(&code)) {
            return Self::DiskFull { path: path.to_owned(), needed: None, free: free_bytes(path) };
        }
        Self::Io { step, path: path.to_owned(), source }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text = format!("{text}: {source}");
        at = source.source();
    }
    text
}

/// Free bytes on the file system of `path` or of its nearest parent that is.
pub(crate) fn free_bytes(path: &Path) -> Option<Bytes> {
    path.ancestors()
        .find_map(|at| rustix::fs::statvfs(at).ok())
        .map(|stat| Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// An entry's name as it may stand in a message: lossy, bounded.
pub(crate) fn shown(name: &[u8]) -> String {
    let head = &name[..name.len().min(200)];
    let dots = if head.len() < name.len() { "…" } else { "" };
    format!("`{}{dots}`", String::from_utf8_lossy(head).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_errors_and_ours_come_through() {
        let path = Path::new("/cache/disks");
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = ImageError::io("write", path, errno.into());
            assert!(matches!(error, ImageError::DiskFull { .. }));
            assert!(error.to_string().contains("/cache/disks is full"), "{error}");
        }
        let other = ImageError::io("write", path, Errno::IO.into());
        assert_eq!(other.to_string(), "cannot write /cache/disks");
        let ours = ImageError::io("write", path, io::Error::other(ImageError::Cancelled));
        assert!(matches!(ours, ImageError::Cancelled));
    }

    #[test]
    fn names_in_messages_are_bounded_and_printable() {
        assert_eq!(shown(b"a\n\xff"), "`a\\n\u{fffd}`");
        assert!(shown(&[b'x'; 5000]).len() < 300);
    }
}
