//! The partition table of old, as UEFI 2.10 describes it (5.2.1, "Legacy Master
//! Boot Record"): four entries of 16 bytes from byte 446.

use super::{Growth, Unfit, aligned, u32_at};

const ENTRIES: usize = 446;
const ENTRY: usize = 16;
const COUNT: u32 = 4;

/// Types of what holds others.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];

#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// `None` where there is nothing to be gained. `start` is the disk's first
/// sector at least; sizes are bytes.
pub(super) fn grow(
    start: &[u8],
    sector: u64,
    size: u64,
    number: u32,
) -> Result<Option<Growth>, Unfit> {
    if start.get(510..512) != Some(&[0x55, 0xAA]) || sector == 0 {
        return Err(Unfit::Damaged);
    }
    if number == 0 || number > COUNT {
        return Err(Unfit::Logical);
    }
    let entry = |at: usize| {
        let place = ENTRIES + at * ENTRY;
        Some(Entry {
            kind: *start.get(place + 4)?,
            start: u32_at(start, place + 8)?.into(),
            sectors: u32_at(start, place + 12)?.into(),
        })
    };
    let all: Vec<Entry> = (0..COUNT as usize).filter_map(entry).collect();
    let at = number as usize - 1;
    let own = *all.get(at).ok_or(Unfit::Damaged)?;
    if own.kind == 0 || own.sectors == 0 {
        return Err(Unfit::NoSuch);
    }
    if EXTENDED.contains(&own.kind) {
        return Err(Unfit::Logical);
    }
    // Sectors count in 32 bits.
    let disk_end = (size / sector).min(u64::from(u32::MAX));
    let next = all.iter().filter(|e| e.kind != 0 && e.start > own.start).map(|e| e.start).min();
    let end = aligned(next.unwrap_or(disk_end).min(disk_end), sector);
    if end <= own.start + own.sectors {
        return Ok(None);
    }
    let sectors = end - own.start;
    let mut table = start[..512].to_vec();
    let place = ENTRIES + at * ENTRY;
    let count = u32::try_from(sectors).map_err(|_| Unfit::Damaged)?;
    table[place + 12..place + 16].copy_from_slice(&count.to_le_bytes());
    // Cylinder, head and sector of the end: beyond what they can say, as
    // everybody writes it.
    table[place + 5..place + 8].copy_from_slice(&[0xFE, 0xFF, 0xFF]);
    Ok(Some(Growth {
        writes: vec![(0, table)],
        start: own.start * sector,
        length: sectors * sector,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn table(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut table = vec![0; 512];
        table[510..].copy_from_slice(&[0x55, 0xAA]);
        for (at, (kind, start, sectors)) in entries.iter().enumerate() {
            let place = ENTRIES + at * ENTRY;
            table[place + 4] = *kind;
            table[place + 8..place + 12].copy_from_slice(&start.to_le_bytes());
            table[place + 12..place + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        table
    }

    #[test]
    fn the_last_one_takes_what_there_is() {
        let before = table(&[(0x83, 2048, 4096), (0x83, 8192, 2048)]);
        let growth = grow(&before, 512, 64 * MIB + 700, 2).unwrap().unwrap();
        assert_eq!((growth.start, growth.length), (4 * MIB, 60 * MIB));
        let [(0, after)] = growth.writes.as_slice() else { panic!("{growth:?}") };
        assert_eq!(u32_at(after, ENTRIES + ENTRY + 12), Some(61_440 * 2));
        assert_eq!(after[..ENTRIES + ENTRY], before[..ENTRIES + ENTRY]);
        // Once more there is nothing to do.
        assert_eq!(grow(after, 512, 64 * MIB + 700, 2), Ok(None));
        // Another one follows the first, with a gap.
        let growth = grow(&before, 512, 64 * MIB, 1).unwrap().unwrap();
        assert_eq!((growth.start, growth.length), (MIB, 3 * MIB));
    }

    #[test]
    fn what_cannot_be_grown_is_said() {
        let some = table(&[(0x83, 2048, 4096), (0x05, 8192, 2048)]);
        assert_eq!(grow(&some, 512, 64 * MIB, 2), Err(Unfit::Logical));
        assert_eq!(grow(&some, 512, 64 * MIB, 3), Err(Unfit::NoSuch));
        assert_eq!(grow(&some, 512, 64 * MIB, 5), Err(Unfit::Logical));
        assert_eq!(grow(&[0; 512], 512, 64 * MIB, 1), Err(Unfit::Damaged));
        assert_eq!(grow(&some[..100], 512, 64 * MIB, 1), Err(Unfit::Damaged));
        // A disk of 4 TiB: its second half is out of reach.
        let growth = grow(&table(&[(0x83, 2048, 4096)]), 512, 1 << 42, 1).unwrap().unwrap();
        assert!(growth.length < 1 << 41);
    }
}
