//! Linear directories (Documentation/filesystems/ext4, "Linear (Classic)
//! Directories"). Without dir_index: the guest caches what it looked up, and
//! a lookup in 10,000 names reads some hundred blocks once.

use super::layout::{BLOCK_BYTES, Record};

/// The file type byte of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum EntryType {
    File = 1,
    Dir = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    Symlink = 7,
}

/// Packs entries into blocks; the last entry of each reaches to its end.
#[derive(Debug, Default)]
pub(super) struct DirBlocks {
    bytes: Vec<u8>,
    /// Where the last entry begins.
    last: usize,
    /// Where it ends, before being stretched.
    used: usize,
}

impl DirBlocks {
    pub(super) fn push(&mut self, inode: u32, kind: EntryType, name: &[u8]) {
        let size = (8 + name.len()).next_multiple_of(4);
        if self.used + size > self.bytes.len() {
            self.stretch();
            self.used = self.bytes.len();
            self.bytes.resize(self.used + BLOCK_BYTES, 0);
        }
        let length = |n: usize| u16::try_from(n).expect("an entry is within its block");
        let mut entry = Record(&mut self.bytes[self.used..]);
        entry.u32(0, inode);
        entry.u16(4, length(size));
        entry.u8(6, u8::try_from(name.len()).expect("names have at most 255 bytes"));
        entry.u8(7, kind as u8);
        entry.bytes(8, name);
        self.last = self.used;
        self.used += size;
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.stretch();
        self.bytes
    }

    fn stretch(&mut self) {
        if !self.bytes.is_empty() {
            let length = u16::try_from(self.bytes.len() - self.last).expect("at most one block");
            Record(&mut self.bytes[self.last..]).u16(4, length);
        }
    }
}
