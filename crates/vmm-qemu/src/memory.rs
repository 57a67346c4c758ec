//! A guest's memory: where QEMU has it, and a copy that nobody writes to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    MemfdFlags, SealFlags, SeekFrom, copy_file_range, fcntl_add_seals, memfd_create, seek,
};
use rustix::io::Errno;

/// What QEMU calls the memfd of its `memory-backend-memfd`
/// (backends/hostmem-memfd.c), and /proc/PID/fd a file without a name.
const RAM_LINK: &str = "/memfd:memory-backend-memfd (deleted)";

/// What is copied in one go where files can't share: a compromise of system
/// calls and cache.
const PIECE: usize = 256 << 10;

/// The shared memory of a QEMU's guest; `None` where it has a private view of
/// somebody else's, as machines that began from one which was saved.
pub(crate) fn ram_of(pid: u32) -> io::Result<Option<File>> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // A descriptor may close meanwhile: it was not this one.
        if fs::read_link(&path).is_ok_and(|link| link == Path::new(RAM_LINK)) {
            return File::open(path).map(Some);
        }
    }
    Ok(None)
}

/// A memfd for what only the agent and its VMMs see.
pub(crate) fn nameless(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// Copies what is in use of a guest's memory, holes staying holes. The guest
/// must stand still. Blocks: some 30 ms for 100 MiB.
pub(crate) fn copy(ram: &File) -> io::Result<File> {
    let size = ram.metadata()?.len();
    let copy = nameless("inn-saved-memory")?;
    copy.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(ram, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole until the end (lseek(2)).
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(ram, SeekFrom::Hole(start))?;
        copy_range(ram, &copy, start, end)?;
        at = end;
    }
    Ok(copy)
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Kernels before 5.3, and those whose memory files can't.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let piece = &mut buffer[..left.min(PIECE)];
        from.read_exact_at(piece, at)?;
        to.write_all_at(piece, at)?;
        at += piece.len() as u64;
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
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_holes() {
        use std::os::unix::fs::MetadataExt;
        let ram = nameless("memory-backend-memfd").unwrap();
        ram.set_len(64 << 20).unwrap();
        for at in [0, 5 << 20, (64 << 20) - 4096] {
            ram.write_all_at(&[7; 4096], at).unwrap();
        }
        let found = ram_of(std::process::id()).unwrap().expect("this process has one");
        let copied = copy(&found).unwrap();
        let (a, b) = (ram.metadata().unwrap(), copied.metadata().unwrap());
        assert_eq!(a.len(), b.len());
        assert!(b.blocks() <= a.blocks(), "{} and {}", b.blocks(), a.blocks());
        let mut page = [0; 4096];
        for (at, byte) in [(0, 7), (4096, 0), (5 << 20, 7), ((64 << 20) - 4096, 7)] {
            copied.read_exact_at(&mut page, at).unwrap();
            assert_eq!(page, [byte; 4096], "at {at}");
        }
        copy_by_hand(&ram, &copied, 0, 1 << 20).unwrap();
        seal(&copied).unwrap();
        assert!(copied.write_all_at(b"x", 0).is_err(), "it is sealed");
        assert!(reopened(&copied).unwrap().write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn memory_that_was_never_used_is_all_hole() {
        let ram = nameless("x").unwrap();
        ram.set_len(1 << 20).unwrap();
        let copied = copy(&ram).unwrap();
        assert_eq!(copied.metadata().unwrap().len(), 1 << 20);
    }
}
