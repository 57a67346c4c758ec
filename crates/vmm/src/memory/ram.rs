//! Where a VMM has its guest's memory.
//!
//! ```text
//!   a machine that has booted           one memfd of the VMM's, mapped shared         Shared
//!   one that goes on from a saved one   a sealed memfd, mapped privately: what its   Private
//!                                       guest wrote is in pages of the VMM's own
//! ```
//!
//! Which pages those are the kernel tells (Documentation/admin-guide/mm/pagemap.rst):
//! one that is there and no file's is a copy that was made at the guest's first write,
//! and all others are the file's. What they hold is read from the process's memory,
//! which is denied where an agent without rights meets Yama (ptrace(2)).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use inn_units::Bytes;
use rustix::fs::{OFlags, SealFlags, SeekFrom, fcntl_get_seals, seek};
use rustix::io::Errno;

/// How the agent's own begin: see [`super::nameless`] and whoever reads
/// snapshots.
const SAVED: &str = "/memfd:inn-saved";

/// As wide as pagemap's pages, on the only architecture there is.
const PAGE: u64 = 4096;

/// Of an entry of pagemap: bits 63 and 62, it is there or swapped out; 61, it is a
/// file's. A file's page that is swapped out is not there.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Entries of pagemap that are read at once.
const ENTRIES: usize = 32 << 10;

#[derive(Debug)]
pub enum Ram {
    Shared(File),
    Private(View),
}

/// A private view of a sealed file.
#[derive(Debug)]
pub struct View {
    base: File,
    /// The process's, in which the view begins there.
    memory: File,
    pagemap: File,
    at: u64,
}

impl Ram {
    /// What is in it has to be copied from here to be all of it: a file that has
    /// holes.
    pub(super) fn base(&self) -> &File {
        match self {
            Self::Shared(file) => file,
            Self::Private(view) => &view.base,
        }
    }

    /// Where it may hold anything else than what was copied from its base.
    pub(super) fn in_use(&self, memory: Bytes) -> io::Result<Vec<Range<u64>>> {
        match self {
            Self::Shared(file) => in_use(file, memory.get()),
            Self::Private(view) => view.written(memory.get()),
        }
    }

    pub(super) fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::Shared(file) => file.read_exact_at(buffer, at),
            Self::Private(view) => view.memory.read_exact_at(buffer, view.at + at),
        }
    }
}

impl View {
    /// The pages that the guest has written to, one behind the other.
    fn written(&self, size: u64) -> io::Result<Vec<Range<u64>>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut entries = vec![0; ENTRIES * size_of::<u64>()];
        let mut at = 0;
        while at < size {
            let pages = usize::try_from((size - at).div_ceil(PAGE)).unwrap_or(ENTRIES);
            let entries = &mut entries[..pages.min(ENTRIES) * size_of::<u64>()];
            self.pagemap.read_exact_at(entries, (self.at + at) / PAGE * 8)?;
            for entry in entries.as_chunks::<8>().0 {
                let entry = u64::from_ne_bytes(*entry);
                let end = size.min(at + PAGE);
                if entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT {
                    match ranges.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => ranges.push(at..end),
                    }
                }
                at = end;
            }
        }
        Ok(ranges)
    }
}

/// The memory of a guest, which has so much of it; `None` where it cannot be told or
/// may not be read. `shared` is what /proc/PID/fd calls the memfd that its VMM maps
/// shared, if it has one.
pub fn ram_of(pid: u32, shared: &str, memory: Bytes) -> io::Result<Option<Ram>> {
    let mut other = None;
    let mut saved = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // A descriptor may close meanwhile: it was not this one.
        let Ok(link) = fs::read_link(&path) else { continue };
        let is_shared = link == Path::new(shared);
        if !is_shared && !link.to_string_lossy().starts_with(SAVED) {
            continue;
        }
        // Or be another one meanwhile.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path)?;
        let meta = file.metadata()?;
        match meta.is_file().then_some(Bytes(meta.len())) {
            Some(size) if is_shared && size == memory => return Ok(Some(Ram::Shared(file))),
            size if is_shared => other = Some(size),
            Some(size) if size == memory => saved.push((meta.ino(), file)),
            _ => {}
        }
    }
    if let Some(size) = other {
        let size = size.map_or("something else".to_owned(), |size| size.to_string());
        let text = format!("its VMM shows {size} as its memory, and it has {memory}");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    match view_of(pid, memory, saved) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            tracing::debug!(pid, %error, "its memory may not be read");
            Ok(None)
        }
        view => Ok(view?.map(Ram::Private)),
    }
}

fn view_of(pid: u32, memory: Bytes, saved: Vec<(u64, File)>) -> io::Result<Option<View>> {
    let maps = fs::read(format!("/proc/{pid}/maps"))?;
    let maps = String::from_utf8_lossy(&maps);
    for (inode, base) in saved {
        // What others may write to is nothing that a copy can be held against.
        if !fcntl_get_seals(&base)?.contains(SealFlags::WRITE | SealFlags::SHRINK) {
            continue;
        }
        if let Some(at) = start_of_view(&maps, inode, memory.get()) {
            let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
            let (memory, pagemap) = (open("mem")?, open("pagemap")?);
            return Ok(Some(View { base, memory, pagemap, at }));
        }
    }
    Ok(None)
}

/// Where a process has all of such a file in one piece, privately (proc(5), maps).
/// The kernel may list it as several, one behind the other.
fn start_of_view(maps: &str, inode: u64, size: u64) -> Option<u64> {
    let mut view: Option<Range<u64>> = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (range, mode) = (words.next()?, words.next()?);
        let (offset, of) = (words.next()?, words.nth(1)?);
        if of.parse() != Ok(inode) || !mode.ends_with('p') {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end, offset) = (number(start)?, number(end)?, number(offset)?);
        match &mut view {
            None if offset == 0 => view = Some(start..end),
            Some(view) if view.end == start && view.end - view.start == offset => view.end = end,
            _ => return None,
        }
    }
    view.filter(|view| view.end.checked_sub(view.start) == Some(size)).map(|view| view.start)
}

/// Where there is anything in a file, up to `size`, one behind the other.
pub(super) fn in_use(ram: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(ram, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole until the end (lseek(2)).
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(ram, SeekFrom::Hole(start))?.min(size);
        if start < end {
            ranges.push(start..end);
        }
        // A file that changes under us may tell anything.
        at = end.max(at + 1);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_found_by_its_file_and_in_one_piece() {
        let line = |range: &str, mode: &str, offset: &str, inode: u64| {
            format!("{range} {mode} {offset} 00:01 {inode}   /memfd:inn-saved-memory (deleted)\n")
        };
        let of = |maps: &str| start_of_view(maps, 7, 0x8000);
        let whole = line("10000-18000", "rw-p", "00000000", 7);
        assert_eq!(of(&whole), Some(0x10000));
        let halves = line("10000-14000", "rw-p", "00000000", 7)
            + &line("14000-18000", "rw-p", "00004000", 7);
        assert_eq!(of(&halves), Some(0x10000));
        let others =
            "20000-21000 r-xp 00000000 08:01 99 /usr/bin/qemu\n30000-31000 rw-p 0 00:00 0\n";
        assert_eq!(of(&(others.to_owned() + &whole)), Some(0x10000));
        for wrong in [
            line("10000-14000", "rw-p", "00000000", 7),
            line("10000-18000", "rw-s", "00000000", 7),
            line("10000-18000", "rw-p", "00001000", 7),
            line("10000-18000", "rw-p", "00000000", 8),
            line("18000-10000", "rw-p", "00000000", 7),
            line("10000-14000", "rw-p", "00000000", 7)
                + &line("15000-19000", "rw-p", "00004000", 7),
            "nonsense".to_owned(),
            String::new(),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }
}
