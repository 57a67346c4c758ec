//! Blobs by digest: `blobs/sha256/<hex>`, and `partial/<hex>` for those on
//! their way.
//!
//! A blob is copied and hashed in the same pass, so what was verified is what
//! is kept, whatever happens to its source. It gets its name with the image
//! that it belongs to: what lies under `blobs/` belongs to a whole image.
//! Blobs are not synced to the disk: one that a crash damaged is found by the
//! hash that precedes every use, and copied anew.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use inn_units::Digest;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::arrival::Place;
use crate::course::Course;
use crate::error::ImageError;

pub(crate) const CHUNK: usize = 256 * 1024;
/// A download that nobody went on with for so long is given up.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often one that waits for another's download looks whether to go on.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct BlobStore {
    dir: PathBuf,
    partial: PathBuf,
    /// Blobs that this process is fetching: each by one thread.
    fetched: Mutex<BTreeSet<Digest>>,
    freed: Condvar,
}

impl BlobStore {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let (dir, partial) = (root.join("blobs/sha256"), root.join("partial"));
        for dir in [&dir, &partial] {
            fs::create_dir_all(dir).map_err(|err| ImageError::io("create", dir, err))?;
        }
        Ok(Self { dir, partial, fetched: Mutex::default(), freed: Condvar::new() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn partial_dir(&self) -> &Path {
        &self.partial
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// The blob, if it is here and is what its name says.
    pub(crate) fn verified(
        &self,
        digest: &Digest,
        size: u64,
        course: &Course,
    ) -> Result<Option<File>, ImageError> {
        let path = self.path(digest);
        let fail = |err| ImageError::io("read", &path, err);
        let Some(mut file) = self.sized(digest, size)? else { return Ok(None) };
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            course.check()?;
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => hash.update(&chunk[..n]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(fail(err)),
            }
        }
        let held = Digest::from_sha256(hash.finalize().into()) == *digest;
        Ok(held.then_some(file))
    }

    /// The blob, if one of this name and size is here.
    pub(crate) fn sized(&self, digest: &Digest, size: u64) -> Result<Option<File>, ImageError> {
        let path = self.path(digest);
        let fail = |err| ImageError::io("read", &path, err);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(fail(err)),
        };
        let is_whole = file.metadata().map_err(fail)?.len() == size;
        Ok(is_whole.then_some(file))
    }

    /// How much of a blob an interrupted download has left.
    pub(crate) fn partial_bytes(&self, digest: &Digest) -> u64 {
        fs::metadata(self.partial.join(digest.hex())).map_or(0, |metadata| metadata.len())
    }

    /// The file in which a download is gone on with, locked against other
    /// processes; `None` when another one has it.
    pub(crate) fn partial(&self, digest: &Digest) -> Result<Option<(File, PathBuf)>, ImageError> {
        let path = self.partial.join(digest.hex());
        let fail = |err| ImageError::io("open", &path, err);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        file.set_modified(SystemTime::now()).map_err(fail)?;
        Ok(Some((file, path)))
    }

    /// Gives a verified blob its name.
    pub(crate) fn keep(&self, digest: &Digest, place: Place) -> Result<(), ImageError> {
        let path = self.path(digest);
        let fail = |err| ImageError::io("store a blob in", &self.dir, err);
        match place {
            Place::Blob => Ok(()),
            Place::Own(file) => file.persist(&path).map_err(|err| fail(err.error)),
            Place::Partial(from) => match fs::rename(&from, &path) {
                // Another image with the same layer was quicker.
                Err(err) if err.kind() == io::ErrorKind::NotFound && path.exists() => Ok(()),
                renamed => renamed.map_err(fail),
            },
        }
    }

    /// A manifest or a configuration, which were verified in memory.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8], tmp: &Path) -> Result<(), ImageError> {
        let fail = |err| ImageError::io("store a blob in", &self.dir, err);
        let mut file = tempfile::NamedTempFile::new_in(tmp).map_err(fail)?;
        file.write_all(bytes).map_err(fail)?;
        file.persist(self.path(digest)).map_err(|err| fail(err.error))?;
        Ok(())
    }

    /// Waits until no other thread of this process fetches the blob, and is
    /// the one that does until the guard goes.
    pub(crate) fn fetch(&self, digest: Digest, course: &Course) -> Result<Fetch<'_>, ImageError> {
        let mut fetched = self.lock();
        while fetched.contains(&digest) {
            course.check()?;
            let waited = self.freed.wait_timeout(fetched, LOOK);
            fetched = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        fetched.insert(digest);
        Ok(Fetch { blobs: self, digest })
    }

    /// Removes every blob that `keep` does not want.
    pub(crate) fn sweep(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), ImageError> {
        sweep(&self.dir, "", keep)
    }

    /// Removes downloads that nobody goes on with.
    pub(crate) fn reap_partials(&self) -> Result<(), ImageError> {
        let fail = |err| ImageError::io("clean up", &self.partial, err);
        for entry in fs::read_dir(&self.partial).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let age = fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .map(|modified| modified.elapsed().unwrap_or_default());
            if !age.is_ok_and(|age| age > STALE) {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                tracing::info!(path = %path.display(), "removing a download nobody went on with");
                fs::remove_file(&path).map_err(fail)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        // A panic elsewhere leaves the set whole: each change is one call.
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, its holder alone fetches the blob.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    blobs: &'a BlobStore,
    digest: Digest,
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.blobs.lock().remove(&self.digest);
        self.blobs.freed.notify_all();
    }
}

/// Removes the files of a directory whose name, without `suffix`, is not
/// wanted.
pub(crate) fn sweep(
    dir: &Path,
    suffix: &str,
    keep: &dyn Fn(&str) -> bool,
) -> Result<(), ImageError> {
    let fail = |err| ImageError::io("clean up", dir, err);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let wanted = name.to_str().and_then(|name| name.strip_suffix(suffix)).is_some_and(keep);
        if wanted {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => {
                tracing::debug!(path = %entry.path().display(), "removed what nothing refers to")
            }
            // Another sweep was quicker.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(fail(err)),
        }
    }
    Ok(())
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}
