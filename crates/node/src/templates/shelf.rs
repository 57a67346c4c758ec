//! Templates on the disk: each a directory like a snapshot's, whose manifest
//! has the key of what it is of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use inn_domain::Moment;
use inn_image::cache::{CacheEntry, CacheKind, CacheUse, Inventory};
use inn_store::spec_from_text;
use inn_units::{Bytes, SnapshotId};

use super::key::TemplateKey;
use super::{Known, Ready, State, Templates, nobodys};
use crate::snapshots::{self, Held, HoldError, Manifest};

impl Templates {
    /// Those that lie there; what else does is nobody's, and goes. Blocks.
    pub(crate) fn open(directory: PathBuf) -> Self {
        let mut inner = BTreeMap::new();
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match read(&path) {
                Some((key, known)) => {
                    inner.insert(key, known);
                }
                None => remove(&path),
            }
        }
        Self {
            directory,
            inner: Mutex::new(inner),
            desk: Arc::default(),
            doomed: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn directory_of(&self, id: SnapshotId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    pub(super) fn unfinished(&self, id: SnapshotId) -> PathBuf {
        self.directory.join(format!(".{id}.new"))
    }

    /// What they take of the disk. Those in memory are in use. Blocks.
    pub(crate) fn inventory(&self) -> Inventory {
        let mut found = Inventory::default();
        for known in self.lock().values() {
            let Some(ready) = known.ready() else { continue };
            let parts = fs::read_dir(&ready.directory).into_iter().flatten().flatten();
            let parts: Vec<PathBuf> = parts.map(|entry| entry.path()).collect();
            let manifest = ready.directory.join(snapshots::MANIFEST);
            let uses = if ready.held.is_some() { vec![CacheUse::Template] } else { Vec::new() };
            found.sizes.extend(parts.iter().map(|part| (part.clone(), allocated(part))));
            found.entries.push(CacheEntry {
                kind: CacheKind::Template,
                id: ready.id.to_string(),
                name: format!(
                    "{}, {} vCPU, {}",
                    known.spec.source_name(),
                    known.spec.vcpus,
                    known.spec.memory
                ),
                parts,
                last_used: modified_unix(&manifest),
                uses,
            });
        }
        found
    }

    /// Whether it is gone: not while somebody begins from it. Blocks.
    pub(crate) fn evict(&self, id: &str) -> bool {
        let mut inner = self.lock();
        let key = inner.iter().find_map(|(key, known)| {
            let ready = known.ready()?;
            (ready.id.to_string() == id && ready.held.is_none()).then_some(*key)
        });
        let Some(known) = key.and_then(|key| inner.remove(&key)) else { return false };
        drop(inner);
        if let State::Ready(ready) = &known.state {
            remove(&ready.directory);
        }
        true
    }
}

/// Its use is its manifest's time. Blocks.
pub(super) fn touch(ready: &Ready) {
    let manifest = ready.directory.join(snapshots::MANIFEST);
    let touched = fs::File::options().append(true).open(manifest);
    let touched = touched.and_then(|file| file.set_modified(std::time::SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(template = %ready.id, %error, "its use is not noted");
    }
}

/// Blocks.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a template's files stay");
    }
}

/// Blocks.
pub(super) fn load(directory: &Path) -> Result<Held, HoldError> {
    let manifest = fs::read(directory.join(snapshots::MANIFEST))
        .ok()
        .and_then(|text| Manifest::read(&text).ok())
        .ok_or(HoldError::Gone)?;
    snapshots::load(&manifest, directory)
}

fn read(directory: &Path) -> Option<(TemplateKey, Known)> {
    let id: SnapshotId = directory.file_name()?.to_str()?.parse().ok()?;
    let text = fs::read(directory.join(snapshots::MANIFEST)).ok()?;
    let manifest = Manifest::read(&text).ok()?;
    let key = TemplateKey::of(manifest.template.as_ref()?)?;
    let spec = spec_from_text(&manifest.spec.to_string()).ok()?;
    let stored = manifest.stored();
    let made_at = manifest.created_at;
    let ready = Ready { id, made_at, directory: directory.to_owned(), stored, held: None };
    let known = Known { state: State::Ready(ready), ..Known::new(nobodys(&spec)) };
    Some((key, Known { last_used: Moment::default(), ..known }))
}

fn allocated(path: &Path) -> Bytes {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(Bytes(0), |metadata| Bytes(metadata.blocks().saturating_mul(512)))
}

fn modified_unix(path: &Path) -> u64 {
    let since = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    };
    fs::metadata(path).and_then(|metadata| metadata.modified()).map_or(0, since)
}
