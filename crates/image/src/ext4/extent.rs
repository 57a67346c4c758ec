//! Extent trees (Documentation/filesystems/ext4, "Extent Tree").

use super::Ext4Error;
use super::alloc::Run;
use super::layout::{BLOCK_BYTES, Record, halves};

/// EXT_INIT_MAX_LEN: a longer length would mean "unwritten".
pub(super) const MAX_EXTENT: u64 = 32768;
const MAGIC: u16 = 0xf30a;
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK_BYTES - 12) / 12;

/// A file's blocks from `logical` on, at `run` on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) logical: u32,
    pub(crate) run: Run,
}

/// Appends a run as extents of at most [`MAX_EXTENT`] blocks.
pub(super) fn push_run(
    extents: &mut Vec<Extent>,
    mut logical: u64,
    run: Run,
) -> Result<(), Ext4Error> {
    let Run { mut start, mut len } = run;
    while len > 0 {
        let part = len.min(MAX_EXTENT);
        let first = u32::try_from(logical).map_err(|_| Ext4Error::FileTooLarge)?;
        extents.push(Extent { logical: first, run: Run { start, len: part } });
        logical += part;
        start += part;
        len -= part;
    }
    Ok(())
}

/// The tree's root as it stands in the inode's `i_block`, and how many
/// blocks `place` was asked for: it takes a node's block and says where it is.
pub(super) fn build(
    extents: &[Extent],
    place: &mut dyn FnMut(&[u8; BLOCK_BYTES]) -> Result<u64, Ext4Error>,
) -> Result<([u8; 60], u64), Ext4Error> {
    // (first logical block, the entry's other eight bytes), one level at a time
    let mut level: Vec<[u8; 12]> = extents.iter().map(leaf_entry).collect();
    let mut depth: u16 = 0;
    let mut blocks = 0;
    while level.len() > IN_INODE {
        let mut above = Vec::with_capacity(level.len().div_ceil(IN_BLOCK));
        for node in level.chunks(IN_BLOCK) {
            let mut block = [0u8; BLOCK_BYTES];
            write_node(&mut block, node, IN_BLOCK, depth);
            let at = place(&block)?;
            blocks += 1;
            above.push(index_entry(&node[0], at));
        }
        level = above;
        depth += 1;
    }
    let mut root = [0u8; 60];
    write_node(&mut root, &level, IN_INODE, depth);
    Ok((root, blocks))
}

fn leaf_entry(extent: &Extent) -> [u8; 12] {
    let mut bytes = [0u8; 12];
    let mut entry = Record(&mut bytes);
    let (low, high) = halves(extent.run.start);
    entry.u32(0, extent.logical);
    entry.u16(4, u16::try_from(extent.run.len).expect("extents are split at 32768 blocks"));
    entry.u16(6, u16::try_from(high).expect("block numbers have 32 bits here"));
    entry.u32(8, low);
    bytes
}

fn index_entry(first: &[u8; 12], block: u64) -> [u8; 12] {
    let mut bytes = [0u8; 12];
    bytes[..4].copy_from_slice(&first[..4]);
    Record(&mut bytes).u32(4, halves(block).0);
    bytes
}

fn write_node(into: &mut [u8], entries: &[[u8; 12]], capacity: usize, depth: u16) {
    let count = |n: usize| u16::try_from(n).expect("a node has at most 340 entries");
    let mut node = Record(into);
    node.u16(0, MAGIC);
    node.u16(2, count(entries.len()));
    node.u16(4, count(capacity));
    node.u16(6, depth);
    for (i, entry) in entries.iter().enumerate() {
        node.bytes(12 + 12 * i, entry);
    }
}
