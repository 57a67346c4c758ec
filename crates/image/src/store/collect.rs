//! The image cache's share of what is kept and what goes: see [`crate::cache`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_units::Digest;

use super::{ImageStore, Inner};
use crate::blob::digest_of;
use crate::cache::{
    CacheEntry, CacheKind, CacheRemoval, CacheUse, Inventory, Known, Places, inventory, is_wanted,
    remove_file, remove_partial, renew, unlink, used_since,
};
use crate::error::ImageError;
use crate::jobs::Held;

/// What an agent's data directory is known by.
const STATE: &str = "state.db";

impl ImageStore {
    /// Notes that an image's root disk is used now. Whether it is there.
    pub fn renew(&self, manifest: &Digest) -> Result<bool, ImageError> {
        let disk = self.inner.disk(manifest);
        renew(&disk).map_err(|err| ImageError::io("note the use of", &disk, err))
    }

    /// Notes in the cache whose VMs it is for, so that another agent with the
    /// same cache removes nothing of theirs, also while this one is down.
    pub fn register(&self, data_dir: &Path) -> Result<(), ImageError> {
        let agents = self.inner.agents();
        let owner = data_dir.as_os_str().as_encoded_bytes();
        let mark = agents.join(digest_of(owner).hex());
        let fail = |err| ImageError::io("write", &mark, err);
        fs::create_dir_all(&agents).map_err(fail)?;
        // One that a crash has left half written names nobody, and is
        // completed here.
        if !fs::read(&mark).is_ok_and(|known| known == owner) {
            fs::write(&mark, owner).map_err(fail)?;
        }
        let _ = self.inner.own_mark.set(mark);
        Ok(())
    }

    /// All that the cache holds; `in_use` tells how many VMs run from an image.
    pub fn inventory(&self, in_use: &dyn Fn(&Digest) -> usize) -> Result<Inventory, ImageError> {
        let mut found = self.inner.inventory(&self.inner.claims.lock(), in_use)?;
        if !self.inner.workspace.is_alone()? || self.inner.has_others()? {
            // Its VMs are not ours to know.
            found.mark_all(CacheUse::OtherAgent);
        }
        Ok(found)
    }

    /// Removes one entry of an inventory, unless it has come into use since.
    pub fn remove(
        &self,
        entry: &CacheEntry,
        in_use: &dyn Fn(&Digest) -> usize,
    ) -> Result<CacheRemoval, ImageError> {
        match entry.kind {
            CacheKind::Image => self.inner.remove_image(entry, in_use),
            CacheKind::Leftover => self.inner.remove_leftovers(entry, in_use),
            CacheKind::Partial => self.inner.remove_partial(entry),
            _ => remove_file(entry),
        }
    }
}

impl Inner {
    fn agents(&self) -> PathBuf {
        self.disks.with_file_name("agents")
    }

    /// Whether VMs of another agent may run from this cache: one whose state is
    /// still there.
    fn has_others(&self) -> Result<bool, ImageError> {
        let agents = self.agents();
        let fail = |err| ImageError::io("look through", &agents, err);
        let entries = match fs::read_dir(&agents) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(fail(err)),
        };
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            if Some(&path) == self.own_mark.get() {
                continue;
            }
            let owner = fs::read(&path).map_err(fail)?;
            if Path::new(OsStr::from_bytes(&owner)).join(STATE).exists() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn inventory(
        &self,
        claims: &BTreeMap<Digest, Held>,
        in_use: &dyn Fn(&Digest) -> usize,
    ) -> Result<Inventory, ImageError> {
        let records = self.records.all()?;
        let places = Places {
            disks: &self.disks,
            journals: &self.journals,
            blobs: self.blobs.dir(),
            scratch: self.scratch.dir(),
            partial: self.blobs.partial_dir(),
        };
        let claimed =
            claims.iter().map(|(manifest, held)| (*manifest, held.blobs.clone())).collect();
        inventory(&places, &Known { records: &records, claimed, in_use })
    }

    /// The name first: then nobody finds it any more, and what a crash leaves
    /// of the rest belongs to no image.
    fn remove_image(
        &self,
        entry: &CacheEntry,
        in_use: &dyn Fn(&Digest) -> usize,
    ) -> Result<CacheRemoval, ImageError> {
        let claims = self.claims.lock();
        let (own, others): (Vec<_>, Vec<_>) =
            self.records.all()?.into_iter().partition(|record| record.manifest.hex() == entry.id);
        let Some(manifest) = manifest(entry) else { return Ok(CacheRemoval::UsedMeanwhile) };
        let disk = self.disk(&manifest);
        let blobs = own.iter().flat_map(|record| &record.blobs).collect();
        let claimed = claims.iter().map(|(of, held)| (of, held.blobs.as_slice()));
        if is_wanted(&manifest, &blobs, claimed)
            || in_use(&manifest) > 0
            || own.iter().any(|record| record.created_unix > entry.last_used)
            || used_since(&disk, entry.last_used)?
        {
            return Ok(CacheRemoval::UsedMeanwhile);
        }
        for record in &own {
            self.records.remove(record.name.as_str())?;
        }
        fail_point(Point::CollectUnnamed);
        // Somebody has found it just before: their VM keeps the disk, and it
        // goes with that.
        if !used_since(&disk, entry.last_used)? {
            unlink(&disk)?;
        }
        fail_point(Point::CollectDisk);
        let kept = others.iter().flat_map(|record| &record.blobs);
        let kept: BTreeSet<PathBuf> = kept
            .chain(claims.values().flat_map(|held| &held.blobs))
            .map(|blob| self.blobs.path(blob))
            .collect();
        let mut of_it = entry.parts.iter().filter(|part| **part != disk && !kept.contains(*part));
        of_it.try_for_each(|part| unlink(part))?;
        Ok(CacheRemoval::Removed)
    }

    /// What has arrived and is verified is not locked any more, until its image
    /// is whole.
    fn remove_partial(&self, entry: &CacheEntry) -> Result<CacheRemoval, ImageError> {
        let claims = self.claims.lock();
        if claims.values().flat_map(|held| &held.blobs).any(|blob| blob.hex() == entry.id) {
            return Ok(CacheRemoval::UsedMeanwhile);
        }
        remove_partial(entry)
    }

    fn remove_leftovers(
        &self,
        entry: &CacheEntry,
        in_use: &dyn Fn(&Digest) -> usize,
    ) -> Result<CacheRemoval, ImageError> {
        let claims = self.claims.lock();
        let now = self.inventory(&claims, in_use)?;
        let still = now.entries.into_iter().find(|found| found.kind == CacheKind::Leftover);
        let still = still.map(|found| found.parts).unwrap_or_default();
        for part in entry.parts.iter().filter(|part| still.contains(part)) {
            unlink(part)?;
        }
        Ok(CacheRemoval::Removed)
    }
}

fn manifest(entry: &CacheEntry) -> Option<Digest> {
    format!("sha256:{}", entry.id).parse().ok()
}
