//! Saved machines: snapshots on the disk, and what others begin from.
//!
//! ```text
//!   take:  VM stands still ─▶ memory, devices, disk caught ─▶ it runs on
//!            └─▶ .ID.new: parts, manifest, all on the disk ─▶ ID ─▶ its record: it is there
//!   hold:  manifest ─▶ every part looked through ─▶ memory sealed ─▶ Held ─▶ machines begin from it
//!   fork:  VM stands still ─▶ caught ─▶ Held, of which nothing but the disk touches a disk
//! ```
//!
//! What begins from a saved machine is a VM like any other, whose spec says from
//! what: whoever holds it, a fork, a snapshot that was read or a template, is
//! found by its id. A [`Held`] goes with the last of them that has not begun yet.

mod asleep;
mod hold;
mod manifest;
mod part;
mod take;
mod travel;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use inn_domain::VmSpec;
use inn_store::{Store, StoreError, spec_from_text};
use inn_units::{Bytes, Digest, SnapshotId, SnapshotName, VmName};

pub(crate) use asleep::{keep, kept_run, take_away, take_up};
pub(crate) use hold::{Held, HoldError, Scratch, load};
pub(crate) use manifest::{FILE as MANIFEST, Manifest};
pub(crate) use take::{TakeError, held_of, make, new_id, take, write};
pub(crate) use travel::{ImportError, export, import};

use crate::error::Chain;

/// What the disk of one is called.
pub(crate) const DISK: &str = manifest::PartKind::Disk.file();
/// And that of its disk at /persist.
pub(crate) const PERSIST: &str = manifest::PartKind::Persist.file();

/// All that are there, and all that are held.
#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    inner: Mutex<Inner>,
    /// One is read and looked through at a time: each wants the disk.
    loading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: BTreeMap<SnapshotId, Arc<Kept>>,
    /// Names of those that are being made.
    reserved: HashSet<SnapshotName>,
    held: HashMap<SnapshotId, Weak<Held>>,
}

/// A snapshot on the disk.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) manifest: Manifest,
    /// Of the VM that it was taken of, as it was then.
    pub(crate) spec: VmSpec,
    pub(crate) directory: PathBuf,
}

impl Kept {
    /// What it takes on the disk.
    pub(crate) fn bytes(&self) -> Bytes {
        self.manifest.stored()
    }
}

/// A name that nobody else gets while this is held.
pub(crate) struct ReservedName<'a> {
    snapshots: &'a Snapshots,
    name: SnapshotName,
}

impl Drop for ReservedName<'_> {
    fn drop(&mut self) {
        self.snapshots.lock().reserved.remove(&self.name);
    }
}

impl Snapshots {
    /// Those that are stored; what else lies in their directory is nobody's,
    /// and goes.
    pub(crate) async fn open(store: &Store, directory: PathBuf) -> Result<Self, StoreError> {
        let mut kept = BTreeMap::new();
        for record in store.snapshots().await? {
            let directory = directory.join(record.id.to_string());
            let read = Manifest::read(record.manifest.as_bytes())
                .map_err(|why| why.to_string())
                .and_then(|manifest| {
                    let spec = spec_from_text(&manifest.spec.to_string());
                    Ok((spec.map_err(|error| Chain(&error).to_string())?, manifest))
                });
            match read {
                Ok((spec, manifest)) => {
                    kept.insert(record.id, Arc::new(Kept { manifest, spec, directory }));
                }
                Err(why) => {
                    tracing::error!(snapshot = %record.name, why, "a snapshot cannot be read");
                }
            }
        }
        let known: HashSet<SnapshotId> = store.snapshots().await?.iter().map(|r| r.id).collect();
        let swept = directory.clone();
        // It fails by a panic alone, which the log has.
        let _ = tokio::task::spawn_blocking(move || sweep(&swept, &known)).await;
        let inner = Inner { kept, ..Inner::default() };
        Ok(Self { directory, inner: Mutex::new(inner), loading: tokio::sync::Mutex::default() })
    }

    /// In the order of their making.
    pub(crate) fn all(&self) -> Vec<Arc<Kept>> {
        let mut all: Vec<_> = self.lock().kept.values().cloned().collect();
        all.sort_by_key(|kept| (kept.manifest.created_at, kept.manifest.id));
        all
    }

    /// By name or by id. A name could be another's id: the name counts.
    pub(crate) fn find(&self, name_or_id: &str) -> Option<Arc<Kept>> {
        let inner = self.lock();
        let by_name = inner.kept.values().find(|kept| kept.manifest.name.as_str() == name_or_id);
        by_name.or_else(|| inner.kept.get(&name_or_id.parse::<SnapshotId>().ok()?)).cloned()
    }

    /// What all of them take of the disk.
    pub(crate) fn bytes(&self) -> Bytes {
        let all = self.lock();
        Bytes(all.kept.values().fold(0, |sum, kept| sum.saturating_add(kept.bytes().get())))
    }

    /// Of those that were taken of VMs of this image.
    pub(crate) fn of_image(&self, digest: &Digest) -> Vec<SnapshotName> {
        let inner = self.lock();
        let of = |kept: &&Arc<Kept>| kept.spec.image().is_some_and(|pin| pin.digest == *digest);
        inner.kept.values().filter(of).map(|kept| kept.manifest.name.clone()).collect()
    }

    pub(crate) fn images_in_use(&self) -> Vec<Digest> {
        let inner = self.lock();
        inner.kept.values().filter_map(|kept| Some(kept.spec.image()?.digest)).collect()
    }

    fn reserve(&self, name: &SnapshotName) -> Option<ReservedName<'_>> {
        let mut inner = self.lock();
        let taken = inner.kept.values().any(|kept| kept.manifest.name == *name);
        let free = !taken && inner.reserved.insert(name.clone());
        free.then(|| ReservedName { snapshots: self, name: name.clone() })
    }

    fn enter(&self, kept: Kept) {
        self.lock().kept.insert(kept.manifest.id, Arc::new(kept));
    }

    /// Its record first: what then lies there is nobody's. Machines that have
    /// begun from it have their own of all that they need.
    pub(crate) async fn delete(&self, store: &Store, kept: &Kept) -> Result<(), StoreError> {
        let id = kept.manifest.id;
        store.forget_snapshot(id).await?;
        self.lock().kept.remove(&id);
        inn_fail_point::fail_point(inn_fail_point::Point::SnapshotForgotten);
        let directory = kept.directory.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%id, %error, "a deleted snapshot's files stay until the next start");
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one insertion or removal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks.
fn sweep(directory: &Path, known: &HashSet<SnapshotId>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.parse::<SnapshotId>().ok());
        if id.is_none_or(|id| !known.contains(&id)) {
            tracing::warn!(path = %entry.path().display(), "an unfinished snapshot goes");
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::error!(path = %entry.path().display(), %error, "it stays");
            }
        }
    }
}

/// Names for so many VMs, of which none is `taken`: `web-1`, `web-2`, ….
pub(crate) fn names(
    prefix: &str,
    count: u32,
    taken: impl Fn(&VmName) -> bool,
) -> Result<Vec<VmName>, inn_units::ParseError> {
    let mut names = Vec::new();
    let mut number: u32 = 0;
    while names.len() < usize::try_from(count).unwrap_or(usize::MAX) {
        number = number.saturating_add(1);
        let name: VmName = format!("{prefix}-{number}").parse()?;
        if !taken(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_numbered_around_those_there_are() {
        let made = names("web", 3, |name| name.as_str() == "web-2").unwrap();
        let made: Vec<&str> = made.iter().map(VmName::as_str).collect();
        assert_eq!(made, ["web-1", "web-3", "web-4"]);
        assert!(names(&"x".repeat(62), 1, |_| false).is_err());
    }
}
