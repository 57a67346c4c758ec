use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{CacheEntry, modified_unix};
use crate::error::ImageError;

/// What has become of an entry that was planned to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRemoval {
    Removed,
    /// Somebody has begun to use it since the plan was made.
    UsedMeanwhile,
}

/// Removes an entry that is one file which is made anew when it is wanted,
/// unless it was used since the plan was made. Whoever opens it at this very
/// moment has it, or makes it again. Of several files the last goes first: a
/// record before what it speaks of.
pub fn remove_file(entry: &CacheEntry) -> Result<CacheRemoval, ImageError> {
    for part in &entry.parts {
        if used_since(part, entry.last_used)? {
            return Ok(CacheRemoval::UsedMeanwhile);
        }
    }
    entry.parts.iter().rev().try_for_each(|part| unlink(part))?;
    Ok(CacheRemoval::Removed)
}

/// Removes what a download has left, unless somebody goes on with it: the lock
/// is held until it is gone, so nobody goes on with a file without a name.
pub fn remove_partial(entry: &CacheEntry) -> Result<CacheRemoval, ImageError> {
    let Some(path) = entry.parts.first() else { return Ok(CacheRemoval::Removed) };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(CacheRemoval::Removed),
        Err(err) => return Err(ImageError::io("open", path, err)),
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        || used_since(path, entry.last_used)?
    {
        return Ok(CacheRemoval::UsedMeanwhile);
    }
    entry.parts.iter().rev().try_for_each(|part| unlink(part))?;
    Ok(CacheRemoval::Removed)
}

/// Whether the file was used after the time that an inventory has of it.
pub(crate) fn used_since(path: &Path, last_used: u64) -> Result<bool, ImageError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(modified_unix(&metadata) > last_used),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(ImageError::io("look at", path, err)),
    }
}

/// What is gone already is removed, too.
pub(crate) fn unlink(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(ImageError::io("remove", path, err)),
    }
}
