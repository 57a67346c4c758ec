//! What QEMU tells of a machine, and where it has its guest's memory.
//!
//! What QEMU writes for us has a limit that the kernel keeps: its guest may have
//! taken it over.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;

use inn_units::Bytes;
pub(crate) use inn_vmm::memory::{
    RECORD, Ram, ahead, complete, copy, record, recorded, reopened, seal,
};
use inn_vmm::memory::{nameless, own_path};
use rustix::fs::{SealFlags, SeekFrom, fcntl_add_seals, seek};

/// What QEMU calls the memfd of its `memory-backend-memfd`
/// (backends/hostmem-memfd.c), and /proc/PID/fd a file without a name.
const SHARED: &str = "/memfd:memory-backend-memfd (deleted)";

/// Of CPUs and devices, by far: some 200 KiB, and 16 MiB more with a screen.
const MOST_STATE: Bytes = Bytes::mib(64);

/// QEMU_VM_CONFIGURATION (migration/savevm.h), and an empty QEMU_VM_VMDESCRIPTION.
const CONFIGURATION: u8 = 7;
const NO_DESCRIPTION: [u8; 5] = [6, 0, 0, 0, 0];

/// The memory of a QEMU's guest: see [`inn_vmm::memory::ram_of`].
pub(crate) fn ram_of(pid: u32, memory: Bytes) -> io::Result<Option<Ram>> {
    inn_vmm::memory::ram_of(pid, SHARED, memory)
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

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
