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
use inn_vmm::{MachineIdentity, Stray};

use crate::bridge::PROGRAM;
use crate::launch::NAME;
use crate::reap::reap;

/// What a process is called, whatever its machine's architecture.
const QEMU: &str = "qemu-system-";

/// What QEMU is told its machine's name by, and what that begins with.
const NAME_FLAG: &[u8] = b"-name";
const NAME_PREFIX: &str = "inn-";

/// Ends one, and succeeds where it has ended.
pub async fn end_stray(stray: &Stray, run_dir: &Path) -> io::Result<()> {
    reap(Some(&stray.identity), run_dir).await
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
        .find_map(|path| Stray::owner(&path, dirs))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
