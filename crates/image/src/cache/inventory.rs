//! What is in the image store's directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inn_units::{Bytes, Digest};
use rustix::fs::{AtFlags, CWD, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use super::{CacheEntry, CacheKind, CacheUse, Inventory};
use crate::error::ImageError;
use crate::record::StoredRecord;

/// What the store says besides its directories.
pub(crate) struct Known<'a> {
    pub(crate) records: &'a [StoredRecord],
    /// By imports, with their blobs.
    pub(crate) claimed: Vec<(Digest, Vec<Digest>)>,
    pub(crate) in_use: &'a dyn Fn(&Digest) -> usize,
}

pub(crate) struct Places<'a> {
    pub(crate) disks: &'a Path,
    /// One for a disk, of its name.
    pub(crate) journals: &'a Path,
    pub(crate) blobs: &'a Path,
    pub(crate) scratch: &'a Path,
    pub(crate) partial: &'a Path,
}

pub(crate) fn inventory(places: &Places<'_>, known: &Known<'_>) -> Result<Inventory, ImageError> {
    let (disks, mut blobs) = (files(places.disks)?, files(places.blobs)?);
    blobs.extend(files(places.journals)?);
    let mut found = Inventory::default();
    let mut of_images = BTreeSet::new();
    for (manifest, records) in images(known, disks.keys()) {
        let mut parts =
            vec![places.disks.join(disk_name(&manifest)), places.journals.join(manifest.hex())];
        let named = records.iter().flat_map(|record| &record.blobs);
        let claimed = known.claimed.iter().filter(|(of, _)| *of == manifest);
        let all = named.chain(claimed.flat_map(|(_, blobs)| blobs));
        let of_it: BTreeSet<&Digest> = all.collect();
        let wanted =
            is_wanted(&manifest, &of_it, known.claimed.iter().map(|(m, b)| (m, b.as_slice())));
        parts.extend(of_it.iter().map(|blob| places.blobs.join(blob.hex())));
        parts.retain(|part| found_in(&disks, &blobs, part).is_some());
        of_images.extend(parts.iter().cloned());
        let used = parts.first().and_then(|disk| found_in(&disks, &blobs, disk));
        let used = used.map_or(0, modified_unix);
        let imported = records.iter().map(|record| record.created_unix).max().unwrap_or(0);
        let mut uses = Vec::new();
        match (known.in_use)(&manifest) {
            0 => {}
            vms => uses.push(CacheUse::Vms(vms)),
        }
        if wanted {
            uses.push(CacheUse::Import);
        }
        let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
        found.entries.push(CacheEntry {
            kind: CacheKind::Image,
            id: manifest.hex(),
            name: if names.is_empty() { manifest.short() } else { names.join(", ") },
            parts,
            last_used: used.max(imported),
            uses,
        });
    }
    let everything = disks.iter().chain(&blobs);
    let left: Vec<_> = everything.clone().filter(|(path, _)| !of_images.contains(*path)).collect();
    if !left.is_empty() {
        let last_used = left.iter().map(|(_, metadata)| modified_unix(metadata)).max();
        found.entries.push(CacheEntry {
            kind: CacheKind::Leftover,
            id: "blobs".into(),
            name: "blobs and disks of no image".into(),
            parts: left.iter().map(|(path, _)| (*path).clone()).collect(),
            last_used: last_used.unwrap_or(0),
            uses: Vec::new(),
        });
    }
    found.sizes.extend(everything.map(|(path, metadata)| (path.clone(), allocated(metadata))));
    for (path, metadata) in files(places.scratch)? {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        // Not of our making.
        let Ok(size) = name.parse::<u64>() else { continue };
        found.sizes.insert(path.clone(), allocated(&metadata));
        found.entries.push(CacheEntry {
            kind: CacheKind::EmptyDisk,
            id: name.to_owned(),
            name: format!("empty disk of {}", Bytes(size)),
            parts: vec![path],
            last_used: modified_unix(&metadata),
            uses: Vec::new(),
        });
    }
    for (path, metadata) in files(places.partial)? {
        let Some(hex) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let claimed = known.claimed.iter().flat_map(|(_, blobs)| blobs);
        let busy = is_locked(&path) || claimed.map(Digest::hex).any(|blob| blob == hex);
        found.sizes.insert(path.clone(), allocated(&metadata));
        found.entries.push(partial(hex, &path, modified_unix(&metadata), busy));
    }
    Ok(found)
}

/// What a download has left, or what is being downloaded.
pub(crate) fn partial(id: &str, path: &Path, last_used: u64, busy: bool) -> CacheEntry {
    CacheEntry {
        kind: CacheKind::Partial,
        id: id.to_owned(),
        name: format!("download of {}", id.chars().take(12).collect::<String>()),
        parts: vec![path.to_owned()],
        last_used,
        uses: if busy { vec![CacheUse::Import] } else { Vec::new() },
    }
}

/// Whether somebody downloads to it right now.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Every image with its records: those that have a name, are being imported,
/// or are what a VM runs from, whose name is gone.
fn images<'a>(
    known: &Known<'a>,
    disks: impl Iterator<Item = &'a PathBuf>,
) -> BTreeMap<Digest, Vec<&'a StoredRecord>> {
    let mut images: BTreeMap<Digest, Vec<&StoredRecord>> = BTreeMap::new();
    for record in known.records {
        images.entry(record.manifest).or_default().push(record);
    }
    for (manifest, _) in &known.claimed {
        images.entry(*manifest).or_default();
    }
    let of_disks = disks.filter_map(|disk| {
        format!("sha256:{}", disk.file_stem()?.to_str()?).parse::<Digest>().ok()
    });
    for manifest in of_disks.filter(|manifest| (known.in_use)(manifest) > 0) {
        images.entry(manifest).or_default();
    }
    images
}

/// Whether an import brings this image in, or begins as a copy of it: with the
/// layers that they share.
pub(crate) fn is_wanted<'a>(
    manifest: &Digest,
    blobs: &BTreeSet<&Digest>,
    mut claimed: impl Iterator<Item = (&'a Digest, &'a [Digest])>,
) -> bool {
    claimed.any(|(of, theirs)| of == manifest || theirs.iter().any(|blob| blobs.contains(blob)))
}

fn found_in<'a>(
    disks: &'a BTreeMap<PathBuf, Metadata>,
    blobs: &'a BTreeMap<PathBuf, Metadata>,
    path: &Path,
) -> Option<&'a Metadata> {
    disks.get(path).or_else(|| blobs.get(path))
}

pub(crate) fn disk_name(manifest: &Digest) -> String {
    format!("{}.img", manifest.hex())
}

fn files(dir: &Path) -> Result<BTreeMap<PathBuf, Metadata>, ImageError> {
    let fail = |err| ImageError::io("look through", dir, err);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                files.insert(entry.path(), metadata);
            }
            Ok(_) => {}
            // Removed meanwhile.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(fail(err)),
        }
    }
    Ok(files)
}

/// stat(2): st_blocks counts 512 bytes, whatever the file system's are.
pub(crate) fn allocated(metadata: &Metadata) -> Bytes {
    Bytes(metadata.blocks().saturating_mul(512))
}

pub(crate) fn modified_unix(metadata: &Metadata) -> u64 {
    u64::try_from(metadata.mtime()).unwrap_or(0)
}

/// Notes that the file is used now. Whether it is there.
pub(crate) fn renew(path: &Path) -> io::Result<bool> {
    let stamp = |nsec| rustix::fs::Timespec { tv_sec: 0, tv_nsec: nsec };
    let times = Timestamps { last_access: stamp(UTIME_OMIT), last_modification: stamp(UTIME_NOW) };
    match utimensat(CWD, path, &times, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(errno) if errno == rustix::io::Errno::NOENT => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
