use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::error::AgentError;
use crate::paths::Paths;

/// Makes what is not there, for the agent's user alone. A runtime directory
/// of another user's is refused: it may lie in a place where anybody can make
/// one first.
pub(crate) fn make_directories(paths: &Paths) -> Result<(), AgentError> {
    let is_new = !paths.runtime_dir.exists();
    for dir in [&paths.data_dir, &paths.runtime_dir] {
        make(dir)?;
        let metadata = fs::symlink_metadata(dir).map_err(AgentError::io("look at", dir))?;
        // A data directory may well be a link, to a larger disk.
        let is_dir = metadata.is_dir() || *dir == paths.data_dir;
        if metadata.uid() != rustix::process::geteuid().as_raw() || !is_dir {
            return Err(AgentError::NotOurs { path: dir.clone() });
        }
    }
    if is_new {
        // The socket's group has to get through to it, and no further.
        let through = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&paths.runtime_dir, through)
            .map_err(AgentError::io("set the permissions of", &paths.runtime_dir))?;
    }
    let inner = [paths.vms(), paths.runs(), paths.persist(), paths.kernels()];
    for dir in &inner {
        make(dir)?;
    }
    make(&paths.image_cache_dir)
}

fn make(dir: &Path) -> Result<(), AgentError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(AgentError::io("make", dir)(error))
        }
        _ => Ok(()),
    }
}
