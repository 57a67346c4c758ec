//! Files for a process that runs as somebody else and opens them by name.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use super::SpawnSpec;

impl SpawnSpec {
    /// Hands over a file by a path that its process can open, whoever it is: to
    /// read it, and as often as it likes.
    pub fn inherit_readable(&mut self, path: &Path) -> io::Result<PathBuf> {
        let mut file = File::open(path)?;
        let fd: OwnedFd = if file.metadata()?.permissions().mode() & 0o004 != 0 {
            file.into()
        } else {
            // Such as the kernels in /boot of some distributions, root's alone.
            let mut memory = File::from(memfd_create("readable", MemfdFlags::CLOEXEC)?);
            io::copy(&mut file, &mut memory)?;
            memory.set_permissions(fs::Permissions::from_mode(0o444))?;
            memory.into()
        };
        Ok(format!("/proc/self/fd/{}", self.inherit(fd)).into())
    }
}
