//! Copies of a guest's memory.
//!
//! ```text
//!   guest runs           ahead:    what is in use and not zero ─▶ copy, of which some is out of date
//!   guest stands still   complete: what is another by now      ─▶ copy
//! ```
//!
//! Of a private view of a saved machine's memory, what that machine had is copied
//! first, and then what this guest has written to; only that is looked at again.
//!
//! To look for what has changed takes two thirds of the time of a copy: no page
//! has to be found for it. QEMU's dirty log would make each first write of the
//! guest dearer, and not every kernel has soft-dirty bits.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use inn_units::Bytes;

use super::nameless;
use super::ram::{Ram, in_use};
use crate::SavedAhead;

/// What is read at once: a compromise of system calls and cache.
const PIECE: usize = 64 << 10;

/// What is written, or is left out.
const PAGE: usize = 4096;

/// What a thread takes at once of what is to be copied.
const SHARE: u64 = 2 << 20;

/// Who copies; more gain nothing, for it is memory that they wait for.
const MOST_THREADS: usize = 4;

/// Copies what is in use of a guest's memory: neither holes nor zeros. The guest
/// must stand still. Blocks: some 20 ms for 100 MiB.
pub fn copy(ram: &Ram, memory: Bytes) -> io::Result<File> {
    ahead(ram, memory).map(|ahead| ahead.copy)
}

/// The same while it runs: what it writes meanwhile is in the copy or is not.
pub fn ahead(ram: &Ram, memory: Bytes) -> io::Result<SavedAhead> {
    let copy = nameless("inn-saved-memory")?;
    copy.set_len(memory.get())?;
    let base = ram.base();
    let in_base = in_use(base, memory.get())?;
    in_threads(&in_base, || {
        let mut buffer = vec![0; PIECE];
        let copy = &copy;
        move |at, length| {
            let piece = &mut buffer[..length];
            base.read_exact_at(piece, at)?;
            let piece = &*piece;
            write_pages(copy, piece, at, |page| piece[page.clone()] != [0; PAGE][..page.len()])
        }
    })?;
    let in_use = match ram {
        Ram::Shared(_) => in_base,
        Ram::Private(_) => {
            let written = ram.in_use(memory)?;
            bring_up_to_date(ram, &copy, &written)?;
            written
        }
    };
    Ok(SavedAhead { copy, in_use })
}

/// Makes a copy that was made while the guest ran what its memory is now that it
/// stands still. Blocks.
pub fn complete(ram: &Ram, memory: Bytes, ahead: SavedAhead) -> io::Result<File> {
    let SavedAhead { copy, in_use: was_in_use } = ahead;
    let now = ram.in_use(memory)?;
    bring_up_to_date(ram, &copy, &either(was_in_use, now))?;
    Ok(copy)
}

/// Writes what is another in these ranges.
fn bring_up_to_date(ram: &Ram, copy: &File, ranges: &[Range<u64>]) -> io::Result<()> {
    in_threads(ranges, || {
        let (mut buffer, mut before) = (vec![0; PIECE], vec![0; PIECE]);
        move |at, length| {
            let (piece, before) = (&mut buffer[..length], &mut before[..length]);
            ram.read_exact_at(piece, at)?;
            copy.read_exact_at(before, at)?;
            let (piece, before) = (&*piece, &*before);
            if piece == before {
                return Ok(());
            }
            write_pages(copy, piece, at, |page| piece[page.clone()] != before[page])
        }
    })
}

/// What is in one of them or in both.
fn either(mut ranges: Vec<Range<u64>>, others: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.extend(others);
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Has each piece of these done once, by as many workers as there are CPUs.
fn in_threads<W>(ranges: &[Range<u64>], worker: impl Fn() -> W + Sync) -> io::Result<()>
where
    W: FnMut(u64, usize) -> io::Result<()>,
{
    let shares: Vec<Range<u64>> = ranges.iter().cloned().flat_map(in_shares).collect();
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        let mut piece = worker();
        while let Some(share) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut at = share.start;
            while at < share.end {
                let length = usize::try_from(share.end - at).unwrap_or(PIECE).min(PIECE);
                piece(at, length)?;
                at += length as u64;
            }
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
    })
}

fn in_shares(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { mut start, end } = range;
    std::iter::from_fn(move || {
        let share = start..end.min(start + SHARE);
        start = share.end;
        (!share.is_empty()).then_some(share)
    })
}

/// Writes those pages of a piece that are `wanted`, neighbours together.
fn write_pages(
    to: &File,
    piece: &[u8],
    at: u64,
    wanted: impl Fn(Range<usize>) -> bool,
) -> io::Result<()> {
    let page = |from: usize| from..piece.len().min(from + PAGE);
    let mut start = 0;
    while start < piece.len() {
        let mut end = start;
        while end < piece.len() && wanted(page(end)) {
            end = page(end).end;
        }
        if start < end {
            to.write_all_at(&piece[start..end], at + start as u64)?;
        }
        start = page(end).end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Bytes = Bytes::mib(8);

    fn filled(file: &File, at: u64, byte: u8, length: usize) {
        file.write_all_at(&vec![byte; length], at).unwrap();
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(MEMORY.get()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_changes_after_the_first_copy_is_in_the_second() {
        let ram = nameless("x").unwrap();
        ram.set_len(MEMORY.get()).unwrap();
        filled(&ram, 0, 7, 3 << 20);
        filled(&ram, 5 << 20, 7, 1 << 20);
        let ram = Ram::Shared(ram);
        let ahead = ahead(&ram, MEMORY).unwrap();
        let Ram::Shared(file) = &ram else { unreachable!() };
        let same = |copy: &File| assert!(bytes(copy) == bytes(file), "they differ");
        same(&ahead.copy);
        // Another byte, zeros, a page that was never used, one that was given
        // back.
        filled(file, 5000, 8, 1);
        filled(file, 1 << 20, 0, 9000);
        filled(file, 7 << 20, 9, 4096);
        let gone = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, gone, 5 << 20, 8192).unwrap();
        let copy = complete(&ram, MEMORY, ahead).unwrap();
        same(&copy);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let merged = either(vec![0..4, 8..10], vec![2..5, 10..12, 20..21]);
        assert_eq!(merged, [0..5, 8..12, 20..21]);
        let shares: Vec<_> = in_shares(0..SHARE + 1).collect();
        assert_eq!(shares, [0..SHARE, SHARE..SHARE + 1]);
    }
}
