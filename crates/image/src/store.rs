//! The image cache.
//!
//! ```text
//!   <root>/blobs/sha256/<hex>    manifests, configurations, layers as they came
//!          disks/<manifest>.img  one bootable root disk for each image
//!          journals/<manifest>   what its layers did, for disks that begin alike
//!          partial/<hex>         layers of pulls that were cut off
//!          records/<hash>.json   name → manifest, configuration, disk
//!          scratch/<bytes>.img   empty writable disks
//!          agents/<hash>         data directories of those who have VMs of it
//!          tmp/…                 what is being made; reaped at the next start
//!
//!   import:  Package ─choose┐
//!   pull:    a registry's ──┴▶ claim ─▶ join or begin the work (`jobs`, `build`) ─▶ record
//!                                └ the disk is there already ─────────────────────┘
//! ```
//!
//! Everything is made in `tmp/` and `partial/` and renamed when it is complete, so an import
//! that fails, is cancelled or dies leaves nothing that could be taken for an
//! image. A root disk's name is its manifest's digest: it never changes, and
//! all VMs of the image share it read-only.

mod collect;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use inn_fail_point::{Point, fail_point};
use inn_units::{Bytes, Digest, ImageName, nearest};

use crate::blob::{BlobStore, sweep};
use crate::build::Places;
use crate::cache::disk_name;
use crate::course::Course;
use crate::error::ImageError;
use crate::export::ExportedImage;
use crate::fetch::LayerSource;
use crate::jobs::{Claim, Claims, Job};
use crate::layer::Limits;
use crate::record::{ImageRecord, Records, StoredRecord};
use crate::scratch::Scratch;
use crate::source::{Chosen, Package, PackageLayers, Wanted};
use crate::watch::{ImportWatch, Tally};
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

/// An image whose documents a registry has given, and where its layers are.
#[derive(Debug)]
pub struct PullRequest {
    pub name: ImageName,
    /// What messages call it: the reference that was asked for.
    pub what: String,
    /// The manifest for this host, as it came; its digest is the image's.
    pub manifest: Vec<u8>,
    /// The configuration that the manifest names.
    pub config: Vec<u8>,
    pub source: Arc<dyn LayerSource>,
}

/// The image cache under one directory. All calls block. Clones share it.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

/// A file that is nobody's yet: see [`ImageStore::aside`].
#[derive(Debug)]
pub struct Aside(tempfile::NamedTempFile);

impl Aside {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Opened once more.
    pub fn open(&self) -> Result<fs::File, ImageError> {
        self.0.reopen().map_err(|err| ImageError::io("open", self.path(), err))
    }
}

#[derive(Debug)]
struct Inner {
    disks: PathBuf,
    journals: PathBuf,
    blobs: BlobStore,
    records: Records,
    scratch: Scratch,
    workspace: Workspace,
    claims: Claims,
    /// This agent's file in `agents/`, once it has one.
    own_mark: OnceLock<PathBuf>,
    limits: Limits,
}

impl ImageStore {
    /// Makes the directories and removes what imports that died have left.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        Self::with_limits(root, Limits::default())
    }

    pub(crate) fn with_limits(root: &Path, limits: Limits) -> Result<Self, ImageError> {
        let disks = root.join("disks");
        let journals = root.join("journals");
        for dir in [&disks, &journals] {
            fs::create_dir_all(dir).map_err(|err| ImageError::io("create", dir, err))?;
        }
        let inner = Inner {
            disks,
            journals,
            blobs: BlobStore::open(root)?,
            records: Records::open(root)?,
            scratch: Scratch::open(root)?,
            workspace: Workspace::open(root)?,
            claims: Claims::default(),
            own_mark: OnceLock::new(),
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

    /// The same for an image of a registry. What came stays for a while when
    /// it breaks off, and the next pull goes on with it.
    pub fn pull(
        &self,
        request: PullRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        self.inner.pull(request, watch)
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

    /// The image as it came, to be written as an OCI layout.
    pub fn export(&self, name_or_digest: &str) -> Result<ExportedImage, ImageError> {
        let record = self.inner.find(name_or_digest)?.ok_or_else(|| ImageError::NotFound {
            what: format!("the image {name_or_digest}"),
            hint: "`inn image list` shows those that are here".into(),
        })?;
        ExportedImage::open(record.name.as_str(), &record.manifest, self.inner.blobs.dir())
    }

    pub(crate) fn blobs_dir(&self) -> &Path {
        self.inner.blobs.dir()
    }

    /// Where this process makes what has no name yet.
    pub(crate) fn tmp_dir(&self) -> &Path {
        self.inner.workspace.path()
    }

    /// An empty file of the cache's own, which goes when this does, or with the
    /// agent that has died.
    pub fn aside(&self) -> Result<Aside, ImageError> {
        let tmp = self.tmp_dir();
        let made = tempfile::NamedTempFile::new_in(tmp);
        made.map(Aside).map_err(|err| ImageError::io("make a file in", tmp, err))
    }

    pub(crate) fn obtain(
        &self,
        name: &ImageName,
        chosen: Chosen,
        source: Arc<dyn LayerSource>,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        self.inner.obtain(name, chosen, source, watch)
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
    fn places(&self) -> Places<'_> {
        Places {
            blobs: &self.blobs,
            disks: &self.disks,
            journals: &self.journals,
            tmp: self.workspace.path(),
            limits: self.limits,
        }
    }

    fn import(
        self: &Arc<Self>,
        request: &ImportRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let tmp = self.workspace.path();
        let unpacked = Tally::new(watch, 0);
        let package = Package::open(&request.path, tmp, self.limits.bytes.get(), &unpacked)?;
        let wanted =
            Wanted { reference: request.reference.as_deref(), digest: request.digest.as_ref() };
        let chosen = package.choose(wanted, &unpacked)?;
        let source = PackageLayers { package, layers: chosen.layers.clone() };
        self.obtain(&request.name, chosen, Arc::new(source), watch)
    }

    fn pull(
        self: &Arc<Self>,
        request: PullRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let chosen = Chosen::of_documents(&request.what, request.manifest, request.config)?;
        self.obtain(&request.name, chosen, request.source, watch)
    }

    /// Sees to it that the image's disk is there, and gives it the name.
    fn obtain(
        self: &Arc<Self>,
        name: &ImageName,
        chosen: Chosen,
        source: Arc<dyn LayerSource>,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let mut blobs = vec![chosen.manifest_digest, chosen.config_digest];
        blobs.extend(chosen.layers.iter().map(|layer| layer.digest));
        let claim = self.claims.claim(chosen.manifest_digest, &blobs);
        fail_point(Point::ImportClaimed);
        let chosen = Arc::new(chosen);
        let recorded = self.work(&claim, &chosen, &source, watch).and_then(|()| {
            if watch.cancelled() {
                return Err(ImageError::Cancelled);
            }
            self.record(name, &chosen, blobs)
        });
        if recorded.is_err() {
            self.undo(claim);
        }
        recorded
    }

    /// Joins the work that makes the disk, or begins it; nothing where there
    /// is one.
    fn work(
        self: &Arc<Self>,
        claim: &Claim<'_>,
        chosen: &Arc<Chosen>,
        source: &Arc<dyn LayerSource>,
        watch: &dyn ImportWatch,
    ) -> Result<(), ImageError> {
        loop {
            if watch.cancelled() {
                return Err(ImageError::Cancelled);
            }
            let mut failed = None;
            let job = claim.join(|| {
                if self.disk(&chosen.manifest_digest).exists() {
                    return None;
                }
                self.begin(chosen, source).map_err(|error| failed = Some(error)).ok()
            });
            let Some(job) = job else { return failed.map_or(Ok(()), Err) };
            if let Some(outcome) = job.wait(watch) {
                return outcome;
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        chosen: &Arc<Chosen>,
        source: &Arc<dyn LayerSource>,
    ) -> Result<Arc<Job>, ImageError> {
        let layers = chosen.layers.iter().map(|layer| (layer.digest, layer.size));
        let course = Course::new(layers, source.is_remote());
        let job = Arc::new(Job::new(course, Arc::clone(source)));
        let (inner, chosen, work) = (Arc::clone(self), Arc::clone(chosen), Arc::clone(&job));
        let body = move || {
            let making = || inner.make(&chosen, &work);
            // Those who wait must hear of a panic, too.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(making))
                .unwrap_or_else(|_| {
                    let panicked = io::Error::other("the thread that made it panicked");
                    Err(ImageError::io("make a disk in", &inner.disks, panicked))
                });
            Claim::over(&inner.claims, chosen.manifest_digest, &work, outcome);
        };
        let spawned = std::thread::Builder::new().name("image".into()).spawn(body);
        spawned.map_err(|err| ImageError::io("start a thread for", &self.disks, err))?;
        Ok(job)
    }

    /// Makes the disk; once more where a layer was wrong and may be right
    /// elsewhere. What was verified is not fetched again.
    fn make(&self, chosen: &Chosen, work: &Job) -> Result<(), ImageError> {
        loop {
            let made = self.places().make(chosen, &*work.source, &work.course);
            let Err(ImageError::DigestMismatch { expected, .. }) = &made else { return made };
            let wrong = chosen.layers.iter().position(|layer| layer.digest == *expected);
            match wrong {
                Some(layer) if !work.course.is_cancelled() && work.source.elsewhere(layer) => {
                    tracing::info!(layer = %expected, "it was wrong, the next place is asked");
                    work.course.begin_again();
                }
                _ => return made,
            }
        }
    }

    fn record(
        &self,
        name: &ImageName,
        chosen: &Chosen,
        blobs: Vec<Digest>,
    ) -> Result<ImageRecord, ImageError> {
        let root_disk = self.disk(&chosen.manifest_digest);
        let documents = (chosen.manifest.len() + chosen.config.len()) as u64;
        let metadata = fs::metadata(&root_disk);
        let disk_bytes = metadata.map_err(|err| ImageError::io("read", &root_disk, err))?.len();
        let record = ImageRecord {
            name: name.clone(),
            manifest: chosen.manifest_digest,
            blob_bytes: Bytes(chosen.layer_bytes().saturating_add(documents)),
            config: chosen.run.clone(),
            architecture: chosen.architecture.clone(),
            root_disk,
            disk_bytes: Bytes(disk_bytes),
            created_unix: now_unix(),
        };
        self.records.put(&StoredRecord::new(&record, blobs), self.workspace.path())?;
        Ok(record)
    }

    /// Removes what a failed import has brought in, unless somebody else wants
    /// it. The import's own error is the one to report; what cannot be removed
    /// now is swept later.
    fn undo(&self, claim: Claim<'_>) {
        let root_disk = self.disk(&claim.manifest);
        let removed = self.records.all().and_then(|records| {
            let held = self.claims.lock();
            let others = held.get(&claim.manifest).is_some_and(|held| held.users > 1);
            if others || records.iter().any(|record| record.manifest == claim.manifest) {
                return Ok(());
            }
            match fs::remove_file(&root_disk) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    Err(ImageError::io("remove", &root_disk, err))
                }
                _ => Ok(()),
            }
        });
        drop(claim);
        if let Err(error) = removed.and_then(|()| self.sweep(None)) {
            tracing::warn!(%error, "a failed import could not be cleaned up at once");
        }
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
        self.disks.join(disk_name(manifest))
    }

    /// Removes all blobs and disks but those of records, of imports in
    /// progress and of `in_use`; only blobs without `in_use`.
    fn sweep(&self, in_use: Option<&[Digest]>) -> Result<(), ImageError> {
        let claims = self.claims.lock();
        let records = self.records.all()?;
        let named = records.iter().map(|record| (record.manifest, record.blobs.as_slice()));
        let claimed = claims.iter().map(|(manifest, held)| (*manifest, held.blobs.as_slice()));
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
        // Without its disk a journal says nothing.
        sweep(&self.journals, "", &|hex| self.disks.join(format!("{hex}.img")).exists())?;
        self.blobs.sweep(&|hex| blobs.contains(hex))
    }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
