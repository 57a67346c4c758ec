use super::*;

const SECTOR: u64 = 512;
const MIB: u64 = 1024 * 1024;

/// The start of a disk of 8 MiB with these partitions: first and last sector.
fn table(parts: &[(u64, u64)]) -> Vec<u8> {
    let mut start = vec![0; 34 * 512];
    start[446 + 4] = 0xEE;
    start[446 + 12..446 + 16].copy_from_slice(&16_383_u32.to_le_bytes());
    start[510..512].copy_from_slice(&[0x55, 0xAA]);
    for (at, (first, last)) in parts.iter().enumerate() {
        let place = 1024 + at * 128;
        start[place..place + 16].fill(7);
        start[place + FIRST_LBA..place + FIRST_LBA + 8].copy_from_slice(&first.to_le_bytes());
        start[place + LAST_LBA..place + LAST_LBA + 8].copy_from_slice(&last.to_le_bytes());
    }
    let entries_crc = crc32(&start[1024..1024 + 128 * 128]);
    let header = &mut start[512..512 + 92];
    header[..8].copy_from_slice(SIGNATURE);
    header[HEADER_SIZE..HEADER_SIZE + 4].copy_from_slice(&92_u32.to_le_bytes());
    for (place, value) in
        [(MY_LBA, 1_u64), (OTHER_LBA, 16_383), (LAST_USABLE, 16_350), (ENTRIES_LBA, 2)]
    {
        header[place..place + 8].copy_from_slice(&value.to_le_bytes());
    }
    for (place, value) in [(ENTRY_COUNT, 128_u32), (ENTRY_SIZE, 128), (ENTRIES_CRC, entries_crc)] {
        header[place..place + 4].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32(header);
    header[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    start
}

fn apply(disk: &mut Vec<u8>, size: u64, growth: &Growth) {
    disk.resize(usize::try_from(size).unwrap(), 0);
    for (offset, bytes) in &growth.writes {
        let at = usize::try_from(*offset).unwrap();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[test]
fn crc_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

#[test]
fn the_last_partition_takes_what_there_is() {
    let mut disk = table(&[(2048, 4095), (4096, 8191)]);
    assert!(is_one(&disk, SECTOR) && !is_one(&disk, 4096));
    let size = 16 * MIB;
    let growth = grow(&disk, SECTOR, size, 2).unwrap().unwrap();
    // All but the last, unaligned piece, where the mirror lies.
    assert_eq!((growth.start, growth.length), (2 * MIB, 13 * MIB));
    apply(&mut disk, size, &growth);

    // Both tables are whole, and say the same.
    let sectors = size / SECTOR;
    let primary = checked_header(&disk[512..1024]).unwrap();
    assert_eq!(u64_at(&primary, OTHER_LBA), Some(sectors - 1));
    assert_eq!(u64_at(&primary, LAST_USABLE), Some(sectors - 34));
    let entries = checked_entries(&disk, SECTOR, &primary).unwrap();
    assert_eq!(u64_at(entries, 128 + LAST_LBA), Some(15 * MIB / SECTOR - 1));
    assert_eq!(entries[..128], table(&[(2048, 4095)])[1024..1024 + 128]);
    let last = disk[disk.len() - 512..].to_vec();
    assert_eq!(&last[..8], SIGNATURE);
    assert_eq!((u64_at(&last, MY_LBA), u64_at(&last, OTHER_LBA)), (Some(sectors - 1), Some(1)));
    assert_eq!(u64_at(&last, ENTRIES_LBA), Some(sectors - 33));
    let mut zeroed = last[..92].to_vec();
    zeroed[HEADER_CRC..HEADER_CRC + 4].fill(0);
    assert_eq!(u32_at(&last, HEADER_CRC), Some(crc32(&zeroed)));
    let mirror = disk.len() - 33 * 512;
    assert_eq!(disk[mirror..mirror + 128 * 128], *entries);
    assert_eq!(u32_at(&disk, 446 + 12), u32::try_from(sectors - 1).ok());

    // Once more there is nothing to do.
    assert_eq!(grow(&disk, SECTOR, size, 2), Ok(None));
}

#[test]
fn one_that_is_followed_stays_before_it() {
    let disk = table(&[(6144, 8191), (2048, 3000)]);
    let growth = grow(&disk, SECTOR, 16 * MIB, 2).unwrap().unwrap();
    assert_eq!((growth.start, growth.length), (MIB, 2 * MIB));
    let disk = table(&[(2048, 4095), (4096, 8191)]);
    assert_eq!(grow(&disk, SECTOR, 16 * MIB, 1), Ok(None));
}

#[test]
fn what_is_damaged_stays_as_it_is() {
    let good = table(&[(2048, 4095)]);
    for place in [512 + 8, 512 + LAST_USABLE, 1024 + FIRST_LBA] {
        let mut disk = good.clone();
        disk[place] ^= 1;
        assert_eq!(grow(&disk, SECTOR, 16 * MIB, 1), Err(Unfit::Damaged), "{place}");
    }
    for end in [0, 513, 1024, 2000] {
        assert_eq!(grow(&good[..end], SECTOR, 16 * MIB, 1), Err(Unfit::Damaged), "{end}");
    }
    for number in [0, 2, 129, u32::MAX] {
        assert_eq!(grow(&good, SECTOR, 16 * MIB, number), Err(Unfit::NoSuch), "{number}");
    }
    assert_eq!(grow(&good, SECTOR, 512, 1), Err(Unfit::Damaged));
}
