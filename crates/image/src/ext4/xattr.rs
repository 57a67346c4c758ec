//! Extended attributes (Documentation/filesystems/ext4, "Extended
//! Attributes"; fs/ext4/xattr.h): in the inode where they fit, else in one
//! block of their own.

use super::layout::{BLOCK_BYTES, INODE_BYTES, INODE_XATTR_AT, Record};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
/// The magic number before the entries in an inode.
const INODE_HEADER: usize = 4;
/// Four zero bytes end the entries.
const TERMINATOR: usize = 4;

/// One attribute; ordered as a block has to have them: by name space, then
/// by the length of the name, then by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xattr {
    index: u8,
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Xattr {
    /// From the full name; `None` for a name space that ext4 does not have.
    /// An access list is taken in the form that system calls use and turned
    /// into the file system's own; `None` also where it is malformed.
    pub(crate) fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let made = |index, name: &[u8], value: Vec<u8>| {
            let xattr = Self { index, name: name.into(), value: value.into() };
            (name.len() <= 255).then_some(xattr)
        };
        match name {
            b"system.posix_acl_access" => made(2, b"", stored_acl(value)?),
            b"system.posix_acl_default" => made(3, b"", stored_acl(value)?),
            _ => {
                let spaces: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
                let (index, rest) = spaces
                    .iter()
                    .find_map(|(i, prefix)| Some((*i, name.strip_prefix(*prefix)?)))?;
                if rest.is_empty() {
                    return None;
                }
                made(index, rest, value.to_vec())
            }
        }
    }

    fn key(&self) -> (u8, usize, &[u8]) {
        (self.index, self.name.len(), &self.name)
    }

    pub(crate) fn same_name(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    fn entry_size(&self) -> usize {
        (16 + self.name.len()).next_multiple_of(4)
    }

    fn size(&self) -> usize {
        self.entry_size() + self.value.len().next_multiple_of(4)
    }
}

/// fs/ext4/acl.h: version 1, and an id only where the entry has one.
fn stored_acl(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut out = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let stored = if tag == USER || tag == GROUP { entry } else { &entry[..4] };
        out.extend_from_slice(stored);
    }
    Some(out)
}

/// Attributes as they go to the disk.
#[derive(Debug)]
pub(super) struct Encoded {
    /// What stands in the inode behind its fields; empty without any.
    pub(super) inode: Vec<u8>,
    pub(super) block: Option<Box<[u8; BLOCK_BYTES]>>,
}

/// Whether an inode can have them all.
pub(crate) fn fit(xattrs: &[Xattr]) -> bool {
    encode(xattrs).is_some()
}

/// `None` when they do not fit: 96 bytes in the inode and 4 KiB outside.
pub(super) fn encode(xattrs: &[Xattr]) -> Option<Encoded> {
    if xattrs.is_empty() {
        return Some(Encoded { inode: Vec::new(), block: None });
    }
    let mut sorted: Vec<&Xattr> = xattrs.iter().collect();
    sorted.sort_by(|a, b| a.key().cmp(&b.key()));
    let in_inode = INODE_BYTES - INODE_XATTR_AT - INODE_HEADER - TERMINATOR;
    let in_block = BLOCK_BYTES - BLOCK_HEADER - TERMINATOR;
    let total = |list: &[&Xattr]| list.iter().map(|x| x.size()).sum::<usize>();
    let (inner, outer) = if total(&sorted) <= in_inode {
        (sorted, Vec::new())
    } else if total(&sorted) <= in_block {
        (Vec::new(), sorted)
    } else {
        let mut left = in_inode;
        sorted.into_iter().partition(|xattr| {
            let fits = xattr.size() <= left;
            if fits {
                left -= xattr.size();
            }
            fits
        })
    };
    if total(&outer) > in_block {
        return None;
    }
    let mut inode = Vec::new();
    if !inner.is_empty() {
        inode.resize(INODE_BYTES - INODE_XATTR_AT, 0);
        Record(&mut inode).u32(0, MAGIC);
        // Values in an inode are found from the first entry on.
        write_entries(&mut inode[INODE_HEADER..], &inner, 0);
    }
    let block = (!outer.is_empty()).then(|| {
        let mut block = Box::new([0u8; BLOCK_BYTES]);
        let hash = write_entries(&mut block[..], &outer, BLOCK_HEADER);
        let mut header = Record(&mut block[..]);
        header.u32(0, MAGIC);
        header.u32(4, 1); // references
        header.u32(8, 1); // blocks
        header.u32(12, hash);
        block
    });
    Some(Encoded { inode, block })
}

/// Entries from `first` on, values from the end down; returns the hash over
/// all (ext4_xattr_rehash).
fn write_entries(area: &mut [u8], xattrs: &[&Xattr], first: usize) -> u32 {
    let fits = |n: usize| u16::try_from(n).expect("offsets are within a block");
    let (mut at, mut end) = (first, area.len());
    let mut all = 0u32;
    for xattr in xattrs {
        end -= xattr.value.len().next_multiple_of(4);
        area[end..end + xattr.value.len()].copy_from_slice(&xattr.value);
        let hash = entry_hash(xattr);
        all = all.rotate_left(16) ^ hash;
        let mut entry = Record(&mut area[at..]);
        entry.u8(0, u8::try_from(xattr.name.len()).expect("checked in new"));
        entry.u8(1, xattr.index);
        entry.u16(2, if xattr.value.is_empty() { 0 } else { fits(end) });
        entry.u32(8, u32::from(fits(xattr.value.len())));
        entry.u32(12, hash);
        entry.bytes(16, &xattr.name);
        at += xattr.entry_size();
    }
    all
}

/// ext4_xattr_hash_entry, with the unsigned characters of Linux 6.3 on.
fn entry_hash(xattr: &Xattr) -> u32 {
    let name = xattr.name.iter().fold(0u32, |hash, &c| hash.rotate_left(5) ^ u32::from(c));
    xattr.value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0u8; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}
