//! Documentation/filesystems/ext4, "Linear (Classic) Directories". The blocks
//! of a hash tree look like unused entries in there, so that reading all blocks
//! one after the other finds every name.

use std::collections::BTreeMap;

use super::inode::{Inode, InodeKind};
use super::{Fields, ReadError, Volume, damaged};

/// More names in one directory than an image may have at all.
const MAX_NAMES: usize = 2_000_000;

/// Inodes by their names, without `.` and `..`.
pub(crate) type Listing = BTreeMap<Box<[u8]>, u32>;

impl Volume {
    pub(crate) fn list(&self, dir: &Inode) -> Result<Listing, ReadError> {
        if dir.kind != InodeKind::Dir {
            return Err(damaged(format!("inode {} is no directory", dir.number)));
        }
        let mut names = Listing::new();
        for span in self.spans(dir)? {
            let blocks = span.len / self.sb.block;
            for block in span.block..span.block + blocks {
                self.entries(dir, &self.block(block)?, &mut names)?;
            }
        }
        Ok(names)
    }

    /// The inode that a name in a directory leads to.
    pub(crate) fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<Inode>, ReadError> {
        let names = self.list(dir)?;
        names.get(name).map(|&number| self.inode(number)).transpose()
    }

    fn entries(&self, dir: &Inode, block: &[u8], names: &mut Listing) -> Result<(), ReadError> {
        let wrong = |why: &str| damaged(format!("the directory {} {why}", dir.number));
        let mut at = 0;
        while at < block.len() {
            let entry = &block[at..];
            let (inode, len) = (entry.u32_at(0), usize::from(entry.u16_at(4)));
            let name_len = usize::from(entry.bytes_at::<1>(6)[0]);
            if len < 8 || len % 4 != 0 || len > entry.len() || 8 + name_len > len {
                return Err(wrong("has an entry of a wrong length"));
            }
            at += len;
            let name = &entry[8..8 + name_len];
            if inode == 0 || matches!(name, b"." | b"..") {
                continue;
            }
            if name.is_empty() || name.iter().any(|c| matches!(c, b'/' | 0)) {
                return Err(wrong("has a name that is none"));
            }
            if names.len() == MAX_NAMES {
                return Err(wrong("has more than two million names"));
            }
            if names.insert(name.into(), inode).is_some() {
                return Err(wrong("has a name twice"));
            }
        }
        Ok(())
    }
}
