use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_units::{Bytes, SnapshotId};
use inn_vmm::{Fingerprint, KernelBoot, Saved};

use super::Snapshots;
use super::manifest::{Manifest, PartKind};
use super::part::{self, PartError};

/// A saved machine in memory, and its disk, which is copied for each that
/// begins from it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: SnapshotId,
    pub(crate) saved: Saved,
    pub(crate) made_by: Fingerprint,
    pub(crate) disk: PathBuf,
    /// What it had at /persist, copied likewise.
    pub(crate) persist: Option<PathBuf>,
    /// `None` where no kernel is booted directly.
    pub(crate) boot: Option<KernelBoot>,
    /// As of a [`Capture`](crate::vm::Capture).
    pub(crate) between_frames: bool,
    /// Of one that is on no disk for long.
    pub(crate) _scratch: Option<Scratch>,
}

impl Held {
    /// What its memory takes of the host's.
    pub(crate) fn resident(&self) -> Bytes {
        use std::os::unix::fs::MetadataExt;
        let files = [self.saved.memory.as_ref(), Some(&self.saved.state)];
        let blocks =
            files.into_iter().flatten().filter_map(|file| Some(file.metadata().ok()?.blocks()));
        Bytes(blocks.fold(0, |sum, blocks| sum.saturating_add(blocks.saturating_mul(512))))
    }
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may have got its name, or never have been made.
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "it stays until the next start");
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error(
        "what it was to begin from is gone: a fork is held in memory, and ends with the agent or \
         with its last VM; a snapshot can be deleted"
    )]
    Gone,
    #[error("the snapshot {name} is not what was saved")]
    Part { name: String, source: PartError },
    #[error("reading the snapshot ended early")]
    Panicked(#[source] tokio::task::JoinError),
}

impl Snapshots {
    /// A saved machine that is in memory, or is read for it and looked through.
    pub(crate) async fn hold(&self, id: SnapshotId) -> Result<Arc<Held>, HoldError> {
        if let Some(held) = self.held(id) {
            return Ok(held);
        }
        let _one = self.loading.lock().await;
        if let Some(held) = self.held(id) {
            return Ok(held);
        }
        let kept = self.lock().kept.get(&id).cloned().ok_or(HoldError::Gone)?;
        let loaded =
            tokio::task::spawn_blocking(move || load(&kept.manifest, &kept.directory)).await;
        let held = loaded.map_err(HoldError::Panicked)??;
        Ok(self.hold_on(held))
    }

    /// Whoever asks for its id gets it, as long as somebody has it.
    pub(crate) fn hold_on(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        let mut inner = self.lock();
        inner.held.retain(|_, held| held.strong_count() > 0);
        inner.held.insert(held.id, Arc::downgrade(&held));
        held
    }

    fn held(&self, id: SnapshotId) -> Option<Arc<Held>> {
        self.lock().held.get(&id)?.upgrade()
    }
}

/// Blocks. Nothing of it reaches a VMM before all of it is as it should be.
pub(crate) fn load(manifest: &Manifest, directory: &Path) -> Result<Held, HoldError> {
    let damaged = |source: PartError| HoldError::Part { name: manifest.name.to_string(), source };
    let (mut memory, mut state, mut kernel, mut initramfs) = (None, None, None, None);
    for part in &manifest.parts {
        let path = directory.join(part.kind.file());
        match part.kind {
            PartKind::Memory => {
                memory = Some(Arc::new(part::load(directory, part).map_err(damaged)?));
            }
            PartKind::State => {
                state = Some(Arc::new(part::load(directory, part).map_err(damaged)?));
            }
            PartKind::Kernel => kernel = Some(path),
            PartKind::Initramfs => initramfs = Some(path),
            PartKind::Disk | PartKind::Persist => {}
        }
        if !matches!(part.kind, PartKind::Memory | PartKind::State) {
            part::check(directory, part).map_err(damaged)?;
        }
    }
    let missing = |kind| damaged(PartError::Missing(kind));
    manifest.part(PartKind::Disk).ok_or_else(|| missing(PartKind::Disk))?;
    let state = state.ok_or_else(|| missing(PartKind::State))?;
    Ok(Held {
        id: manifest.id,
        saved: Saved { memory, state },
        made_by: manifest.made_by.clone(),
        disk: directory.join(PartKind::Disk.file()),
        persist: manifest.part(PartKind::Persist).map(|_| directory.join(PartKind::Persist.file())),
        boot: kernel.map(|kernel| KernelBoot {
            kernel,
            initramfs,
            cmdline: manifest.cmdline.clone(),
        }),
        between_frames: manifest.between_frames,
        _scratch: None,
    })
}
