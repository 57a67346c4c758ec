//! A guest's memory: where its VMM has it, and a copy that nobody writes to.
//!
//! A VMM may have been taken over by its guest, and what is behind its
//! descriptors be anything: it is only read (a mapping of a file that somebody
//! cuts short would end the agent), as far as its machine's memory goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use inn_units::Bytes;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, memfd_create};

mod copy;
mod ram;

pub use copy::{ahead, complete, copy};
pub use ram::{Ram, ram_of};

/// Where a run directory says how much its machine has, for another life of the
/// agent.
pub const RECORD: &str = "memory";

/// Tells a later life of the agent; whoever has the directory may remove it,
/// and can't make another.
pub fn record(run_dir: &Path, memory: Bytes) -> io::Result<()> {
    let path = run_dir.join(RECORD);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    write!(file, "{}", memory.get())
}

pub fn recorded(run_dir: &Path) -> io::Result<Bytes> {
    let unknown = |why: &str| {
        io::Error::other(format!("how much memory it has is not known: {why}; start it anew"))
    };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(run_dir.join(RECORD)).map_err(|error| unknown(&error.to_string()))?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(unknown("its record is not the agent's own"));
    }
    let mut text = String::new();
    file.take(32).read_to_string(&mut text)?;
    text.parse().map(Bytes).map_err(|_| unknown("its record is no number"))
}

/// A memfd for what only the agent and its VMMs see.
pub fn nameless(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// From now on its content stays what it is, whoever has it open: machines map
/// it privately, and one whose VMM was taken over can't change it for others
/// (memfd_create(2), "File sealing").
pub fn seal(file: &File) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, all)?)
}

/// The same file, opened anew: with a position of its own, to be read only.
pub fn reopened(file: &File) -> io::Result<File> {
    OpenOptions::new().read(true).open(own_path(file))
}

/// By which this process opens it anew.
pub fn own_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
