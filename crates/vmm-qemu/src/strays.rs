//! Processes of machines that no run directory leads to any more.
//!
//! ```text
//!   /proc/PID ─▶ a QEMU by its name `inn-ID`, or a vsock's bridge
//!                  └─▶ one of its descriptors is of DIR/ID/…, also where that was removed
//!                        └─▶ Stray ──end──▶ by its identity, never by its pid alone
//! ```
//!
//! Whose it is its descriptors tell: a disk, a log or the run directory below a
//! directory of this agent's. Another agent's machine on the same host has none
//! there, whatever its name.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use inn_host::process::{ProcessIdentity, Program};
use inn_units::VmId;
use inn_vmm::MachineIdentity;

use crate::bridge::PROGRAM;
use crate::launch::NAME;
use crate::reap::reap;

/// What a process is called, whatever its machine's architecture.
const QEMU: &str = "qemu-system-";

/// What QEMU is told its machine's name by, and what that begins with.
const NAME_FLAG: &[u8] = b"-name";
const NAME_PREFIX: &str = "inn-";

/// A process of a VM's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub vm: VmId,
    pub identity: MachineIdentity,
    /// It serves the machine's vsock, and is not the machine itself.
    pub is_bridge: bool,
}

impl Stray {
    /// Ends it, and succeeds where it has ended.
    pub async fn end(&self, run_dir: &Path) -> io::Result<()> {
        reap(Some(&self.identity), run_dir).await
    }
}

/// All of this host whose VMs' files lie below one of `dirs`, which hold a
/// directory for each VM; those that a run directory leads to as well. Blocks.
pub fn strays(dirs: &[PathBuf]) -> io::Result<Vec<Stray>> {
    // Descriptors have no links in their paths.
    let dirs: Vec<PathBuf> =
        dirs.iter().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone())).collect();
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter_map(|pid| stray(pid, &dirs)).collect())
}

/// Whatever cannot be read has ended, or is not ours.
fn stray(pid: u32, dirs: &[PathBuf]) -> Option<Stray> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let argv = fs::read(proc.join("cmdline")).ok()?;
    let kind = Kind::of(&argv)?;
    let identity = ProcessIdentity::of_pid(pid).ok()?;
    let vm = fs::read_dir(proc.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .find_map(|path| owner(&path, dirs))?;
    let is_right = match kind {
        Kind::Machine(named) => named == vm,
        Kind::Bridge => true,
    };
    // The pid may have become another process's in between.
    let same = ProcessIdentity::of_pid(pid).is_ok_and(|now| now == identity);
    let is_bridge = matches!(kind, Kind::Bridge);
    (is_right && same).then(|| Stray {
        vm,
        identity: MachineIdentity::of(NAME, &identity),
        is_bridge,
    })
}

enum Kind {
    Machine(VmId),
    Bridge,
}

impl Kind {
    fn of(argv: &[u8]) -> Option<Self> {
        let mut args = argv.split(|byte| *byte == 0);
        let program = Path::new(std::ffi::OsStr::from_bytes(args.next()?)).file_name()?;
        let program = program.to_str()?;
        if program == Program::name(PROGRAM) {
            return Some(Self::Bridge);
        }
        if !program.starts_with(QEMU) {
            return None;
        }
        args.find(|arg| *arg == NAME_FLAG)?;
        let name = std::str::from_utf8(args.next()?).ok()?;
        name.strip_prefix(NAME_PREFIX)?.parse().ok().map(Self::Machine)
    }
}

/// The VM whose directory below one of `dirs` a file lies in, or is.
/// proc_pid_fd(5): of what was removed the kernel says so behind its path.
fn owner(path: &Path, dirs: &[PathBuf]) -> Option<VmId> {
    let below = dirs.iter().find_map(|dir| path.strip_prefix(dir).ok())?;
    let first = below.components().next()?.as_os_str().to_str()?;
    first.trim_end_matches(" (deleted)").parse().ok()
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
            assert_eq!(owner(Path::new(path), &dirs), vm, "{path}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_program_and_its_machine_s_name() {
        let of = |line: &str| Kind::of(line.replace(' ', "\0").as_bytes());
        let qemu = "/usr/bin/qemu-system-x86_64 -add-fd fd=3,set=3 -name inn-0102030405 -m 128M";
        assert!(matches!(of(qemu), Some(Kind::Machine(id)) if id.to_string() == "0102030405"));
        assert!(matches!(of("/x/vhost-device-vsock --vm x"), Some(Kind::Bridge)));
        for line in [
            "qemu-system-x86_64 -name web",
            "qemu-system-x86_64 -m 128M",
            "vi -name inn-0102030405",
            "",
        ] {
            assert!(of(line).is_none(), "{line}");
        }
    }
}
