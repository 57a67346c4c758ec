//! Which architecture a disk's system is for, as far as its partitions say so:
//! the types that name one (UEFI specification 2.10, 5.3; the Discoverable
//! Partitions Specification). Many distributions give theirs a type that names
//! none, and then nothing is known.

use inn_units::Architecture;

/// The header and the usual table: 34 sectors of 512 bytes (5.3.1).
pub(super) const HEAD: usize = 34 * 512;

const HEADER: usize = 512;
const SIGNATURE: &[u8] = b"EFI PART";

/// An entry's least size, and the step of all others (table 5.5).
const ENTRY: usize = 128;

/// As they stand on a disk: the first three fields are little-endian.
const TYPES: [([u8; 16], Architecture); 5] = [
    // 4f68bce3-e8cd-4db1-96e7-fbcaf984b709, root
    (guid(0x4f68_bce3, 0xe8cd, 0x4db1, 0x96e7_fbca_f984_b709), Architecture::X86_64),
    // 8484680c-9521-48c6-9c11-b0720656f69e, /usr
    (guid(0x8484_680c, 0x9521, 0x48c6, 0x9c11_b072_0656_f69e), Architecture::X86_64),
    // 21686148-6449-6e6f-744e-656564454649, for GRUB where there is a BIOS
    (guid(0x2168_6148, 0x6449, 0x6e6f, 0x744e_6565_6445_4649), Architecture::X86_64),
    // b921b045-1df0-41c3-af44-4c6f280d3fae, root
    (guid(0xb921_b045, 0x1df0, 0x41c3, 0xaf44_4c6f_280d_3fae), Architecture::Aarch64),
    // b0e01050-ee5f-4390-949a-9101b17104e9, /usr
    (guid(0xb0e0_1050, 0xee5f, 0x4390, 0x949a_9101_b171_04e9), Architecture::Aarch64),
];

const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) =
        (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let [d0, d1, d2, d3, d4, d5, d6, d7] = d.to_be_bytes();
    [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7]
}

/// By the first [`HEAD`] bytes of a disk, or as many as there are. Nothing
/// where they name several.
pub(super) fn architecture(head: &[u8]) -> Option<Architecture> {
    let header = head.get(HEADER..).filter(|header| header.starts_with(SIGNATURE))?;
    let first = u64::from_le_bytes(header.get(72..80)?.try_into().ok()?);
    let count = u32::from_le_bytes(header.get(80..84)?.try_into().ok()?);
    let size = u32::from_le_bytes(header.get(84..88)?.try_into().ok()?);
    let size = usize::try_from(size).ok().filter(|size| *size >= ENTRY)?;
    let table = head.get(usize::try_from(first.checked_mul(512)?).ok()?..)?;
    let entries = table.chunks_exact(size).take(usize::try_from(count).ok()?);
    let mut known = entries.filter_map(|entry| {
        TYPES
            .iter()
            .find(|(kind, _)| entry.starts_with(kind))
            .map(|(_, architecture)| *architecture)
    });
    let first = known.next()?;
    known.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk's head with partitions of these types.
    fn disk(types: &[[u8; 16]]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[HEADER..HEADER + 8].copy_from_slice(SIGNATURE);
        head[HEADER + 72] = 2;
        head[HEADER + 80] = 128;
        head[HEADER + 84] = 128;
        for (index, kind) in types.iter().enumerate() {
            let at = 1024 + index * ENTRY;
            head[at..at + 16].copy_from_slice(kind);
        }
        head
    }

    #[test]
    fn a_partition_s_type_names_it() {
        // The EFI system partition (table 5.7), which every architecture has.
        let efi = guid(0xc12a_7328, 0xf81f, 0x11d2, 0xba4b_00a0_c93e_c93b);
        assert_eq!(efi[..6], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8]);
        assert_eq!(architecture(&disk(&[efi])), None);
        for (kind, wanted) in TYPES {
            assert_eq!(architecture(&disk(&[efi, kind])), Some(wanted));
        }
        let [x86, arm] = [TYPES[0].0, TYPES[3].0];
        assert_eq!(architecture(&disk(&[x86, x86])), Some(Architecture::X86_64));
        assert_eq!(architecture(&disk(&[x86, arm])), None, "of both");
    }

    #[test]
    fn what_is_no_table_names_nothing() {
        let whole = disk(&[TYPES[3].0]);
        for length in [0, 511, 512, 600, 1024, 1100] {
            assert_eq!(architecture(&whole[..length]), None, "{length}");
        }
        for (at, bytes) in [
            (HEADER, &b"efi"[..]),
            (HEADER + 72, &[0xff; 8]),
            (HEADER + 80, &[0; 4]),
            (HEADER + 84, &[0; 4]),
            (HEADER + 84, &[0xff; 4]),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(architecture(&bad), None, "{at}: {bytes:?}");
        }
    }
}
