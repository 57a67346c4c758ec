//! A snapshot on its way to another node, and from one.
//!
//! ```text
//!   "innkeeper-snapshot 1\n", the manifest's length (4 bytes), the manifest,
//!   then of each part, in the manifest's order: offset (8), length (4), bytes; … ; END, 0
//! ```
//! Numbers are little endian. What comes in is bounded by what the manifest
//! says, is looked through like any snapshot, and is nobody's before that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use inn_store::{SnapshotRecord, spec_from_text, spec_to_text};
use inn_units::{SnapshotId, SnapshotName};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::hold::Scratch;
use super::manifest::{FILE, Manifest, ManifestError, Part};
use super::part::{self, PartError, wanted};
use super::take::{TakeError, make, new_id};
use super::{Kept, ReservedName};
use crate::node::Node;
use crate::reconcile::sync_parent;

const MAGIC: &[u8] = b"innkeeper-snapshot 1\n";
/// After a part's last block.
const END: u64 = u64::MAX;
/// More than any manifest has.
const LONGEST_MANIFEST: u32 = 1 << 20;
/// A block of a part.
const LONGEST_BLOCK: u32 = 64 << 10;
/// What parts there may be: each kind once.
const MOST_PARTS: usize = 6;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("it is no snapshot of Innkeeper's; `inn snapshot export` writes one")]
    NoSnapshot,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("its manifest says what cannot be: {0}")]
    Nonsense(String),
    #[error("it is cut off or damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Part(#[from] PartError),
    #[error("it needs the image {name} ({digest}), which is not here; pull or import that first")]
    NoImage { name: String, digest: String },
    #[error(
        "the root disk that this node has made of the image {0} is another one; it cannot serve what was saved with that"
    )]
    OtherRoot(String),
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Take(#[from] TakeError),
}

/// Writes all of a snapshot. Blocks.
pub(crate) fn export(kept: &Kept, to: &mut impl Write) -> io::Result<()> {
    let mut manifest = kept.manifest.clone();
    if let Some(image) = kept.spec.image() {
        manifest.root_disk = Some(part::digest_of(&image.root_disk)?);
    }
    let text = serde_json::to_vec(&manifest)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_all(MAGIC)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)?;
    for part in &manifest.parts {
        let file = File::open(kept.directory.join(part.kind.file()))?;
        part::walk(&file, part.length.get(), |at, block| {
            let length = u32::try_from(block.len()).map_err(io::Error::other)?;
            to.write_all(&at.to_le_bytes())?;
            to.write_all(&length.to_le_bytes())?;
            to.write_all(block)
        })?;
        to.write_all(&END.to_le_bytes())?;
        to.write_all(&0u32.to_le_bytes())?;
    }
    to.flush()
}

/// Takes one in from a file of the node's, under a name of its own here. One that
/// is given up leaves nothing.
pub(crate) async fn import(
    node: &Arc<Node>,
    path: &Path,
    name: Option<SnapshotName>,
    given_up: CancellationToken,
) -> Result<SnapshotId, ImportError> {
    let snapshots = &node.snapshots;
    let id = new_id()?;
    let unfinished = Scratch(snapshots.directory.join(format!(".{id}.new")));
    let (from, to) = (path.to_owned(), unfinished.0.clone());
    let read = tokio::task::spawn_blocking(move || receive(&from, &to, &given_up)).await;
    let mut manifest = read.map_err(io::Error::other)??;
    let name = name.unwrap_or_else(|| manifest.name.clone());
    let _reserved: ReservedName<'_> =
        snapshots.reserve(&name).ok_or_else(|| TakeError::NameInUse(name.clone()))?;
    let nonsense = |why: String| ImportError::Nonsense(why);
    let mut spec =
        spec_from_text(&manifest.spec.to_string()).map_err(|error| nonsense(error.to_string()))?;
    if let inn_domain::VmSource::Disk(disk) = &mut spec.source {
        // It would name a file of this host's. What begins from the snapshot has its
        // disk from there.
        disk.path = std::path::PathBuf::new();
        disk.cached = false;
    }
    if let inn_domain::VmSource::Image(image) = &mut spec.source {
        let digest = image.digest.to_string();
        let found = node.images.list().await.map_err(io::Error::other)?;
        let found = found.into_iter().find(|record| record.manifest == image.digest);
        let found =
            found.ok_or_else(|| ImportError::NoImage { name: image.name.clone(), digest })?;
        let pin = crate::images::pin(&image.name, found);
        let root = pin.root_disk.clone();
        let here = tokio::task::spawn_blocking(move || part::digest_of(&root)).await;
        let here = here.map_err(io::Error::other)??;
        if manifest.root_disk.as_ref() != Some(&here) {
            return Err(ImportError::OtherRoot(image.name.clone()));
        }
        *image = pin;
    }
    manifest.id = id;
    manifest.name = name.clone();
    manifest.created_at = Timestamp::now();
    let text = spec_to_text(&spec).map_err(TakeError::Store)?;
    manifest.spec = serde_json::from_str(&text).map_err(io::Error::other)?;
    let text = serde_json::to_string_pretty(&manifest).map_err(io::Error::other)?;
    let directory = snapshots.directory.join(id.to_string());
    let (from, to, written) = (unfinished.0.clone(), directory.clone(), text.clone());
    let named = tokio::task::spawn_blocking(move || {
        let path = from.join(FILE);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(written.as_bytes())?;
        file.sync_all()?;
        File::open(&from)?.sync_all()?;
        std::fs::rename(&from, &to)?;
        sync_parent(&to)
    });
    named.await.map_err(io::Error::other)??;
    let unrecorded = Scratch(directory.clone());
    let created_at = manifest.created_at;
    let record = SnapshotRecord { id, name, manifest: text, created_at };
    node.store.insert_snapshot(record).await.map_err(TakeError::Store)?;
    std::mem::forget(unrecorded);
    snapshots.enter(Kept { manifest, spec, directory });
    Ok(id)
}

/// Blocks.
fn receive(from: &Path, to: &Path, given_up: &CancellationToken) -> Result<Manifest, ImportError> {
    let mut from = io::BufReader::with_capacity(1 << 20, File::open(from)?);
    let mut magic = [0; MAGIC.len()];
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ImportError::Damaged("it ends too early".to_owned()),
        _ => ImportError::Io(error),
    };
    from.read_exact(&mut magic).map_err(|_| ImportError::NoSnapshot)?;
    if magic != MAGIC {
        return Err(ImportError::NoSnapshot);
    }
    let length = number32(&mut from).map_err(cut)?;
    if length > LONGEST_MANIFEST {
        return Err(ImportError::Nonsense(format!("a manifest of {length} bytes")));
    }
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    from.read_exact(&mut text).map_err(cut)?;
    let manifest = Manifest::read(&text)?;
    let mut kinds: Vec<_> = manifest.parts.iter().map(|part| part.kind.file()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() != manifest.parts.len() || kinds.len() > MOST_PARTS {
        return Err(ImportError::Nonsense("a part comes twice".to_owned()));
    }
    make(to)?;
    for part in &manifest.parts {
        receive_part(&mut from, part, to, given_up).map_err(|error| match error {
            ImportError::Io(error) => cut(error),
            error => error,
        })?;
        part::check(to, part)?;
    }
    Ok(manifest)
}

fn receive_part(
    from: &mut impl Read,
    part: &Part,
    to: &Path,
    given_up: &CancellationToken,
) -> Result<(), ImportError> {
    let path = to.join(part.kind.file());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(part.length.get())?;
    let mut block = vec![0; usize::try_from(LONGEST_BLOCK).unwrap_or(0)];
    let mut next = 0;
    loop {
        wanted(given_up)?;
        let (at, length) = (number64(from)?, number32(from)?);
        if at == END {
            file.sync_all()?;
            return Ok(());
        }
        // Each block is beyond the one before it, so a part has its end.
        let end = at.checked_add(length.into()).filter(|end| *end <= part.length.get());
        let Some(end) = end.filter(|_| at >= next && (1..=LONGEST_BLOCK).contains(&length)) else {
            return Err(ImportError::Damaged(format!("its {} goes astray", part.kind)));
        };
        next = end;
        let block = &mut block[..usize::try_from(length).unwrap_or(0)];
        from.read_exact(block)?;
        file.write_all_at(block, at)?;
    }
}

fn number32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn number64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use inn_units::Bytes;

    use super::super::manifest::PartKind;
    use super::*;

    #[test]
    fn a_part_whose_blocks_do_not_go_on_is_refused() {
        let part = |kind| Part { kind, length: Bytes(64), stored: Bytes(8), sha256: String::new() };
        let block = |at: u64, bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap();
            [&at.to_le_bytes()[..], &length.to_le_bytes()[..], bytes].concat()
        };
        let end = block(END, &[]);
        let wrong = [
            ("empty", [block(0, &[]), end.clone()].concat()),
            ("again", [block(8, &[1; 8]), block(8, &[2; 8]), end.clone()].concat()),
            ("over another", [block(0, &[1; 8]), block(4, &[2; 8]), end.clone()].concat()),
            ("beyond its end", [block(60, &[1; 8]), end.clone()].concat()),
            ("at the end of all numbers", [block(END - 1, &[1; 8]), end.clone()].concat()),
        ];
        let never = CancellationToken::new();
        for (what, bytes) in wrong {
            let directory = tempfile::tempdir().unwrap();
            let (part, to) = (part(PartKind::Memory), directory.path());
            let received = receive_part(&mut &bytes[..], &part, to, &never);
            assert!(matches!(received, Err(ImportError::Damaged(_))), "{what}: {received:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        let good = [block(0, &[1; 8]), block(8, &[2; 8]), end].concat();
        let part = part(PartKind::Memory);
        receive_part(&mut &good[..], &part, directory.path(), &never).unwrap();
    }
}
