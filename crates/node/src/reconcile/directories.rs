use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::error::AgentError;
use crate::paths::Paths;

/// Makes what is not there, for the agent's user alone. A runtime directory
/// of another user's is refused: it may lie in a place where anybody can make
/// one first.
pub(crate) fn make_directories(paths: &Paths) -> Result<(), AgentError> {
    let is_new = !paths.runtime_dir.exists();
    for (dir, key) in [(&paths.data_dir, "data_dir"), (&paths.runtime_dir, "runtime_dir")] {
        make(dir)?;
        let metadata = fs::symlink_metadata(dir).map_err(AgentError::io("look at", dir))?;
        // A data directory may well be a link, to a larger disk.
        let is_dir = metadata.is_dir() || *dir == paths.data_dir;
        if metadata.uid() != own_uid() || !is_dir {
            return Err(AgentError::NotOurs { path: dir.clone(), owner: metadata.uid(), key });
        }
        if access(dir, Access::WRITE_OK) == Err(Errno::ROFS) {
            return Err(AgentError::ReadOnly { path: dir.clone(), key });
        }
    }
    for file in [paths.lock(), paths.data_dir.join("state.db"), paths.token()] {
        match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.uid() != own_uid() => {
                return Err(AgentError::ForeignFile { path: file, owner: metadata.uid() });
            }
            _ => {}
        }
    }
    if is_new {
        // The socket's group has to get through to it, and no further.
        let through = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&paths.runtime_dir, through)
            .map_err(AgentError::io("set the permissions of", &paths.runtime_dir))?;
    }
    let inner = [
        paths.vms(),
        paths.runs(),
        paths.persist(),
        paths.kernels(),
        paths.snapshots(),
        paths.templates(),
        paths.usage(),
    ];
    for dir in &inner {
        make(dir)?;
    }
    make(&paths.image_cache_dir)
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Also its name survives a crash of the host: what is promised in it would be
/// lost with that.
fn make(dir: &Path) -> Result<(), AgentError> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    match made.and_then(|()| sync_parent(dir)) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(AgentError::io("make", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Blocks.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
