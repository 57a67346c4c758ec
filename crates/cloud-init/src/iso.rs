//! A small ISO 9660 file system (ECMA-119, 4th edition) with the Rock Ridge
//! extensions (IEEE P1282) that give its files their names and modes: one
//! directory, nothing that depends on the time or the host.
//!
//! ```text
//!   sector 0..16  nothing            18, 19  path tables, one for each byte order
//!          16     volume descriptor  20…     the root directory
//!          17     end of these       …       the files, each from a sector's start
//! ```
//!
//! ISO 9660 rather than FAT: it can be read only, which is what the disk is,
//! and needs no code page in the guest's kernel.

/// ECMA-119, 6.1.2: what Linux and everybody else has.
const SECTOR: usize = 2048;

const DESCRIPTOR_AT: usize = 16;
const PATH_TABLE_L: u32 = 18;
const PATH_TABLE_M: u32 = 19;
const ROOT_AT: u32 = 20;

/// The root's only entry: 8 bytes, an identifier of one byte, and its padding.
const PATH_TABLE_LEN: u32 = 10;

/// 1 January 2000, midnight, UTC (9.1.5): years since 1900, and so on.
const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// A file of the disk. Its name has at most 30 letters, digits, `-`, `_`, `.`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IsoFile<'a> {
    pub(crate) name: &'a str,
    /// Of its permissions.
    pub(crate) mode: u32,
    pub(crate) bytes: &'a [u8],
}

/// The whole disk. Files stand in it in the order of their names, as the
/// standard wants it (9.3).
pub(crate) fn disk(label: &str, files: &[IsoFile<'_>]) -> Vec<u8> {
    let mut files: Vec<IsoFile<'_>> = files.to_vec();
    files.sort_by_key(|file| identifier(file.name));
    // Where the files lie depends on how long the directory is, and not the
    // other way round.
    let root_len = directory(&files, 0, 0).len();
    let mut at = ROOT_AT + sectors(root_len);
    let root = directory(&files, at, number(root_len));
    for file in &files {
        at += sectors(file.bytes.len());
    }

    let mut disk = vec![0; DESCRIPTOR_AT * SECTOR];
    disk.extend(descriptor(label, at, number(root_len)));
    disk.extend(terminator());
    for place in [u32::to_le_bytes, u32::to_be_bytes] {
        // 9.4: a name of one byte that is zero, whose parent is the first
        // directory, itself.
        let mut table = vec![1, 0];
        table.extend(place(ROOT_AT));
        // The parent's number is 1, in this byte order.
        let [a, b, c, d] = place(1);
        table.extend(if a == 1 { [a, b] } else { [c, d] });
        table.extend([0, 0]);
        pad(&mut table);
        disk.extend(table);
    }
    disk.extend(root);
    for file in &files {
        disk.extend_from_slice(file.bytes);
        pad(&mut disk);
    }
    disk
}

/// 8.4, the primary volume descriptor.
fn descriptor(label: &str, sectors: u32, root_len: u32) -> Vec<u8> {
    let mut d = vec![1];
    d.extend(b"CD001");
    d.extend([1, 0]);
    text(&mut d, "LINUX", 32);
    text(&mut d, label, 32);
    d.extend([0; 8]);
    both32(&mut d, sectors);
    d.extend([0; 32]);
    both16(&mut d, 1);
    both16(&mut d, 1);
    both16(&mut d, 2048);
    both32(&mut d, PATH_TABLE_LEN);
    d.extend(PATH_TABLE_L.to_le_bytes());
    d.extend([0; 4]);
    d.extend(PATH_TABLE_M.to_be_bytes());
    d.extend([0; 4]);
    d.extend(record(b"\0", ROOT_AT, root_len, true, &[]));
    text(&mut d, "", 128);
    text(&mut d, "", 128);
    text(&mut d, "INNKEEPER", 128);
    text(&mut d, "", 128);
    for _ in 0..3 {
        text(&mut d, "", 37);
    }
    for _ in 0..4 {
        // 8.4.26.1: no time is specified.
        d.extend([b'0'; 16]);
        d.push(0);
    }
    d.extend([1, 0]);
    pad(&mut d);
    d
}

fn terminator() -> Vec<u8> {
    let mut d = vec![255];
    d.extend(b"CD001\x01");
    pad(&mut d);
    d
}

/// The root directory: itself twice, for it is its own parent, and the files,
/// of which the first lies at `first`.
fn directory(files: &[IsoFile<'_>], first: u32, root_len: u32) -> Vec<u8> {
    // SUSP 5.3: extensions begin at once; RRIP 4.1: which these are.
    let mut own = vec![b'S', b'P', 7, 1, 0xbe, 0xef, 0];
    own.extend(b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A");
    own.extend(posix(DIRECTORY, 2));
    let mut at = first;
    let mut records = vec![
        record(b"\0", ROOT_AT, root_len, true, &own),
        record(b"\x01", ROOT_AT, root_len, true, &posix(DIRECTORY, 2)),
    ];
    for file in files {
        let mut extensions = posix(REGULAR | file.mode, 1);
        extensions.extend([b'N', b'M', byte(5 + file.name.len()), 1, 0]);
        extensions.extend(file.name.bytes());
        let name = identifier(file.name);
        records.push(record(name.as_bytes(), at, number(file.bytes.len()), false, &extensions));
        at += sectors(file.bytes.len());
    }
    let mut directory = Vec::new();
    for record in records {
        // 6.8.1.1: none reaches over the end of a sector.
        if directory.len() % SECTOR + record.len() > SECTOR {
            pad(&mut directory);
        }
        directory.extend(record);
    }
    pad(&mut directory);
    directory
}

/// 9.1, with the system use area behind it.
fn record(name: &[u8], at: u32, length: u32, is_directory: bool, extensions: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    both32(&mut record, at);
    both32(&mut record, length);
    record.extend(DATE);
    record.extend([if is_directory { 2 } else { 0 }, 0, 0]);
    both16(&mut record, 1);
    record.push(byte(name.len()));
    record.extend(name);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record.extend(extensions);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = byte(record.len());
    record
}

/// RRIP 4.1.1: mode, links, and root as owner.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut px = vec![b'P', b'X', 36, 1];
    for field in [mode, links, 0, 0] {
        both32(&mut px, field);
    }
    px
}

/// 7.5.1: capital letters, digits and underscores, for who knows no Rock Ridge.
fn identifier(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(plain).collect();
    format!("{name}.;1")
}

fn text(out: &mut Vec<u8>, text: &str, width: usize) {
    let mut field = text.as_bytes().to_vec();
    field.resize(width, b' ');
    out.extend(field);
}

/// 7.3.3: both byte orders, one after the other.
fn both32(out: &mut Vec<u8>, n: u32) {
    out.extend(n.to_le_bytes());
    out.extend(n.to_be_bytes());
}

fn both16(out: &mut Vec<u8>, n: u16) {
    out.extend(n.to_le_bytes());
    out.extend(n.to_be_bytes());
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

fn sectors(bytes: usize) -> u32 {
    number(bytes.div_ceil(SECTOR))
}

/// Files of this crate's have some megabytes at most.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Names have 30 characters at most, so that no record is longer than 255.
fn byte(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads it back as the standard says, knowing nothing of how it was made.
    fn files_of(disk: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let u32_at = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap());
        let pvd = 16 * SECTOR;
        assert_eq!(&disk[pvd..pvd + 7], b"\x01CD001\x01");
        assert_eq!(u32_at(pvd + 80) as usize * SECTOR, disk.len());
        let (root, length) = (u32_at(pvd + 158) as usize * SECTOR, u32_at(pvd + 166) as usize);
        let (mut at, mut found) = (root, Vec::new());
        while at < root + length {
            let size = disk[at] as usize;
            if size == 0 {
                at = at.next_multiple_of(SECTOR);
                continue;
            }
            let id = disk[at + 32] as usize;
            let mut use_at = (33 + id).next_multiple_of(2);
            let (mut name, mut mode) = (String::new(), 0);
            while use_at + 4 <= size {
                let entry = &disk[at + use_at..at + size];
                match &entry[..2] {
                    b"NM" => {
                        name = String::from_utf8(entry[5..entry[2] as usize].to_vec()).unwrap();
                    }
                    b"PX" => mode = u32::from_le_bytes(entry[4..8].try_into().unwrap()),
                    _ => {}
                }
                use_at += entry[2] as usize;
            }
            if disk[at + 25] & 2 == 0 {
                let (place, length) = (u32_at(at + 2) as usize * SECTOR, u32_at(at + 10) as usize);
                found.push((name, mode, disk[place..place + length].to_vec()));
            }
            at += size;
        }
        found
    }

    #[test]
    fn what_is_put_in_is_found_again() {
        let big = vec![7; 5_000];
        let files = [
            IsoFile { name: "user-data", mode: 0o400, bytes: b"#cloud-config\n{}\n" },
            IsoFile { name: "meta-data", mode: 0o400, bytes: b"" },
            IsoFile { name: "inn-guest.service", mode: 0o644, bytes: b"[Unit]\n" },
            IsoFile { name: "inn-guest", mode: 0o755, bytes: &big },
        ];
        let disk = disk("cidata", &files);
        assert_eq!(disk.len() % SECTOR, 0);
        assert_eq!(&disk[16 * SECTOR + 40..][..8], b"cidata  ");
        let found = files_of(&disk);
        assert_eq!(found.len(), 4);
        for file in files {
            let it = found.iter().find(|it| it.0 == file.name).unwrap();
            assert_eq!((it.1, it.2.as_slice()), (REGULAR | file.mode, file.bytes));
        }
        assert_eq!(disk, super::disk("cidata", &files), "the same each time");
    }

    #[test]
    fn a_directory_may_have_many_sectors() {
        let names: Vec<String> = (0..100).map(|n| format!("file-number-{n:03}")).collect();
        let files: Vec<IsoFile<'_>> = names
            .iter()
            .map(|name| IsoFile { name, mode: 0o644, bytes: name.as_bytes() })
            .collect();
        let found = files_of(&disk("MANY", &files));
        let found: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(found, names);
    }
}
