//! Blobs by digest: `blobs/sha256/<hex>`.
//!
//! A blob is copied into a temporary file and hashed in the same pass, so
//! what was verified is what is kept, whatever happens to its source; it gets
//! its name only after that. Blobs are not synced to the disk: one that a
//! crash damaged is found by the hash that precedes every use, and copied
//! anew.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_units::{Bytes, Digest};
use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, free_bytes};
use crate::watch::{ImportStep, Tally};

const CHUNK: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("blobs/sha256");
        fs::create_dir_all(&dir).map_err(|err| ImageError::io("create", &dir, err))?;
        Ok(Self { dir })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Whether the blob is here and is what its name says.
    pub(crate) fn verify(
        &self,
        digest: &Digest,
        size: u64,
        tally: &Tally<'_>,
    ) -> Result<bool, ImageError> {
        let path = self.path(digest);
        let fail = |err| ImageError::io("read", &path, err);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(fail(err)),
        };
        if file.metadata().map_err(fail)?.len() != size {
            return Ok(false);
        }
        let (_, got) = copy(&mut file, &mut io::sink(), u64::MAX, tally).map_err(fail)?;
        Ok(got == *digest)
    }

    /// Takes a blob in. `what` names it in messages; `tmp` is on the same
    /// file system. `from` may be longer or shorter than `size`: both are
    /// refused.
    pub(crate) fn put(
        &self,
        what: &str,
        (digest, size): (&Digest, u64),
        from: &mut dyn Read,
        tmp: &Path,
        tally: &Tally<'_>,
    ) -> Result<(), ImageError> {
        if let Some(free) = free_bytes(&self.dir)
            && size > free.get()
        {
            let needed = Some(Bytes(size));
            return Err(ImageError::DiskFull { path: self.dir.clone(), needed, free: Some(free) });
        }
        let fail = |err| ImageError::io("store a blob in", &self.dir, err);
        let mut file = tempfile::NamedTempFile::new_in(tmp).map_err(fail)?;
        let (copied, got) = copy(from, file.as_file_mut(), size, tally).map_err(fail)?;
        if copied < size {
            let why = format!("ends after {copied} of {size} bytes; it is truncated, get it again");
            return Err(ImageError::invalid(what, why));
        }
        if copied > size {
            let why = format!("is longer than the {size} bytes that its manifest says");
            return Err(ImageError::invalid(what, why));
        }
        if got != *digest {
            return Err(ImageError::DigestMismatch {
                what: what.to_owned(),
                expected: *digest,
                got,
            });
        }
        fail_point(Point::BlobCopied);
        file.persist(self.path(digest)).map_err(|err| fail(err.error))?;
        Ok(())
    }

    /// Removes every blob that `keep` does not want.
    pub(crate) fn sweep(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), ImageError> {
        sweep(&self.dir, "", keep)
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

/// Copies and hashes; stops once more than `limit` bytes came.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    limit: u64,
    tally: &Tally<'_>,
) -> io::Result<(u64, Digest)> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut total = 0u64;
    while total <= limit {
        tally.check().map_err(io::Error::other)?;
        let n = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        };
        hash.update(&chunk[..n]);
        to.write_all(&chunk[..n])?;
        total += n as u64;
        tally.add(ImportStep::Verifying, n as u64);
    }
    Ok((total, Digest::from_sha256(hash.finalize().into())))
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}
