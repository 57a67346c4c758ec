//! What the processes of libkrun's machines are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
