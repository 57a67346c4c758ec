//! Which file system a device holds, by the marks that blkid(8) goes by.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// All marks, and what a fresh disk must have empty to count as such.
const LOOKED_AT: usize = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    FileSystem {
        kind: &'static str,
        /// As fstab(5) takes it; a few kinds have none.
        uuid: Option<String>,
    },
    /// Not one byte at either end.
    Nothing,
    Unknown,
}

pub(super) fn probe(device: &Path, size: u64) -> io::Result<Found> {
    let file = File::open(device)?;
    let mut start = vec![0; LOOKED_AT];
    let length = read_at(&file, &mut start, 0)?;
    start.truncate(length);
    let found = recognise(&start);
    if found != Found::Nothing {
        return Ok(found);
    }
    // A software RAID's mark may be at the end (md(4), version 1.0).
    let mut end = vec![0; LOOKED_AT];
    let length = read_at(&file, &mut end, size.saturating_sub(LOOKED_AT as u64))?;
    Ok(if end[..length].iter().all(|byte| *byte == 0) { Found::Nothing } else { Found::Unknown })
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn recognise(start: &[u8]) -> Found {
    let has = |at: usize, mark: &[u8]| start.get(at..at + mark.len()) == Some(mark);
    let uuid = |at: usize| start.get(at..at + 16).map(format_uuid);
    let found = |kind, uuid| Found::FileSystem { kind, uuid };
    if has(0x438, &[0x53, 0xEF]) {
        // Its driver mounts ext2 and ext3 as well.
        found("ext4", uuid(0x468))
    } else if has(0, b"XFSB") {
        found("xfs", uuid(32))
    } else if has(0x1_0040, b"_BHRfS_M") {
        found("btrfs", uuid(0x1_0020))
    } else if has(1024, &[0xE2, 0xE1, 0xF5, 0xE0]) {
        found("erofs", uuid(1024 + 48))
    } else if has(0, b"hsqs") {
        found("squashfs", None)
    } else if has(0x8001, b"CD001") {
        found("iso9660", None)
    } else if has(510, &[0x55, 0xAA]) && has(82, b"FAT32   ") {
        found("vfat", start.get(67..71).map(format_serial))
    } else if has(510, &[0x55, 0xAA]) && (has(54, b"FAT16   ") || has(54, b"FAT12   ")) {
        found("vfat", start.get(39..43).map(format_serial))
    } else if start.iter().all(|byte| *byte == 0) {
        Found::Nothing
    } else {
        Found::Unknown
    }
}

fn format_uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Of FAT: four bytes, little endian.
fn format_serial(bytes: &[u8]) -> String {
    format!("{:02X}{:02X}-{:02X}{:02X}", bytes[3], bytes[2], bytes[1], bytes[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(marks: &[(usize, &[u8])]) -> Found {
        let mut start = vec![0; LOOKED_AT];
        for (at, mark) in marks {
            start[*at..at + mark.len()].copy_from_slice(mark);
        }
        recognise(&start)
    }

    fn kind(found: &Found) -> (&'static str, Option<&str>) {
        match found {
            Found::FileSystem { kind, uuid } => (kind, uuid.as_deref()),
            Found::Nothing => ("nothing", None),
            Found::Unknown => ("unknown", None),
        }
    }

    const ID: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
    const UUID: Option<&str> = Some("00010203-0405-0607-0809-0a0b0c0d0eff");

    #[test]
    fn marks_and_ids() {
        assert_eq!(kind(&with(&[(0x438, &[0x53, 0xEF]), (0x468, ID)])), ("ext4", UUID));
        assert_eq!(kind(&with(&[(0, b"XFSB"), (32, ID)])), ("xfs", UUID));
        assert_eq!(kind(&with(&[(0x1_0040, b"_BHRfS_M"), (0x1_0020, ID)])), ("btrfs", UUID));
        assert_eq!(kind(&with(&[(0, b"hsqs")])), ("squashfs", None));
        assert_eq!(kind(&with(&[(0x8001, b"CD001")])), ("iso9660", None));
        let fat = with(&[(510, &[0x55, 0xAA]), (82, b"FAT32   "), (67, &[0xEF, 0xBE, 0xAD, 0xDE])]);
        assert_eq!(kind(&fat), ("vfat", Some("DEAD-BEEF")));
        assert_eq!(kind(&with(&[])), ("nothing", None));
        // A partition table is no file system, and not nothing either.
        assert_eq!(kind(&with(&[(510, &[0x55, 0xAA])])), ("unknown", None));
        assert_eq!(recognise(&[]), Found::Nothing);
    }

    #[test]
    fn the_end_counts_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let size = 3 * LOOKED_AT as u64;
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        assert_eq!(probe(&path, size).unwrap(), Found::Nothing);
        file.write_all_at(b"x", size - 4096).unwrap();
        assert_eq!(probe(&path, size).unwrap(), Found::Unknown);
    }
}
