//! The image cache.
//!
//! ```text
//!   <root>/blobs/sha256/<hex>    manifests, configurations, layers as they came
//!          disks/<manifest>.img  one bootable root disk for each image
//!          records/<hash>.json   name → manifest, configuration, disk
//!          scratch/<bytes>.img   empty writable disks
//!          tmp/…                 what is being made; reaped at the next start
//!
//!   import:  Package ─choose→ claim ─→ blobs ─→ layers → ext4 ─sync, rename→ disk ─→ record
//!                                └ the disk is there already ─────────────────────────┘
//! ```
//!
//! Everything is made in `tmp/` and renamed when it is complete, so an import
//! that fails, is cancelled or dies leaves nothing that could be taken for an
//! image. A root disk's name is its manifest's digest: it never changes, and
//! all VMs of the image share it read-only.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use inn_fail_point::{Point, fail_point};
use inn_units::{Bytes, Digest, ImageName, nearest};

use crate::blob::{BlobStore, sweep};
use crate::claims::{Claim, Claims};
use crate::error::ImageError;
use crate::ext4::{Ext4Builder, Ext4Error, Identity};
use crate::layer::{Budget, LayerBlob, Limits, unpack};
use crate::record::{ImageRecord, Records, StoredRecord};
use crate::scratch::Scratch;
use crate::source::{Chosen, Package, Wanted};
use crate::watch::{ImportStep, ImportWatch, Tally};
use crate::workspace::Workspace;

/// Fewer hex digits of a digest name nothing.
const MIN_PREFIX: usize = 6;

/// What to import, and under which name.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// An OCI layout directory, or a tar (plain, gzip or zstd) of an OCI
    /// layout or of `docker save`.
    pub path: PathBuf,
    pub name: ImageName,
    /// Which image of several.
    pub reference: Option<String>,
    /// Refuses the image unless its manifest has this digest; for a
    /// `docker save`, its configuration's digest (Docker's image id) will do.
    pub digest: Option<Digest>,
}

/// The image cache under one directory. All calls block. Clones share it.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disks: PathBuf,
    blobs: BlobStore,
    records: Records,
    scratch: Scratch,
    workspace: Workspace,
    claims: Claims,
    limits: Limits,
}

impl ImageStore {
    /// Makes the directories and removes what imports that died have left.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        Self::with_limits(root, Limits::default())
    }

    pub(crate) fn with_limits(root: &Path, limits: Limits) -> Result<Self, ImageError> {
        let disks = root.join("disks");
        fs::create_dir_all(&disks).map_err(|err| ImageError::io("create", &disks, err))?;
        let inner = Inner {
            disks,
            blobs: BlobStore::open(root)?,
            records: Records::open(root)?,
            scratch: Scratch::open(root)?,
            workspace: Workspace::open(root)?,
            claims: Claims::default(),
            limits,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings an image in and makes its root disk; quick when it is here
    /// already. An image that had the name before loses it.
    pub fn import(
        &self,
        request: &ImportRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        self.inner.import(request, watch)
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<ImageRecord>, ImageError> {
        let records = self.inner.records.all()?;
        Ok(records.into_iter().map(|record| self.inner.complete(record)).collect())
    }

    /// By name (`:latest` is implied), by full digest, or by a prefix of at
    /// least six hex digits that only one image has.
    pub fn find(&self, name_or_digest: &str) -> Result<Option<ImageRecord>, ImageError> {
        let Some(record) = self.inner.find(name_or_digest)? else { return Ok(None) };
        let record = self.inner.complete(record);
        if !record.root_disk.exists() {
            return Err(ImageError::NotFound {
                what: format!(
                    "the root disk {} of the image {}",
                    record.root_disk.display(),
                    record.name
                ),
                hint: "import the image again".into(),
            });
        }
        Ok(Some(record))
    }

    /// Takes the name away, and then all blobs and disks that no name leads
    /// to any more. Disks of `in_use`, the manifests that VMs run from, stay;
    /// a later call with fewer of them removes those, too.
    pub fn delete(&self, name: &ImageName, in_use: &[Digest]) -> Result<(), ImageError> {
        if !self.inner.records.remove(name.as_str())? {
            let all = self.inner.records.all()?;
            let like = nearest(name.as_str(), all.iter().map(|record| record.name.as_str()));
            let hint = match like {
                Some(like) => format!("did you mean {like}?"),
                None => "`inn image list` shows those that are here".into(),
            };
            return Err(ImageError::NotFound { what: format!("the image {name}"), hint });
        }
        fail_point(Point::ImageUnnamed);
        self.inner.sweep(Some(in_use))
    }

    /// Removes blobs and disks that neither a name nor `in_use`, the manifests
    /// that VMs run from, leads to: what a crash left behind. Another process
    /// that uses the cache may be importing them, and then all of it stays.
    pub fn sweep_after_crash(&self, in_use: &[Digest]) -> Result<(), ImageError> {
        if !self.inner.workspace.is_alone()? {
            return Ok(());
        }
        self.inner.sweep(Some(in_use))
    }

    /// Makes a sparse, empty ext4 disk for one VM, of `size` rounded up to
    /// whole MiB and at least 16 MiB; replaces what stood at `path`.
    pub fn make_scratch_disk(&self, path: &Path, size: Bytes) -> Result<(), ImageError> {
        self.inner.scratch.make(path, size, self.inner.workspace.path())
    }
}

impl Inner {
    fn import(
        &self,
        request: &ImportRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let tmp = self.workspace.path();
        let unpacked = Tally::new(watch, 0);
        let package = Package::open(&request.path, tmp, self.limits.bytes.get(), &unpacked)?;
        let wanted =
            Wanted { reference: request.reference.as_deref(), digest: request.digest.as_ref() };
        let chosen = package.choose(wanted, &unpacked)?;
        let mut blobs = vec![chosen.manifest_digest, chosen.config_digest];
        blobs.extend(chosen.layers.iter().map(|layer| layer.digest));

        let claim = self.claims.claim(chosen.manifest_digest, &blobs, watch)?;
        fail_point(Point::ImportClaimed);
        let root_disk = self.disk(&chosen.manifest_digest);
        let new = !root_disk.exists();
        let made = if new { self.make(&package, &chosen, &root_disk, watch) } else { Ok(()) };
        let recorded = made.and_then(|()| self.record(&request.name, chosen, &root_disk, blobs));
        if recorded.is_err() && new {
            self.undo(claim, &root_disk);
        }
        recorded
    }

    fn make(
        &self,
        package: &Package,
        chosen: &Chosen,
        root_disk: &Path,
        watch: &dyn ImportWatch,
    ) -> Result<(), ImageError> {
        self.take_in(package, chosen, watch)?;
        fail_point(Point::ImportBlobs);
        self.build(chosen, root_disk, watch)
    }

    fn record(
        &self,
        name: &ImageName,
        chosen: Chosen,
        root_disk: &Path,
        blobs: Vec<Digest>,
    ) -> Result<ImageRecord, ImageError> {
        let documents = (chosen.manifest.len() + chosen.config.len()) as u64;
        let metadata = fs::metadata(root_disk);
        let disk_bytes = metadata.map_err(|err| ImageError::io("read", root_disk, err))?.len();
        let record = ImageRecord {
            name: name.clone(),
            manifest: chosen.manifest_digest,
            blob_bytes: Bytes(chosen.layer_bytes().saturating_add(documents)),
            config: chosen.run,
            architecture: chosen.architecture,
            root_disk: root_disk.to_owned(),
            disk_bytes: Bytes(disk_bytes),
            created_unix: now_unix(),
        };
        self.records.put(&StoredRecord::new(&record, blobs), self.workspace.path())?;
        Ok(record)
    }

    /// Removes what a failed import has brought in. The import's own error is
    /// the one to report; what cannot be removed now is swept later.
    fn undo(&self, claim: Claim<'_>, root_disk: &Path) {
        let removed = match fs::remove_file(root_disk) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io("remove", root_disk, err))
            }
            _ => Ok(()),
        };
        drop(claim);
        if let Err(error) = removed.and_then(|()| self.sweep(None)) {
            tracing::warn!(%error, "a failed import could not be cleaned up at once");
        }
    }

    /// Copies what is not here yet into the blob store, verifying all of it.
    fn take_in(
        &self,
        package: &Package,
        chosen: &Chosen,
        watch: &dyn ImportWatch,
    ) -> Result<(), ImageError> {
        let tmp = self.workspace.path();
        let tally = Tally::new(watch, chosen.layer_bytes());
        let documents = [
            ("the manifest", &chosen.manifest, chosen.manifest_digest),
            ("the configuration", &chosen.config, chosen.config_digest),
        ];
        for (what, bytes, digest) in documents {
            let size = bytes.len() as u64;
            self.blobs.put(what, (&digest, size), &mut bytes.as_slice(), tmp, &tally)?;
        }
        for (number, layer) in (1u32..).zip(&chosen.layers) {
            if self.blobs.verify(&layer.digest, layer.size, &tally)? {
                continue;
            }
            let what = format!("layer {number} of the image");
            let mut part = package.layer(layer)?;
            self.blobs.put(&what, (&layer.digest, layer.size), &mut part, tmp, &tally)?;
        }
        Ok(())
    }

    /// Makes the root disk from verified blobs.
    fn build(
        &self,
        chosen: &Chosen,
        root_disk: &Path,
        watch: &dyn ImportWatch,
    ) -> Result<(), ImageError> {
        let tmp = self.workspace.path();
        let fail = |err| ImageError::io("write", root_disk, err);
        let disk = tempfile::NamedTempFile::new_in(tmp).map_err(fail)?;
        let file = disk.reopen().map_err(fail)?;
        let mut builder = Ext4Builder::new(file, self.limits.bytes.get()).map_err(fail)?;
        let mut budget = Budget {
            entries: self.limits.entries,
            bytes: self.limits.bytes.get(),
            metadata: self.limits.metadata.get(),
        };
        let tally = Tally::new(watch, chosen.layer_bytes());
        for (number, layer) in (1u32..).zip(&chosen.layers) {
            let path = self.blobs.path(&layer.digest);
            let blob = LayerBlob {
                path: &path,
                digest: layer.digest,
                diff_id: layer.diff_id,
                number,
                disk: root_disk,
            };
            unpack(&mut builder, &blob, &mut budget, &tally)?;
        }
        tally.check()?;
        let last = Tally::new(watch, 0);
        last.add(ImportStep::Finishing, 0);
        let bytes =
            builder.finish(&identity(&chosen.manifest_digest)).map_err(|err| match err {
                Ext4Error::Io(err) => fail(err),
                other => {
                    ImageError::invalid("the image", format!("cannot become a root disk: {other}"))
                }
            })?;
        last.add(ImportStep::Finishing, bytes);
        last.check()?;
        fail_point(Point::ImportDiskBuilt);
        disk.persist(root_disk).map_err(|err| fail(err.error))?;
        fail_point(Point::ImportDiskNamed);
        // The new name, too, has to survive a crash of the host.
        File::open(&self.disks).and_then(|dir| dir.sync_all()).map_err(fail)
    }

    fn find(&self, name_or_digest: &str) -> Result<Option<StoredRecord>, ImageError> {
        if name_or_digest.parse::<ImageName>().is_ok()
            && let Some(record) = self.records.get(name_or_digest)?
        {
            return Ok(Some(record));
        }
        let hex = name_or_digest.strip_prefix("sha256:").unwrap_or(name_or_digest);
        let is_hex = hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() < MIN_PREFIX || !is_hex {
            return Ok(None);
        }
        let mut found: Option<StoredRecord> = None;
        for record in self.records.all()? {
            if !record.manifest.hex().starts_with(hex) {
                continue;
            }
            match &found {
                Some(other) if other.manifest != record.manifest => {
                    let why =
                        format!("could be {} or {}; give more digits", other.name, record.name);
                    return Err(ImageError::invalid(format!("the digest {name_or_digest}"), why));
                }
                Some(_) => {}
                None => found = Some(record),
            }
        }
        Ok(found)
    }

    fn complete(&self, record: StoredRecord) -> ImageRecord {
        let disk = self.disk(&record.manifest);
        record.into_record(disk)
    }

    fn disk(&self, manifest: &Digest) -> PathBuf {
        self.disks.join(format!("{}.img", manifest.hex()))
    }

    /// Removes all blobs and disks but those of records, of imports in
    /// progress and of `in_use`; only blobs without `in_use`.
    fn sweep(&self, in_use: Option<&[Digest]>) -> Result<(), ImageError> {
        let claims = self.claims.lock();
        let records = self.records.all()?;
        let named = records.iter().map(|record| (record.manifest, record.blobs.as_slice()));
        let claimed = claims.iter().map(|(manifest, blobs)| (*manifest, blobs.as_slice()));
        let (mut disks, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        for (manifest, of_it) in named.chain(claimed) {
            disks.insert(manifest.hex());
            blobs.extend(of_it.iter().map(Digest::hex));
        }
        if let Some(in_use) = in_use {
            disks.extend(in_use.iter().map(Digest::hex));
            sweep(&self.disks, ".img", &|hex| disks.contains(hex))?;
            fail_point(Point::ImageDiskSwept);
        }
        self.blobs.sweep(&|hex| blobs.contains(hex))
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

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
