//! What the processes of libkrun's machines are.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use inn_vmm::Stray;
use inn_vmm::kept::Kind;

use crate::protocol::{COMMAND, PROGRAM, VSOCK};

pub(crate) const NAME: &str = "krun";

pub(crate) static KIND: Kind = Kind {
    runtime: NAME,
    keeper: PROGRAM,
    vmm: "libkrun",
    is_ours: is_helper,
    // libkrun makes it, refuses one that is there, and leaves it behind.
    sockets: &[VSOCK],
    fifos: &[],
    clean: |_| {},
};

/// A person's shell in a run directory is none.
fn is_helper(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().map(|path| Path::new(OsStr::from_bytes(path)).file_name());
    program.flatten().is_some_and(|name| name == PROGRAM)
        && words.next() == Some(COMMAND.as_bytes())
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
    fn a_helper_is_known_by_its_command_line() {
        assert!(is_helper(b"/usr/bin/inn-krun\0machine\0inn-0102030405\x0012\0"));
        for line in [
            &b""[..],
            b"inn-krun",
            b"/usr/bin/inn-krun\0log-writer\x00100\0",
            b"vi\0machine\0",
            b"\xff\0machine\0",
        ] {
            assert!(!is_helper(line), "{line:?}");
        }
    }
}
