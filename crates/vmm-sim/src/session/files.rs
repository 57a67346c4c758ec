//! The files that a simulated guest lets be read: those of a directory of the
//! host's, where a test puts them.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use inn_guest_proto::wire::{FailureKind, FileInfo, ReadFile, Transferred, end};
use twox_hash::XxHash3_128;

use super::failure;

/// Without what would lead out of it.
fn place(dir: &Path, path: &str) -> Option<PathBuf> {
    let below = Path::new(path).strip_prefix("/").ok()?;
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    below.components().all(plain).then(|| dir.join(below))
}

/// What a request for one leads to: all that is asked for, or an outcome.
pub(super) fn read(
    dir: Option<&Path>,
    request: &ReadFile,
) -> Result<(FileInfo, Bytes), Box<end::Outcome>> {
    let bytes = bytes_of(dir, &request.path)?;
    let info = info(&bytes);
    let from = usize::try_from(request.offset).unwrap_or(usize::MAX).min(bytes.len());
    let most = request.limit.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let until = from.saturating_add(most).min(bytes.len());
    Ok((info, Bytes::copy_from_slice(&bytes[from..until])))
}

pub(super) fn stat(dir: Option<&Path>, path: &str) -> end::Outcome {
    match bytes_of(dir, path) {
        Ok(bytes) => end::Outcome::FileInfo(info(&bytes)),
        Err(outcome) => *outcome,
    }
}

pub(super) fn transferred(bytes: &Bytes) -> Transferred {
    let sum = XxHash3_128::oneshot(bytes).to_be_bytes();
    Transferred {
        bytes: bytes.len() as u64,
        xxh3_128: Bytes::copy_from_slice(&sum),
        ..Transferred::default()
    }
}

fn info(bytes: &[u8]) -> FileInfo {
    FileInfo { size: bytes.len() as u64, mode: 0o644, ..FileInfo::default() }
}

fn bytes_of(dir: Option<&Path>, path: &str) -> Result<Vec<u8>, Box<end::Outcome>> {
    let Some(dir) = dir else {
        return Err(Box::new(failure("do this, being simulated", FailureKind::Unsupported)));
    };
    let found = match place(dir, path) {
        Some(place) => std::fs::read(place),
        None => Err(io::Error::from(ErrorKind::NotFound)),
    };
    found.map_err(|error| {
        let kind = match error.kind() {
            ErrorKind::NotFound => FailureKind::NotFound,
            _ => FailureKind::Failed,
        };
        Box::new(failure(&format!("read {path}"), kind))
    })
}
