//! Takes a snapshot: all of it is on the disk before anybody hears of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_domain::VmSpec;
use inn_fail_point::{Point, fail_point};
use inn_store::{SnapshotRecord, StoreError, spec_to_text};
use inn_units::{SnapshotId, SnapshotName};
use inn_vmm::KernelBoot;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::hold::{Held, Scratch};
use super::manifest::{FILE, Manifest, Part, PartKind};
use super::{Kept, part};
use crate::node::Node;
use crate::reconcile::sync_parent;
use crate::vm::{Capture, CaptureError, VmHandle};

#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("the snapshot name {0} is in use; choose another one, or delete that snapshot")]
    NameInUse(SnapshotName),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("the snapshot cannot be written")]
    Write(#[source] io::Error),
    #[error("the snapshot cannot be kept")]
    Store(#[from] StoreError),
    #[error("there is no randomness to name it with: {0}")]
    NoRandomness(getrandom::Error),
}

/// Takes a snapshot of a VM that runs or is paused, which goes on as before. One
/// that is given up leaves nothing.
pub(crate) async fn take(
    node: &Arc<Node>,
    vm: &VmHandle,
    name: &SnapshotName,
    given_up: CancellationToken,
) -> Result<SnapshotId, TakeError> {
    let snapshots = &node.snapshots;
    let _reserved = snapshots.reserve(name).ok_or_else(|| TakeError::NameInUse(name.clone()))?;
    let id = new_id()?;
    let unfinished = Scratch(snapshots.directory.join(format!(".{id}.new")));
    make(&unfinished.0).map_err(TakeError::Write)?;
    let capture = vm.capture(unfinished.0.clone()).await?;
    fail_point(Point::SnapshotCaught);
    let spec = vm.spec_now();
    let text = spec_to_text(&spec)?;
    let manifest = Manifest {
        format: Manifest::format(),
        id,
        name: name.clone(),
        created_at: Timestamp::now(),
        written_by: env!("CARGO_PKG_VERSION").to_owned(),
        vm: spec.name.clone(),
        vm_id: vm.id(),
        made_by: capture.made_by.clone(),
        spec: serde_json::from_str(&text).map_err(|e| TakeError::Write(e.into()))?,
        cmdline: capture.boot.as_ref().map(|boot| boot.cmdline.clone()).unwrap_or_default(),
        between_frames: capture.between_frames,
        parts: Vec::new(),
        root_disk: None,
        template: None,
    };
    let directory = snapshots.directory.join(id.to_string());
    let (from, to) = (unfinished.0.clone(), directory.clone());
    let written =
        tokio::task::spawn_blocking(move || write(manifest, &capture, (&from, &to), &given_up));
    let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let (manifest, text) = written.map_err(TakeError::Write)?;
    // It has its name: it goes unless its record is stored.
    let unrecorded = Scratch(directory.clone());
    let created_at = manifest.created_at;
    let record = SnapshotRecord { id, name: name.clone(), manifest: text, created_at };
    node.store.insert_snapshot(record).await?;
    std::mem::forget(unrecorded);
    fail_point(Point::SnapshotRecorded);
    tracing::info!(snapshot = %name, %id, vm = %spec.name, "taken");
    snapshots.enter(Kept { manifest, spec, directory });
    Ok(id)
}

/// The same in memory alone, but for the disk: for forks, which begin at once.
pub(crate) async fn held_of(
    node: &Arc<Node>,
    vm: &VmHandle,
) -> Result<(Arc<Held>, VmSpec), TakeError> {
    let snapshots = &node.snapshots;
    let id = new_id()?;
    let scratch = Scratch(snapshots.directory.join(format!(".{id}.fork")));
    make(&scratch.0).map_err(TakeError::Write)?;
    let Capture { saved, made_by, boot, between_frames } = vm.capture(scratch.0.clone()).await?;
    fail_point(Point::ForkCaught);
    let spec = vm.spec_now();
    let disk = scratch.0.join(PartKind::Disk.file());
    let persist = spec.persist.then(|| scratch.0.join(PartKind::Persist.file()));
    let held =
        Held { id, saved, made_by, disk, persist, boot, between_frames, _scratch: Some(scratch) };
    Ok((snapshots.hold_on(held), spec))
}

pub(crate) fn new_id() -> Result<SnapshotId, TakeError> {
    let mut bytes = [0; SnapshotId::BYTES];
    getrandom::fill(&mut bytes).map_err(TakeError::NoRandomness)?;
    Ok(SnapshotId::from_bytes(bytes))
}

pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Writes all parts to `from`, which gets its name once they are on the disk.
/// Blocks.
pub(crate) fn write(
    mut manifest: Manifest,
    capture: &Capture,
    (from, to): (&Path, &Path),
    given_up: &CancellationToken,
) -> io::Result<(Manifest, String)> {
    let at = |kind: PartKind| from.join(kind.file());
    let Capture { saved, boot, .. } = capture;
    let mut parts: Vec<Part> = Vec::new();
    if let Some(memory) = &saved.memory {
        parts.push(part::write(memory, &at(PartKind::Memory), PartKind::Memory, given_up)?);
    }
    parts.push(part::write(&saved.state, &at(PartKind::State), PartKind::State, given_up)?);
    for kind in [PartKind::Disk, PartKind::Persist] {
        let disk = at(kind);
        // Few have the second.
        if kind == PartKind::Disk || disk.exists() {
            fs::set_permissions(&disk, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            parts.push(part::take_in(&disk, kind, given_up)?);
        }
    }
    if let Some(KernelBoot { kernel, initramfs, .. }) = boot {
        let files = [(PartKind::Kernel, Some(kernel)), (PartKind::Initramfs, initramfs.as_ref())];
        for (kind, file) in files {
            if let Some(file) = file {
                link(file, &at(kind))?;
                parts.push(part::take_in(&at(kind), kind, given_up)?);
            }
        }
    }
    manifest.parts = parts;
    let text = serde_json::to_string_pretty(&manifest)?;
    let path: PathBuf = from.join(FILE);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open(from)?.sync_all()?;
    fail_point(Point::SnapshotWritten);
    part::wanted(given_up)?;
    fs::rename(from, to)?;
    sync_parent(to)?;
    fail_point(Point::SnapshotNamed);
    Ok((manifest, text))
}

/// A snapshot keeps what it needs to go on, whatever becomes of the cache: by
/// a second name where that is on the same disk.
fn link(file: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(file, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(file, to).map(drop),
    }
}
