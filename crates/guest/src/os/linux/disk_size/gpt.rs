//! The GUID partition table (UEFI 2.10, 5.3): a header and entries at the
//! disk's start, and the same mirrored at its end, which moves with it.

use super::{Growth, Unfit, aligned, u32_at, u64_at};

/// UEFI 2.10, table 5-5: where a header's fields lie.
const SIGNATURE: &[u8] = b"EFI PART";
const HEADER_SIZE: usize = 12;
const HEADER_CRC: usize = 16;
const MY_LBA: usize = 24;
const OTHER_LBA: usize = 32;
const LAST_USABLE: usize = 48;
const ENTRIES_LBA: usize = 72;
const ENTRY_COUNT: usize = 80;
const ENTRY_SIZE: usize = 84;
const ENTRIES_CRC: usize = 88;
const SMALLEST_HEADER: usize = 92;

/// Table 5-6: where an entry's fields lie.
const FIRST_LBA: usize = 32;
const LAST_LBA: usize = 40;

/// More is nobody's.
const MAX_ENTRIES: usize = 512 * 1024;

pub(super) fn is_one(start: &[u8], sector: u64) -> bool {
    let at = usize::try_from(sector).unwrap_or(usize::MAX);
    start.get(at..at.saturating_add(8)) == Some(SIGNATURE)
}

/// `None` where there is nothing to be gained. `start` is the disk's start
/// with the whole table; sizes are bytes. What is to be written comes in an
/// order that leaves one of the two tables whole at any time.
pub(super) fn grow(
    start: &[u8],
    sector: u64,
    size: u64,
    number: u32,
) -> Result<Option<Growth>, Unfit> {
    let step = usize::try_from(sector).map_err(|_| Unfit::Damaged)?;
    let header = start.get(step..2 * step).ok_or(Unfit::Damaged)?;
    let header = checked_header(header).ok_or(Unfit::Damaged)?;
    let entries = checked_entries(start, sector, &header).ok_or(Unfit::Damaged)?;
    let entry_size = usize_at(&header, ENTRY_SIZE).ok_or(Unfit::Damaged)?;
    let at = (number.checked_sub(1).ok_or(Unfit::NoSuch)? as usize) * entry_size;
    let own = entries.get(at..at + entry_size).ok_or(Unfit::NoSuch)?;
    let (first, last) = (lba(own, FIRST_LBA)?, lba(own, LAST_LBA)?);
    // An entry of zeros is unused.
    if own[..16].iter().all(|byte| *byte == 0) || last < first {
        return Err(Unfit::NoSuch);
    }

    let sectors = size / sector;
    let entry_sectors = (entries.len() as u64).div_ceil(sector);
    // The mirror: the header in the last sector, the entries before it.
    let mirror_at = sectors.checked_sub(1 + entry_sectors).ok_or(Unfit::Damaged)?;
    let next = entries
        .chunks_exact(entry_size)
        .filter(|entry| entry[..16].iter().any(|byte| *byte != 0))
        .filter_map(|entry| u64_at(entry, FIRST_LBA))
        .filter(|other| *other > first)
        .min();
    let end = aligned(next.unwrap_or(mirror_at).min(mirror_at), sector);
    if end <= last + 1 {
        return Ok(None);
    }

    let mut entries = entries.to_vec();
    entries[at + LAST_LBA..at + LAST_LBA + 8].copy_from_slice(&(end - 1).to_le_bytes());
    let primary_entries_at = lba(&header, ENTRIES_LBA)?;
    let crc = crc32(&entries);
    let make = |my_lba: u64, other_lba: u64, entries_at: u64| {
        let mut header = header.clone();
        header[MY_LBA..MY_LBA + 8].copy_from_slice(&my_lba.to_le_bytes());
        header[OTHER_LBA..OTHER_LBA + 8].copy_from_slice(&other_lba.to_le_bytes());
        header[LAST_USABLE..LAST_USABLE + 8].copy_from_slice(&(mirror_at - 1).to_le_bytes());
        header[ENTRIES_LBA..ENTRIES_LBA + 8].copy_from_slice(&entries_at.to_le_bytes());
        header[ENTRIES_CRC..ENTRIES_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        header[HEADER_CRC..HEADER_CRC + 4].fill(0);
        let own = crc32(&header);
        header[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&own.to_le_bytes());
        header.resize(step, 0);
        header
    };
    let mut writes = vec![
        (mirror_at * sector, entries.clone()),
        ((sectors - 1) * sector, make(sectors - 1, 1, mirror_at)),
        (primary_entries_at * sector, entries),
        (sector, make(1, sectors - 1, primary_entries_at)),
    ];
    if let Some(protective) = protective_mbr(start, sectors) {
        writes.push((0, protective));
    }
    Ok(Some(Growth { writes, start: first * sector, length: (end - first) * sector }))
}

/// The header without what follows it in its sector.
fn checked_header(sector: &[u8]) -> Option<Vec<u8>> {
    let size = usize_at(sector, HEADER_SIZE)?;
    if size < SMALLEST_HEADER || !sector.starts_with(SIGNATURE) {
        return None;
    }
    let header = sector.get(..size)?.to_vec();
    let mut zeroed = header.clone();
    zeroed[HEADER_CRC..HEADER_CRC + 4].fill(0);
    (u32_at(&header, HEADER_CRC)? == crc32(&zeroed) && u64_at(&header, MY_LBA)? == 1)
        .then_some(header)
}

fn checked_entries<'a>(start: &'a [u8], sector: u64, header: &[u8]) -> Option<&'a [u8]> {
    let size = usize_at(header, ENTRY_SIZE)?;
    let length = size.checked_mul(usize_at(header, ENTRY_COUNT)?)?;
    if size < 128 || length > MAX_ENTRIES {
        return None;
    }
    let at = usize::try_from(u64_at(header, ENTRIES_LBA)?.checked_mul(sector)?).ok()?;
    let entries = start.get(at..at.checked_add(length)?)?;
    (u32_at(header, ENTRIES_CRC)? == crc32(entries)).then_some(entries)
}

fn lba(bytes: &[u8], at: usize) -> Result<u64, Unfit> {
    u64_at(bytes, at).ok_or(Unfit::Damaged)
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

/// The first sector's one entry, of type EE, covers the disk (5.2.3).
fn protective_mbr(start: &[u8], sectors: u64) -> Option<Vec<u8>> {
    let mut mbr = start.get(..512)?.to_vec();
    let place = (0..4).map(|at| 446 + at * 16).find(|place| mbr[place + 4] == 0xEE)?;
    let covered = u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes();
    mbr[place + 12..place + 16].copy_from_slice(&covered);
    Some(mbr)
}

/// CRC-32 of IEEE 802.3, as 5.3.2 asks; over at most some kilobytes, so
/// without a table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
mod tests;
