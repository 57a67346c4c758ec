//! A guest's memory: where QEMU has it, and a copy that nobody writes to.
//!
//! QEMU may have been taken over by its guest, and what is behind its
//! descriptors be anything: it is only read (a mapping of a file that somebody
//! cuts short would end the agent), as far as its machine's memory goes, and
//! what QEMU writes for us has a limit that the kernel keeps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use inn_units::Bytes;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};

mod copy;

pub(crate) use copy::{ahead, complete, copy};

/// What QEMU calls the memfd of its `memory-backend-memfd`
/// (backends/hostmem-memfd.c), and /proc/PID/fd a file without a name.
const RAM_LINK: &str = "/memfd:memory-backend-memfd (deleted)";

/// Where a run directory says how much its machine has, for another life of the
/// agent.
pub(crate) const RECORD: &str = "memory";

/// Of CPUs and devices, by far: some 200 KiB, and 16 MiB more with a screen.
const MOST_STATE: Bytes = Bytes::mib(64);

/// Tells a later life of the agent; whoever has the directory may remove it,
/// and can't make another.
pub(crate) fn record(run_dir: &Path, memory: Bytes) -> io::Result<()> {
    let path = run_dir.join(RECORD);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    write!(file, "{}", memory.get())
}

pub(crate) fn recorded(run_dir: &Path) -> io::Result<Bytes> {
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

/// The shared memory of a QEMU's guest, which has so much of it; `None` where it
/// has a private view of somebody else's, as machines that began from one which
/// was saved.
pub(crate) fn ram_of(pid: u32, memory: Bytes) -> io::Result<Option<File>> {
    let mut other = None;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // A descriptor may close meanwhile: it was not this one.
        if !fs::read_link(&path).is_ok_and(|link| link == Path::new(RAM_LINK)) {
            continue;
        }
        // Or be another one meanwhile.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path)?;
        let meta = file.metadata()?;
        match meta.is_file().then_some(Bytes(meta.len())) {
            Some(size) if size == memory => return Ok(Some(file)),
            size => other = Some(size),
        }
    }
    match other {
        None => Ok(None),
        Some(size) => {
            let size = size.map_or("something else".to_owned(), |size| size.to_string());
            let text = format!("its VMM shows {size} as its memory, and it has {memory}");
            Err(io::Error::new(ErrorKind::InvalidData, text))
        }
    }
}

/// A memfd for what only the agent and its VMMs see.
pub(crate) fn nameless(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// A file for what a VMM tells of a machine, of whose memory it may be all:
/// whoever has it can't write more into it (memfd_create(2), F_SEAL_GROW).
pub(crate) fn state_of_at_most(memory: Option<Bytes>) -> io::Result<File> {
    let state = nameless("inn-saved-state")?;
    // Each page has some bytes before it.
    let memory = memory.map_or(0, |memory| memory.get() + memory.get() / 64);
    state.set_len(MOST_STATE.get() + memory)?;
    fcntl_add_seals(&state, SealFlags::GROW)?;
    Ok(state)
}

/// Cuts off what was not written. How much was, the position tells that its
/// writer shares.
pub(crate) fn finish_state(state: &File) -> io::Result<()> {
    let written = seek(state, SeekFrom::Current(0))?;
    state.set_len(written.min(state.metadata()?.len()))?;
    seal(state)
}

/// From now on its content stays what it is, whoever has it open: machines map
/// it privately, and one whose VMM was taken over can't change it for others
/// (memfd_create(2), "File sealing").
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, all)?)
}

/// The same file, opened anew: with a position of its own, to be read only.
pub(crate) fn reopened(file: &File) -> io::Result<File> {
    OpenOptions::new().read(true).open(own_path(file))
}

fn own_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
