//! Brings layers into the cache, a few at a time, each verified on its way.
//!
//! ```text
//!   in the blob store ─verify─────────────────────────────▶ here
//!   else: partial/<hex> or a file of our own ─▶ hash what is there, if any
//!           ─▶ copy and hash the rest ─▶ size and digest hold ─▶ here
//! ```
//! Each layer is one thread's; `BlobStore::fetch` sees to it that two images
//! with the same layer fetch it once.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inn_fail_point::{Point, fail_point};
use inn_units::{Bytes, Digest};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::arrival::{Arrival, Place};
use crate::blob::{BlobStore, CHUNK};
use crate::course::Course;
use crate::error::{ImageError, free_bytes};
use crate::source::{Chosen, Layer};

/// Where an image's layers come from.
pub trait LayerSource: fmt::Debug + Send + Sync {
    /// The bytes of a layer, counted from 0, the lowest first, as they are
    /// stored, from an offset on. Reading blocks; an error that is no
    /// `ImageError` becomes [`ImageError::Remote`].
    fn open(&self, layer: usize, from: u64) -> Result<Box<dyn Read + Send>, ImageError>;

    /// Whether it is worth keeping what came when it breaks off.
    fn is_remote(&self) -> bool;

    /// What came of a layer was not what its digest says: whether there is
    /// another place to have it from, which reads from now on ask.
    fn elsewhere(&self, layer: usize) -> bool {
        let _ = layer;
        false
    }

    /// Ends reads that wait: the image is not wanted any more, or has failed.
    fn stop(&self) {}
}

/// Layers that are fetched at once: more would wait for the one thread that
/// unpacks, and registries frown on many connections.
const AT_ONCE: usize = 3;

/// One image's layers, on their way.
#[derive(Debug)]
pub(crate) struct Fetching<'a> {
    pub(crate) blobs: &'a BlobStore,
    pub(crate) source: &'a dyn LayerSource,
    pub(crate) layers: &'a [Layer],
    pub(crate) arrivals: &'a [Arrival],
    pub(crate) course: &'a Course,
    /// Layers from here on will be read; those below only have to be here.
    pub(crate) read_from: usize,
    pub(crate) tmp: &'a Path,
    next: AtomicUsize,
}

impl<'a> Fetching<'a> {
    pub(crate) fn new(
        blobs: &'a BlobStore,
        source: &'a dyn LayerSource,
        (layers, arrivals): (&'a [Layer], &'a [Arrival]),
        (course, read_from): (&'a Course, usize),
        tmp: &'a Path,
    ) -> Self {
        let next = AtomicUsize::new(0);
        Self { blobs, source, layers, arrivals, course, read_from, tmp, next }
    }

    pub(crate) fn threads(&self) -> usize {
        AT_ONCE.min(self.layers.len())
    }

    /// One thread's part. Those that will be read come first, in the order in
    /// which they are unpacked.
    pub(crate) fn run(&self) {
        let order = (self.read_from..self.layers.len()).chain(0..self.read_from);
        let order: Vec<usize> = order.collect();
        while let Some(&layer) = order.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            match self.layer(layer) {
                Ok(()) => self.course.is_here(layer),
                Err(error) => {
                    self.arrivals[layer].fail(error);
                    // The image cannot be made: nobody need go on.
                    self.course.halt();
                    self.source.stop();
                    return;
                }
            }
        }
    }

    fn layer(&self, number: usize) -> Result<(), ImageError> {
        let layer = &self.layers[number];
        // The same blob again: what came the first time serves both.
        if let Some(first) = self.layers[..number].iter().position(|l| l.digest == layer.digest)
            && first >= self.read_from
        {
            self.arrivals[first].wait(self.course)?;
        }
        let _alone = self.blobs.fetch(layer.digest, self.course)?;
        let here = if number < self.read_from {
            self.blobs.sized(&layer.digest, layer.size)?
        } else {
            self.blobs.verified(&layer.digest, layer.size, self.course)?
        };
        if let Some(file) = here {
            self.arrivals[number].verified(Arc::new(file), layer.size, Place::Blob);
            return Ok(());
        }
        let partial = match self.source.is_remote() {
            true => self.blobs.partial(&layer.digest)?,
            false => None,
        };
        let (file, place) = match partial {
            Some((file, path)) => (file, Place::Partial(path)),
            None => {
                let fail = |err| ImageError::io("store a blob in", self.tmp, err);
                let file = tempfile::NamedTempFile::new_in(self.tmp).map_err(fail)?;
                let (file, path) = file.into_parts();
                (file, Place::Own(path))
            }
        };
        let file = Arc::new(file);
        match self.copy(number, &file) {
            Ok(()) => {
                fail_point(Point::BlobCopied);
                // Another image may read it from now on.
                let unlocked = flock(&*file, FlockOperation::Unlock);
                unlocked.map_err(|err| ImageError::io("unlock a blob in", self.tmp, err.into()))?;
                self.arrivals[number].verified(file, layer.size, place);
                Ok(())
            }
            Err(error) => {
                // What is wrong itself is not gone on with.
                if let (
                    Place::Partial(path),
                    ImageError::DigestMismatch { .. } | ImageError::Invalid { .. },
                ) = (&place, &error)
                {
                    let _ = std::fs::remove_file(path);
                }
                Err(error)
            }
        }
    }

    fn copy(&self, number: usize, file: &Arc<File>) -> Result<(), ImageError> {
        let layer = &self.layers[number];
        let fail = |err| ImageError::io("store a blob in", self.blobs.dir(), err);
        let had = file.metadata().map_err(fail)?.len();
        if had > 0 && had <= layer.size {
            match self.go_on(number, file, had) {
                // What was there was not what had come: once more, from nothing.
                Err(ImageError::DigestMismatch { .. }) => {
                    tracing::info!(layer = %layer.digest, "the interrupted download was damaged");
                }
                other => return other,
            }
        }
        file.set_len(0).map_err(fail)?;
        self.go_on(number, file, 0)
    }

    /// Hashes what is there and copies the rest. Nobody reads along what may
    /// have to be thrown away.
    fn go_on(&self, number: usize, file: &Arc<File>, had: u64) -> Result<(), ImageError> {
        let (layer, arrival) = (&self.layers[number], &self.arrivals[number]);
        let fail = |err| ImageError::io("store a blob in", self.blobs.dir(), err);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut at = 0u64;
        while at < had {
            self.course.check()?;
            let want = chunk.len().min(usize::try_from(had - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut chunk[..want], at).map_err(fail)?;
            hash.update(&chunk[..want]);
            at += want as u64;
            self.course.arrived(number, at);
        }
        let mut out: &File = file;
        out.seek(SeekFrom::Start(at)).map_err(fail)?;
        if at < layer.size {
            if had == 0 {
                arrival.begin(Arc::clone(file));
            }
            let mut from = self.source.open(number, at)?;
            while at <= layer.size {
                self.course.check()?;
                let n = match from.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                    Err(err) => return Err(self.broken(number, err)),
                };
                at += n as u64;
                if at > layer.size {
                    break;
                }
                hash.update(&chunk[..n]);
                out.write_all(&chunk[..n]).map_err(fail)?;
                fail_point(Point::BlobPart);
                self.course.arrived(number, at);
                if had == 0 {
                    arrival.grew(at);
                }
            }
        }
        let size = layer.size;
        if at < size {
            let why = format!("ends after {at} of {size} bytes; it is truncated, get it again");
            return Err(ImageError::invalid(what(number), why));
        }
        if at > size {
            let why = format!("is longer than the {size} bytes that its manifest says");
            return Err(ImageError::invalid(what(number), why));
        }
        let got = Digest::from_sha256(hash.finalize().into());
        if got != layer.digest {
            let expected = layer.digest;
            return Err(ImageError::DigestMismatch { what: what(number), expected, got });
        }
        Ok(())
    }

    fn broken(&self, number: usize, error: io::Error) -> ImageError {
        match error.downcast::<ImageError>() {
            Ok(ours) => ours,
            Err(error) => ImageError::Remote { what: what(number), source: Box::new(error) },
        }
    }
}

fn what(number: usize) -> String {
    format!("layer {} of the image", number + 1)
}

/// Whether what is still to come, and at least as much again on the disk that
/// is made of it, fits.
pub(crate) fn check_space(
    blobs: &BlobStore,
    chosen: &Chosen,
    (read_from, copied): (usize, u64),
) -> Result<(), ImageError> {
    let Some(free) = free_bytes(blobs.dir()) else { return Ok(()) };
    let mut needed = copied;
    for (number, layer) in chosen.layers.iter().enumerate() {
        if blobs.sized(&layer.digest, layer.size)?.is_none() {
            let had = blobs.partial_bytes(&layer.digest);
            needed = needed.saturating_add(layer.size.saturating_sub(had));
        }
        if number >= read_from {
            needed = needed.saturating_add(layer.size);
        }
    }
    if needed > free.get() {
        let path = blobs.dir().to_owned();
        return Err(ImageError::DiskFull { path, needed: Some(Bytes(needed)), free: Some(free) });
    }
    Ok(())
}
