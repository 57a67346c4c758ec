//! A guest's memory: where QEMU has it, and a copy that nobody writes to.
//!
//! QEMU may have been taken over by its guest, and what is behind its
//! descriptors be anything: it is only read (a mapping of a file that somebody
//! cuts short would end the agent), as far as its machine's memory goes, and
//! what QEMU writes for us has a limit that the kernel keeps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use inn_units::Bytes;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};

mod copy;
mod ram;

pub(crate) use copy::{ahead, complete, copy};
pub(crate) use ram::{Ram, ram_of};

/// Where a run directory says how much its machine has, for another life of the
/// agent.
pub(crate) const RECORD: &str = "memory";

/// Of CPUs and devices, by far: some 200 KiB, and 16 MiB more with a screen.
const MOST_STATE: Bytes = Bytes::mib(64);

/// QEMU_VM_CONFIGURATION (migration/savevm.h), and an empty QEMU_VM_VMDESCRIPTION.
const CONFIGURATION: u8 = 7;
const NO_DESCRIPTION: [u8; 5] = [6, 0, 0, 0, 0];

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

/// A memfd for what only the agent and its VMMs see.
pub(crate) fn nameless(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// A file for what a VMM tells of a machine and all of its memory, and the way to it
/// that the VMM gets: whoever has it can't write more into it (memfd_create(2),
/// F_SEAL_GROW).
pub(crate) fn state_of_at_most(memory: Bytes) -> io::Result<(File, File)> {
    let state = nameless("inn-saved-state")?;
    // Each page has some bytes before it.
    let memory = memory.get() + memory.get() / 64;
    state.set_len(MOST_STATE.get() + memory)?;
    fcntl_add_seals(&state, SealFlags::GROW)?;
    let into = state.try_clone()?;
    Ok((state, into))
}

/// Cuts off what was not written. How much was, the position tells that its
/// writer shares.
pub(crate) fn finish_state(state: File) -> io::Result<File> {
    let written = seek(&state, SeekFrom::Current(0))?;
    state.set_len(written.min(state.metadata()?.len()))?;
    seal(&state)?;
    Ok(state)
}

/// A file that QEMU may cut to nothing and write to, and the way to it that it gets.
pub(crate) fn state_to_truncate() -> io::Result<(File, File)> {
    let state = nameless("inn-saved-devices")?;
    let into = OpenOptions::new().write(true).open(own_path(&state))?;
    Ok((state, into))
}

/// Of CPUs and devices alone, as `xen-save-devices-state` has written them: no
/// configuration stands before them and no description behind. It is a copy, of so
/// much as there may be, since QEMU cuts the file to nothing first, which a limit
/// does not allow.
pub(crate) fn state_of_devices(theirs: &File) -> io::Result<File> {
    let mut written = Vec::new();
    reopened(theirs)?.take(MOST_STATE.get() + 1).read_to_end(&mut written)?;
    if written.len() as u64 > MOST_STATE.get() {
        let text = format!("its VMM has written more than {MOST_STATE} of devices");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    written.extend(NO_DESCRIPTION);
    let mut state = nameless("inn-saved-state")?;
    state.write_all(&written)?;
    seal(&state)?;
    Ok(state)
}

/// Whether a state is one of devices alone: a stream of a migration has its
/// configuration behind magic number and version (qemu_savevm_state_header in
/// migration/savevm.c).
pub(crate) fn is_of_devices(state: &File) -> io::Result<bool> {
    let mut first = [0; 9];
    state.read_exact_at(&mut first, 0)?;
    Ok(first[8] != CONFIGURATION)
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
