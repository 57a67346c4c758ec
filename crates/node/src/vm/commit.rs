//! A VM's disk as it is at one moment.
//!
//! ```text
//!   stopped  ─ requests wait ─▶ copied
//!   running  ─ requests wait ─▶ frozen by the guest agent ─▶ copied ─▶ thawed, and frozen all along?
//!   else     ─▶ refused
//! ```
//! The copy shares its blocks with the disk where the file system has that, and
//! leaves out what is a hole in any case: a guest stands still for no longer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_domain::Power;
use inn_fail_point::{Point, fail_point};
use inn_image::{ImageError, copy_disk};

use super::handle::{NotReady, VmHandle};
use crate::guest::{GuestError, GuestSession, RefusedKind};

/// After so long a guest lets go of its file systems by itself, whatever has
/// become of the node: for a disk of some GiB that has to be copied whole.
const DEAD_MAN: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("it is {0}; stop it, or wait until it runs")]
    Neither(String),
    #[error("its guest cannot be asked to hold its file systems still")]
    NotReady(NotReady),
    #[error("its guest does not hold its file systems still; stop it first")]
    Guest(#[source] GuestError),
    #[error(
        "its disk takes longer to copy than its guest holds its file systems still ({} s); stop \
         it first", DEAD_MAN.as_secs()
    )]
    Expired,
    #[error("it has no disk yet; it gets one when it first starts")]
    NoDisk,
    #[error("it cannot be read or written")]
    Copy(#[from] ImageError),
}

impl VmHandle {
    /// Copies the VM's own disk to `to`. Cancelled, it leaves a guest frozen
    /// until its own timer is over.
    pub(crate) async fn copy_disk(&self, to: &Path) -> Result<(), CopyError> {
        // It neither starts nor stops meanwhile.
        let _order = self.shared.requests.lock().await;
        let view = self.view();
        let disk = self.paths().disk();
        match view.desired.power {
            Power::Deleted => Err(CopyError::Neither("being deleted".to_owned())),
            Power::Stopped if view.observed.machine.is_none() => copy(disk, to.to_owned()).await,
            Power::Running if view.held.is_none() && view.observed.machine.is_some() => {
                let session = self.session().await.map_err(CopyError::NotReady)?;
                frozen(&session, disk, to.to_owned()).await
            }
            _ => Err(CopyError::Neither(view.phase.to_string())),
        }
    }
}

async fn frozen(session: &GuestSession, disk: PathBuf, to: PathBuf) -> Result<(), CopyError> {
    let ours = match session.freeze(DEAD_MAN, Vec::new()).await {
        Ok(_) => true,
        // By its owner, or by a life of the agent that has died since: it is
        // left as it was found.
        Err(GuestError::Refused { kind: RefusedKind::AlreadyExists, .. }) => false,
        Err(error) => return Err(CopyError::Guest(error)),
    };
    let copied = copy(disk, to).await;
    // Also where nothing was copied: the guest shall go on.
    let held = match ours {
        true => session.thaw().await.map(|thawed| !thawed.expired),
        false => session.telemetry().await.map(|told| told.frozen),
    };
    copied?;
    match held {
        Ok(true) => Ok(()),
        Ok(false) => Err(CopyError::Expired),
        Err(error) => Err(CopyError::Guest(error)),
    }
}

async fn copy(disk: PathBuf, to: PathBuf) -> Result<(), CopyError> {
    if !disk.exists() {
        return Err(CopyError::NoDisk);
    }
    crate::images::blocking("copy the disk", move || copy_disk(&disk, &to)).await?;
    fail_point(Point::CommitCopied);
    Ok(())
}
