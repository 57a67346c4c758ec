use std::sync::atomic::{AtomicU64, Ordering};

use inn_units::{Bytes, Digest};

use crate::error::ImageError;

/// What an import is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImportStep {
    /// Decompressing an archive that came compressed as a whole.
    Decompressing,
    /// Blobs come from a registry, are verified and unpacked meanwhile.
    Downloading,
    /// Blobs are copied from where they lie, verified and unpacked meanwhile.
    Verifying,
    /// Applying layers to the root disk.
    Unpacking,
    /// Completing the root disk and bringing it to stable storage.
    Finishing,
}

/// How far a step is. `total` is zero where it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    pub step: ImportStep,
    pub done: Bytes,
    pub total: Bytes,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    pub digest: Digest,
    /// Compressed, as the manifest says.
    pub size: Bytes,
    /// How much of it is here.
    pub arrived: Bytes,
    /// How much of it has gone onto the disk.
    pub unpacked: Bytes,
    pub state: LayerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerState {
    Waiting,
    Arriving,
    /// Here and verified, and its turn to be unpacked has not come.
    Arrived,
    Unpacking,
    Done,
    /// It was here before, unpacked in another image.
    Shared,
}

/// Follows an import and may end it. Asked a few dozen times a second.
pub trait ImportWatch: Sync {
    fn progress(&self, progress: ImportProgress);

    /// How far each layer is, the lowest first, once they are known.
    fn layers(&self, _layers: &[LayerProgress]) {}

    /// Once true, the import ends with [`ImageError::Cancelled`] and leaves
    /// nothing.
    fn cancelled(&self) -> bool;
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl ImportWatch for Unwatched {
    fn progress(&self, _progress: ImportProgress) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// Adds up one step's bytes for the watch, before the layers are known.
pub(crate) struct Tally<'a> {
    watch: &'a dyn ImportWatch,
    done: AtomicU64,
    total: u64,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(watch: &'a dyn ImportWatch, total: u64) -> Self {
        Self { watch, done: AtomicU64::new(0), total }
    }

    pub(crate) fn add(&self, step: ImportStep, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.watch.progress(ImportProgress { step, done: Bytes(done), total: Bytes(self.total) });
    }

    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.watch.cancelled() { Err(ImageError::Cancelled) } else { Ok(()) }
    }
}
