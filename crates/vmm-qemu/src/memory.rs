//! A guest's memory: where QEMU has it, and a copy that nobody writes to.
//!
//! QEMU may have been taken over by its guest, and what is behind its
//! descriptors be anything: it is only read (a mapping of a file that somebody
//! cuts short would end the agent), as far as its machine's memory goes, and
//! what QEMU writes for us has a limit that the kernel keeps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use inn_units::Bytes;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};
use rustix::io::Errno;

/// What QEMU calls the memfd of its `memory-backend-memfd`
/// (backends/hostmem-memfd.c), and /proc/PID/fd a file without a name.
const RAM_LINK: &str = "/memfd:memory-backend-memfd (deleted)";

/// Where a run directory says how much its machine has, for another life of the
/// agent.
pub(crate) const RECORD: &str = "memory";

/// What is read at once: a compromise of system calls and cache.
const PIECE: usize = 64 << 10;

/// What is written, or is zero and left out.
const PAGE: usize = 4096;

/// What a thread takes at once of what is to be copied.
const SHARE: u64 = 2 << 20;

/// Who copies; more gain nothing, for it is memory that they wait for.
const MOST_THREADS: usize = 4;

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

/// Copies what is in use of a guest's memory: neither holes nor zeros. The guest
/// must stand still. Blocks: some 20 ms for 100 MiB.
pub(crate) fn copy(ram: &File, memory: Bytes) -> io::Result<File> {
    let copy = nameless("inn-saved-memory")?;
    copy.set_len(memory.get())?;
    let shares = in_use(ram, memory.get())?;
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        while let Some(share) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
            copy_share(ram, &copy, share.clone(), &mut buffer)?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |all, other| {
            all.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
        })
    })?;
    Ok(copy)
}

/// Where there is anything, up to `size`, in pieces.
fn in_use(ram: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut shares = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(ram, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole until the end (lseek(2)).
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(ram, SeekFrom::Hole(start))?.min(size);
        let mut from = start;
        while from < end {
            let to = end.min(from + SHARE);
            shares.push(from..to);
            from = to;
        }
        // A file that changes under us may tell anything.
        at = end.max(at + 1);
    }
    Ok(shares)
}

fn copy_share(from: &File, to: &File, share: Range<u64>, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = share.start;
    while at < share.end {
        let left = usize::try_from(share.end - at).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let piece = &mut buffer[..length];
        from.read_exact_at(piece, at)?;
        write_what_is_not_zero(to, piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn write_what_is_not_zero(to: &File, piece: &[u8], at: u64) -> io::Result<()> {
    let zero = |page: &[u8]| page == &[0; PAGE][..page.len()];
    let mut start = 0;
    while start < piece.len() {
        let pages = || piece[start..].chunks(PAGE);
        let zeros = pages().take_while(|page| zero(page)).count() * PAGE;
        start = piece.len().min(start + zeros);
        let used = piece[start..].chunks(PAGE).take_while(|page| !zero(page)).count() * PAGE;
        let end = piece.len().min(start + used);
        if start < end {
            to.write_all_at(&piece[start..end], at + start as u64)?;
        }
        start = end;
    }
    Ok(())
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
