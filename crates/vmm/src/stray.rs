//! Processes of machines that no run directory leads to any more.

use std::path::{Path, PathBuf};

use inn_units::VmId;

use crate::MachineIdentity;

/// A process of a VM's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub vm: VmId,
    pub identity: MachineIdentity,
    /// It serves the machine, or is served by it, and is not the one whose
    /// identity is the machine's.
    pub is_bridge: bool,
}

impl Stray {
    /// The VM whose directory below one of `dirs` a file lies in, or is.
    /// proc_pid_fd(5): of what was removed the kernel says so behind its path.
    pub fn owner(path: &Path, dirs: &[PathBuf]) -> Option<VmId> {
        let below = dirs.iter().find_map(|dir| path.strip_prefix(dir).ok())?;
        let first = below.components().next()?.as_os_str().to_str()?;
        first.trim_end_matches(" (deleted)").parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_told_by_a_file_in_its_directory() {
        let dirs = [PathBuf::from("/srv/a/vms"), PathBuf::from("/run/a/vms")];
        let id = |text: &str| text.parse::<VmId>().unwrap();
        for (path, vm) in [
            ("/srv/a/vms/0102030405/rw.img", Some(id("0102030405"))),
            ("/srv/a/vms/0102030405/logs/console.log (deleted)", Some(id("0102030405"))),
            ("/run/a/vms/0102030405 (deleted)", Some(id("0102030405"))),
            ("/run/a/vms/0102030405", Some(id("0102030405"))),
            // Another agent's, and what is no VM's.
            ("/srv/b/vms/0102030405/rw.img", None),
            ("/srv/a/vms-of-old/0102030405/rw.img", None),
            ("/srv/a/vms/lost+found/x", None),
            ("/srv/a/images/disks/x.img", None),
            ("socket:[12345]", None),
        ] {
            assert_eq!(Stray::owner(Path::new(path), &dirs), vm, "{path}");
        }
    }
}
