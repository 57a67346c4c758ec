//! Documentation/filesystems/ext4, "Extent Tree".

use super::inode::Inode;
use super::{Fields, ReadError, Volume, damaged};

const MAGIC: u16 = 0xf30a;
/// As deep as the kernel goes (EXT4_MAX_EXTENT_DEPTH).
const MAX_DEPTH: u16 = 5;
/// EXT_INIT_MAX_LEN: a longer one was allocated and never written.
const INIT_MAX: u32 = 32768;
/// A file of 16 GiB of which no two blocks are neighbours.
const MAX_SPANS: usize = 4 << 20;

/// Bytes of a file that are written somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    /// No more than the file has.
    pub(crate) len: u64,
    /// The first of its blocks.
    pub(crate) block: u64,
}

impl Volume {
    /// Where a file's content is; what is in none of them reads as zeros.
    pub(crate) fn spans(&self, inode: &Inode) -> Result<Vec<Span>, ReadError> {
        if !inode.has_extents {
            if inode.inner.iter().all(|&byte| byte == 0) {
                return Ok(Vec::new());
            }
            return Err(ReadError::Unsupported("files with block maps".into()));
        }
        let mut walk = Walk { volume: self, inode, spans: Vec::new(), next: 0, nodes: 0 };
        walk.node(&inode.inner, None)?;
        Ok(walk.spans)
    }

    /// Reads `take` bytes of a span, from `skip` on, which begins at a block.
    pub(crate) fn read(
        &self,
        span: &Span,
        skip: u64,
        take: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let block = self.sb.block;
        let size = |n: u64| usize::try_from(n).map_err(|_| damaged("its blocks"));
        into.resize(size(take.next_multiple_of(block))?, 0);
        self.device.blocks(span.block + skip / block, into)?;
        into.truncate(size(take)?);
        Ok(())
    }
}

struct Walk<'a> {
    volume: &'a Volume,
    inode: &'a Inode,
    spans: Vec<Span>,
    /// The first logical block that may come.
    next: u64,
    nodes: usize,
}

impl Walk<'_> {
    fn wrong(&self, why: &str) -> ReadError {
        damaged(format!("the extents of inode {} {why}", self.inode.number))
    }

    fn node(&mut self, node: &[u8], depth: Option<u16>) -> Result<(), ReadError> {
        let (entries, found) = (usize::from(node.u16_at(2)), node.u16_at(6));
        if node.u16_at(0) != MAGIC || found > MAX_DEPTH || depth.is_some_and(|d| d != found) {
            return Err(self.wrong("have a strange node"));
        }
        if 12 + 12 * entries > node.len() {
            return Err(self.wrong("are more than fit"));
        }
        for entry in node[12..12 + 12 * entries].chunks_exact(12) {
            if found == 0 {
                self.leaf(entry)?;
                continue;
            }
            self.nodes += 1;
            if self.nodes > MAX_SPANS {
                return Err(self.wrong("do not end"));
            }
            let below = u64::from(entry.u32_at(4)) | u64::from(entry.u16_at(8)) << 32;
            let before = self.next;
            let block = self.volume.block(below)?;
            self.node(&block, Some(found - 1))?;
            // An empty node, or one met before, leads nowhere.
            if self.next == before {
                return Err(self.wrong("go in a circle"));
            }
        }
        Ok(())
    }

    fn leaf(&mut self, entry: &[u8]) -> Result<(), ReadError> {
        let first = u64::from(entry.u32_at(0));
        let raw = u32::from(entry.u16_at(4));
        let (len, written) = if raw > INIT_MAX { (raw - INIT_MAX, false) } else { (raw, true) };
        let start = u64::from(entry.u32_at(8)) | u64::from(entry.u16_at(6)) << 32;
        let len = u64::from(len);
        if first < self.next || len == 0 {
            return Err(self.wrong("are not in order"));
        }
        if start == 0 || start.saturating_add(len) > self.volume.sb.blocks {
            return Err(self.wrong("lead out of the disk"));
        }
        self.next = first + len;
        let block = self.volume.sb.block;
        let offset = first * block;
        // What is allocated past the end is not content (FALLOC_FL_KEEP_SIZE).
        if !written || offset >= self.inode.size {
            return Ok(());
        }
        let bytes = (len * block).min(self.inode.size - offset);
        if let Some(last) = self.spans.last_mut()
            && last.offset + last.len == offset
            && last.block + last.len / block == start
        {
            last.len += bytes;
            return Ok(());
        }
        if self.spans.len() == MAX_SPANS {
            return Err(self.wrong("are in too many pieces"));
        }
        self.spans.push(Span { offset, len: bytes, block: start });
        Ok(())
    }
}
