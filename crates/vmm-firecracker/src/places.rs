//! What Firecracker's files are called in its working directory, which is the run
//! directory, or the root directory of a jailed one: the same names in both. What
//! is saved of a machine says these, and means another machine's files where that
//! goes on from it.
//!
//! ```text
//!   run/vsock.sock                           jailed: /run is the run directory; else run is .
//!   disk_inn_mroot, disk_inn_mrw             jailed: bound there; else links
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use inn_host::socket;
use inn_vmm::{DiskSource, MachineConfig, memory};

/// What a machine that boots needs beside its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootPlaces {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
}

pub(crate) const VSOCK: &str = "run/vsock.sock";

const RUN: &str = "run";

const DISK: &str = "disk_";

/// Also what Firecracker calls it, which takes letters, digits and `_` alone. No two
/// serials have the same.
pub(crate) fn disk(serial: &str) -> String {
    let mut name = DISK.to_owned();
    for letter in serial.chars() {
        match letter {
            '-' => name.push_str("_m"),
            '_' => name.push_str("__"),
            _ => name.push(letter),
        }
    }
    name
}

/// For one that has the host's own files before it.
pub(crate) fn link(config: &MachineConfig) -> io::Result<()> {
    let named = |name: &str, to: &Path| {
        let name = config.run_dir.join(name);
        socket::remove(&name)?;
        symlink(to, name)
    };
    named(RUN, Path::new("."))?;
    config.disks.iter().try_for_each(|of| {
        let DiskSource::Raw(path) = &of.source;
        named(&disk(&of.serial), path)
    })
}

pub(crate) fn remove(run_dir: &Path) {
    let Ok(entries) = fs::read_dir(run_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name == RUN
            || name == memory::RECORD
            || name.to_str().is_some_and(|name| name.starts_with(DISK));
        if is_ours && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a name stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_disks_have_the_same_name() {
        assert_eq!(disk("inn-root"), "disk_inn_mroot");
        let all = ["a-b", "a_b", "a_mb", "a__b", "a-_b", "a_-b"].map(disk);
        let apart: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(apart.len(), all.len(), "{all:?}");
        assert!(all.iter().flat_map(|name| name.chars()).all(|c| c == '_' || c.is_alphanumeric()));
    }
}
