//! The kernel of guests under the host's own KVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// As it is, or made of an .xz in `dir`.
pub fn unpacked(packed: &Path, dir: &Path) -> PathBuf {
    if packed.extension().is_none_or(|extension| extension != "xz") {
        return packed.to_owned();
    }
    let kernel = dir.join("vmlinux");
    let to = fs::File::create(&kernel).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    let mut xz = Command::new("/usr/bin/xz");
    let status = xz.arg("-dc").arg(packed).stdin(Stdio::null()).stdout(to).status();
    assert!(status.unwrap().success(), "xz could not unpack {}", packed.display());
    kernel
}
