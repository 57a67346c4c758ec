use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_host::{LockError, LockFile};
use tempfile::TempDir;

use crate::error::ImageError;

const LOCK: &str = "lock";

/// Where one process makes its files before they get their names: a
/// directory in `tmp/` with a lock that ends with the process. Several
/// processes may share an image cache, so only directories whose lock is
/// free are leftovers.
#[derive(Debug)]
pub(crate) struct Workspace {
    // Dropped in this order: nobody takes the directory while it goes.
    dir: TempDir,
    _lock: LockFile,
}

impl Workspace {
    /// Removes what dead processes left and makes a directory of our own.
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        fs::create_dir_all(&tmp).map_err(|err| ImageError::io("create", &tmp, err))?;
        // A directory appears under its final name with its lock held, so
        // that nobody reaps it in between.
        let fail = |err| ImageError::io("create a directory in", &tmp, err);
        let dir = tempfile::Builder::new().prefix("new-").tempdir_in(&tmp).map_err(fail)?;
        fail_point(Point::WorkspaceMade);
        let lock = acquire(&dir.path().join(LOCK))?.ok_or_else(|| {
            ImageError::invalid(dir.path().display().to_string(), "was locked by another process")
        })?;
        fail_point(Point::WorkspaceLocked);
        reap(&tmp, dir.path())?;
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Whether no other process uses the cache.
    pub(crate) fn is_alone(&self) -> Result<bool, ImageError> {
        let own = self.dir.path();
        let tmp = own.parent().unwrap_or(own);
        let fail = |err| ImageError::io("look through", tmp, err);
        for entry in fs::read_dir(tmp).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path != own && path.join(LOCK).exists() && acquire(&path.join(LOCK))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn acquire(path: &Path) -> Result<Option<LockFile>, ImageError> {
    match LockFile::acquire(path) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Held(_)) => Ok(None),
        Err(LockError::Io { path, source }) => Err(ImageError::io("lock", &path, source)),
    }
}

fn reap(tmp: &Path, own: &Path) -> Result<(), ImageError> {
    let fail = |err| ImageError::io("clean up", tmp, err);
    let entries: Vec<PathBuf> = fs::read_dir(tmp)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(fail)?;
    for path in entries.into_iter().filter(|path| path != own) {
        if !path.join(LOCK).exists() {
            // Either just being made, or left by a process that died right
            // then: empty, and removed by a later start if it stays.
            match fs::remove_dir(&path) {
                Ok(()) => {}
                Err(err) => tracing::debug!(path = %path.display(), %err, "left alone"),
            }
            continue;
        }
        let Ok(Some(_lock)) = acquire(&path.join(LOCK)) else { continue };
        tracing::info!(path = %path.display(), "removing what a dead process left");
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(fail(err)),
        }
    }
    Ok(())
}
