//! What an idle VM was saved as: its memory and devices, beside its own disks,
//! which it goes on with. It is never copied, named or listed, there is at most
//! one of a VM, and it is taken away before anything goes on from it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_fail_point::{Point, fail_point};
use inn_units::{Generation, SnapshotId};
use inn_vmm::{Fingerprint, Saved};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::hold::Held;
use super::manifest::{FILE, Part, PartKind};
use super::part::{self, PartError};
use super::take::make;
use crate::reconcile::sync_parent;
use crate::vm::Capture;

/// Another one is not read: its VM boots.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asleep {
    format: u32,
    /// Of the VM, that goes on.
    run: Generation,
    made_by: Fingerprint,
    #[serde(default)]
    between_frames: bool,
    parts: Vec<Part>,
}

/// While it is written, and while it is removed.
fn unfinished(directory: &Path) -> PathBuf {
    directory.with_extension("new")
}

/// Writes it down: once this returns it is on the disk, under its name. Nothing
/// stays of one that is given up. Blocks.
pub(crate) fn keep(
    capture: &Capture,
    run: Generation,
    directory: &Path,
    given_up: &CancellationToken,
) -> io::Result<()> {
    take_away(directory)?;
    let fresh = unfinished(directory);
    let at = |kind: PartKind| fresh.join(kind.file());
    let written = || {
        make(&fresh)?;
        let Capture { saved, made_by, between_frames, .. } = capture;
        let mut parts = Vec::new();
        let memory = saved.memory.iter().map(|memory| (PartKind::Memory, memory));
        for (kind, file) in memory.chain([(PartKind::State, &saved.state)]) {
            parts.push(part::write(file, &at(kind), kind, given_up)?);
        }
        let asleep = Asleep {
            format: FORMAT,
            run,
            made_by: made_by.clone(),
            between_frames: *between_frames,
            parts,
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh.join(FILE))?;
        file.write_all(&serde_json::to_vec(&asleep)?)?;
        file.sync_all()?;
        File::open(&fresh)?.sync_all()?;
        fail_point(Point::SuspendWritten);
        part::wanted(given_up)?;
        fs::rename(&fresh, directory)?;
        sync_parent(directory)?;
        fail_point(Point::SuspendNamed);
        Ok(())
    };
    written().inspect_err(|_| {
        // What the disk has no room for goes, or else with the next one.
        let _left = fs::remove_dir_all(&fresh);
    })
}

/// Of which run there is one, if there is.
pub(crate) fn kept_run(directory: &Path) -> Option<Generation> {
    let text = match fs::read(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        read => read,
    };
    let asleep = text.and_then(|text| Ok(serde_json::from_slice::<Asleep>(&text)?));
    match asleep {
        Ok(asleep) if asleep.format == FORMAT => Some(asleep.run),
        Ok(asleep) => {
            let format = asleep.format;
            tracing::error!(path = %directory.display(), format, "it is not gone on from: it boots");
            None
        }
        Err(error) => {
            tracing::error!(path = %directory.display(), %error, "it is not gone on from: it boots");
            None
        }
    }
}

/// Reads it, and looks through all of it. Blocks.
pub(crate) fn take_up(directory: &Path, id: SnapshotId, disk: PathBuf) -> Result<Held, PartError> {
    let unread = |error: io::Error| PartError::Io(PartKind::State, error);
    let text = fs::read(directory.join(FILE)).map_err(unread)?;
    let asleep: Asleep = serde_json::from_slice(&text).map_err(io::Error::from).map_err(unread)?;
    let (mut memory, mut state) = (None, None);
    for part in &asleep.parts {
        let to = match part.kind {
            PartKind::Memory => &mut memory,
            PartKind::State => &mut state,
            PartKind::Disk | PartKind::Persist | PartKind::Kernel | PartKind::Initramfs => continue,
        };
        *to = Some(Arc::new(part::load(directory, part)?));
    }
    let state = state.ok_or(PartError::Missing(PartKind::State))?;
    let (saved, made_by) = (Saved { memory, state }, asleep.made_by);
    let between_frames = asleep.between_frames;
    // What it boots, if it ever does, is what any VM boots.
    Ok(Held { id, saved, made_by, disk, persist: None, boot: None, between_frames, _scratch: None })
}

/// Once this returns nothing goes on from it any more. Succeeds where there is
/// none. Blocks.
pub(crate) fn take_away(directory: &Path) -> io::Result<()> {
    let going = unfinished(directory);
    remove(&going)?;
    match fs::rename(directory, &going) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    sync_parent(directory)?;
    remove(&going)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
