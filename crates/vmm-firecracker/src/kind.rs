//! What the processes of Firecracker's machines are, and what they have in their
//! run directory.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use inn_vmm::Stray;
use inn_vmm::kept::Kind;

use crate::{places, tap};

pub(crate) const NAME: &str = "firecracker";

/// The first argument of a process that is to keep a machine.
pub(crate) const COMMAND: &str = "firecracker-keeper";

pub(crate) const API: &str = "api.sock";
pub(crate) const VSOCK: &str = "vsock.sock";
pub(crate) const LOG_PIPE: &str = "vmm.fifo";
pub(crate) const METRICS_PIPE: &str = "metrics.fifo";

pub(crate) static KIND: Kind = Kind {
    runtime: NAME,
    keeper: "firecracker's keeper",
    vmm: "Firecracker",
    is_ours,
    // Firecracker makes them, refuses those that are there, and leaves them.
    sockets: &[API, VSOCK],
    fifos: &[("vmm.log", LOG_PIPE), ("metrics.log", METRICS_PIPE)],
    clean: |run_dir| {
        tap::remove_lent(run_dir);
        places::remove(run_dir);
    },
};

/// A keeper, or a Firecracker that has no root directory of its own; one that has
/// ends with its keeper.
fn is_ours(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().map(|path| Path::new(OsStr::from_bytes(path)).file_name());
    let is_vmm = program.flatten().is_some_and(|name| name.as_bytes().starts_with(b"firecracker"));
    words.next().is_some_and(|word| word == COMMAND.as_bytes() || (is_vmm && word == b"--id"))
}

/// Machines that no run directory leads to: see [`Kind::strays`].
pub fn strays(dirs: &[PathBuf]) -> io::Result<Vec<Stray>> {
    KIND.strays(dirs)
}

/// Ends one, and succeeds where it has ended.
pub async fn end_stray(stray: &Stray, run_dir: &Path) -> io::Result<()> {
    KIND.reap(Some(&stray.identity), run_dir).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_s_processes_are_known_by_their_command_lines() {
        for line in [
            &b"/proc/self/exe\0firecracker-keeper\0inn-0102030405\x0012\0"[..],
            b"/opt/firecracker-v1.9.0\0--id\0inn-0102030405\0",
        ] {
            assert!(is_ours(line), "{line:?}");
        }
        for line in [
            &b""[..],
            b"firecracker",
            b"/proc/self/exe\0log-writer\x00100\0",
            b"vi\0--id\0",
            b"\xff\0machine\0",
        ] {
            assert!(!is_ours(line), "{line:?}");
        }
    }
}
