//! One image becoming a root disk: its layers arrive, are verified and
//! unpacked at the same time.
//!
//! ```text
//!   journals of other disks ─▶ the longest run of lowest layers in common
//!        │                          └▶ copied, its tree replayed
//!        ▼
//!   fetching threads ─files that grow─▶ unpack, in order ─▶ ext4 ─▶ sync
//!        └ digests ─────────────────────── all held? ──────┬──────────┘
//!                                                          ▼
//!                                        names: blobs, disk, journal
//! ```
//! Until the last step all of it is in `tmp/` and `partial/`: whatever fails
//! or dies leaves nothing that could be taken for an image.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_units::Digest;

use crate::arrival::Arrival;
use crate::blob::BlobStore;
use crate::course::Course;
use crate::error::ImageError;
use crate::ext4::{BLOCK, BlockCopy, Boundary, Ext4Builder, Ext4Error, Finished, Identity};
use crate::fetch::{Fetching, LayerSource, check_space};
use crate::layer::{
    Budget, JournalHead, JournalReader, JournalWriter, LayerBlob, Limits, Making, replay, unpack,
};
use crate::source::Chosen;

/// Where the parts of an image belong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    pub(crate) blobs: &'a BlobStore,
    pub(crate) disks: &'a Path,
    pub(crate) journals: &'a Path,
    pub(crate) tmp: &'a Path,
    pub(crate) limits: Limits,
}

/// A disk and its journal, complete and without names.
struct Made {
    disk: tempfile::NamedTempFile,
    journal: tempfile::NamedTempFile,
}

/// Another image's disk, which begins as this one does.
struct Donor {
    layers: usize,
    disk: PathBuf,
    journal: JournalReader,
}

impl Places<'_> {
    pub(crate) fn disk(&self, manifest: &Digest) -> PathBuf {
        self.disks.join(format!("{}.img", manifest.hex()))
    }

    /// Brings an image's blobs in and makes its disk.
    pub(crate) fn make(
        &self,
        chosen: &Chosen,
        source: &dyn LayerSource,
        course: &Course,
    ) -> Result<(), ImageError> {
        self.blobs.reap_partials()?;
        let donor = self.donor(chosen);
        let shared = donor.as_ref().map_or(0, |donor| donor.layers);
        let copied = donor.as_ref().and_then(|donor| fs::metadata(&donor.disk).ok());
        check_space(self.blobs, chosen, (shared, copied.map_or(0, |disk| disk.len())))?;
        (0..shared).for_each(|layer| course.shared(layer));

        let arrivals: Vec<Arrival> = chosen.layers.iter().map(|_| Arrival::default()).collect();
        let on_their_way = (chosen.layers.as_slice(), arrivals.as_slice());
        let fetching = Fetching::new(self.blobs, source, on_their_way, (course, shared), self.tmp);
        let made = std::thread::scope(|scope| {
            for _ in 0..fetching.threads() {
                scope.spawn(|| fetching.run());
            }
            let made = self.build(chosen, donor, &arrivals, course);
            if made.is_err() {
                course.halt();
                source.stop();
            }
            made
        })?;
        course.check()?;
        fail_point(Point::ImportDiskBuilt);
        self.name(chosen, &arrivals, made)
    }

    /// Makes the disk, and waits for all layers.
    fn build(
        &self,
        chosen: &Chosen,
        donor: Option<Donor>,
        arrivals: &[Arrival],
        course: &Course,
    ) -> Result<Made, ImageError> {
        let root_disk = self.disk(&chosen.manifest_digest);
        let fail = |err| ImageError::io("write", &root_disk, err);
        let disk = tempfile::NamedTempFile::new_in(self.tmp).map_err(fail)?;
        let journal = tempfile::NamedTempFile::new_in(self.tmp).map_err(fail)?;
        let file = disk.reopen().map_err(fail)?;
        let mut builder = Ext4Builder::new(file, self.limits.bytes.get()).map_err(fail)?;
        let mut writer = journal
            .reopen()
            .and_then(|file| JournalWriter::new(file, builder.first_block(), &chosen.diff_ids()))
            .map_err(fail)?;
        let mut budget = Budget {
            entries: self.limits.entries,
            bytes: self.limits.bytes.get(),
            metadata: self.limits.metadata.get(),
        };
        let mut making =
            Making { builder: &mut builder, budget: &mut budget, journal: &mut writer };
        let shared = donor.as_ref().map_or(0, |donor| donor.layers);
        let copy = donor.map(|donor| donor.begin(&mut making, &root_disk, course)).transpose()?;
        std::thread::scope(|scope| {
            let copying = copy.map(|copy| {
                let go_on = || course.check().map_err(io::Error::other);
                scope.spawn(move || copy.run(&go_on))
            });
            let unpacked = self.unpack(&mut making, chosen, arrivals, (shared, course));
            if unpacked.is_err() {
                course.halt();
            }
            let copied = copying.map_or(Ok(()), |copying| {
                copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            unpacked.and_then(|()| copied.map_err(fail))
        })?;
        arrivals.iter().try_for_each(|arrival| arrival.wait(course))?;
        fail_point(Point::ImportBlobs);
        course.check()?;
        course.finishing();
        let finished = self.finish(builder, chosen, &root_disk)?;
        writer.finish(finished.is_intact).map_err(fail)?;
        Ok(Made { disk, journal })
    }

    /// The layers from `shared` on, in order.
    fn unpack(
        &self,
        making: &mut Making<'_>,
        chosen: &Chosen,
        arrivals: &[Arrival],
        (shared, course): (usize, &Course),
    ) -> Result<(), ImageError> {
        let root_disk = self.disk(&chosen.manifest_digest);
        for (number, layer) in (1u32..).zip(&chosen.layers).skip(shared) {
            let arrival = &arrivals[number as usize - 1];
            let blob = LayerBlob {
                arrival,
                size: layer.size,
                digest: layer.digest,
                diff_id: layer.diff_id,
                number,
                disk: &root_disk,
            };
            unpack(making, &blob, course).map_err(|error| match error {
                ImageError::Invalid { .. } | ImageError::DigestMismatch { .. } => {
                    arrival.verdict(layer.size, course).unwrap_or(error)
                }
                // Another layer may have failed, and this one heard of it.
                ImageError::Cancelled => {
                    arrivals.iter().find_map(Arrival::failure).unwrap_or(error)
                }
                other => other,
            })?;
            course.done(number as usize - 1);
            fail_point(Point::LayerUnpacked);
            tracing::debug!(layer = number, "unpacked");
        }
        Ok(())
    }

    fn finish(
        &self,
        builder: Ext4Builder,
        chosen: &Chosen,
        root_disk: &Path,
    ) -> Result<Finished, ImageError> {
        builder.finish(&identity(&chosen.manifest_digest)).map_err(|err| match err {
            Ext4Error::Io(err) => ImageError::io("write", root_disk, err),
            other => {
                ImageError::invalid("the image", format!("cannot become a root disk: {other}"))
            }
        })
    }

    /// Gives everything its name, the disk last: where it is, all is.
    fn name(&self, chosen: &Chosen, arrivals: &[Arrival], made: Made) -> Result<(), ImageError> {
        for (layer, arrival) in chosen.layers.iter().zip(arrivals) {
            if let Some(place) = arrival.take_place() {
                self.blobs.keep(&layer.digest, place)?;
            }
        }
        self.blobs.put(&chosen.manifest_digest, &chosen.manifest, self.tmp)?;
        self.blobs.put(&chosen.config_digest, &chosen.config, self.tmp)?;
        fail_point(Point::ImportBlobsNamed);
        let journal = self.journals.join(chosen.manifest_digest.hex());
        made.journal
            .persist(&journal)
            .map_err(|err| ImageError::io("write", &journal, err.error))?;
        let root_disk = self.disk(&chosen.manifest_digest);
        let fail = |err| ImageError::io("write", &root_disk, err);
        made.disk.persist(&root_disk).map_err(|err| fail(err.error))?;
        fail_point(Point::ImportDiskNamed);
        // The new name, too, has to survive a crash of the host.
        File::open(self.disks).and_then(|dir| dir.sync_all()).map_err(fail)
    }

    /// The disk that has the most of the lowest layers in common. What cannot
    /// be read is passed over: the layers themselves are there.
    fn donor(&self, chosen: &Chosen) -> Option<Donor> {
        let wanted = chosen.diff_ids();
        let mut best: Option<(usize, PathBuf, JournalHead)> = None;
        for entry in fs::read_dir(self.journals).ok()?.flatten() {
            let name = entry.file_name();
            let disk = self.disks.join(format!("{}.img", name.to_string_lossy()));
            let Ok(Some(head)) = JournalHead::open(&entry.path()) else { continue };
            let shared = head.shared(&wanted);
            if shared > best.as_ref().map_or(0, |best| best.0) && disk.exists() {
                best = Some((shared, disk, head));
            }
        }
        let (layers, disk, head) = best?;
        if head.first_block != Ext4Builder::first_block_of(self.limits.bytes.get()) {
            return None;
        }
        match head.verified() {
            Ok(Some(journal)) => Some(Donor { layers, disk, journal }),
            other => {
                tracing::warn!(disk = %disk.display(), error = ?other.err(), "the journal is damaged");
                None
            }
        }
    }
}

impl Donor {
    /// Replays what the shared layers did; what is left is to copy their blocks.
    fn begin(
        mut self,
        making: &mut Making<'_>,
        root_disk: &Path,
        course: &Course,
    ) -> Result<BlockCopy, ImageError> {
        let fail = |err| ImageError::io("copy", &self.disk, err);
        let disk = File::open(&self.disk).map_err(fail)?;
        let boundary: Boundary =
            replay(making, &mut self.journal, self.layers, (root_disk, course))?;
        if disk.metadata().map_err(fail)?.len() < boundary.end * BLOCK {
            let why = "is shorter than its journal says; delete the image and get it again";
            return Err(ImageError::invalid(self.disk.display().to_string(), why));
        }
        tracing::debug!(from = %self.disk.display(), layers = self.layers, "copying");
        making.builder.resume(disk, &boundary).map_err(fail)
    }
}

/// A file system's names from the image's digest: the same image is the same
/// file system everywhere. RFC 9562, 5.8: version 8, variant 10.
fn identity(manifest: &Digest) -> Identity {
    let (uuid, seed) = manifest.as_bytes().split_at(16);
    let mut uuid: [u8; 16] = uuid.try_into().expect("half of 32 bytes");
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    Identity { uuid, hash_seed: seed.try_into().expect("half of 32 bytes"), label: "inn-root" }
}
