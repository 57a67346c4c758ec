//! Writes ext4 images without mounting anything.
//!
//! ```text
//!  layers ──> Tree (inodes and names, in memory)
//!         ──> file data, straight to the disk:     | super | descriptors | data … data |
//!  finish ──> what describes it, behind the data:  | … | directories | inode tables | bitmaps |
//! ```
//!
//! File data is written once, where it stays: blocks come from an allocator
//! that only grows, or from holes left by files that a higher layer removed.
//! Directories, inode tables and bitmaps follow at the end, when their sizes
//! are known; flex_bg lets them lie anywhere. The same tree gives the same
//! bytes: nothing is taken from a clock, a random source or a hash map.
//!
//! The layouts follow the kernel's Documentation/filesystems/ext4. There is
//! no lost+found, so that the tree is exactly the image's; only a repair
//! would want one, and a read-only image that can be made anew has none.

mod alloc;
mod dir;
mod extent;
mod finish;
mod layout;
pub(crate) mod read;
mod resume;
mod sink;
#[cfg(test)]
mod tests;
mod tree;
mod writeback;
mod xattr;

use std::fs::File;
use std::io::{self, BufRead};

pub(crate) use alloc::Run;
pub(crate) use extent::Extent;
pub(crate) use finish::Finished;
pub(crate) use layout::{BLOCK, Identity};
pub(crate) use resume::Boundary;
pub(crate) use sink::BlockCopy;
pub(crate) use tree::{Attr, Content, FileData, MAX_NAME, NodeId, Timestamp, Tree, TreeError};
pub(crate) use xattr::{Xattr, fit as xattrs_fit};

use alloc::Allocator;
use sink::Sink;

/// Largest file: 2^32 blocks of 4 KiB, less one that the kernel keeps for its
/// own arithmetic (s_maxbytes in fs/ext4/super.c).
pub(crate) const MAX_FILE: u64 = (1 << 44) - BLOCK;
/// Longest target of a symbolic link: one block with its final NUL.
pub(crate) const MAX_SYMLINK: usize = 4095;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Ext4Error {
    #[error("the image could not be written")]
    Io(#[from] io::Error),
    #[error("a file's content could not be read")]
    Input(#[source] io::Error),
    #[error("the file system is full")]
    Full,
    #[error("a file is larger than 16 TiB")]
    FileTooLarge,
    #[error("extended attributes of {0} do not fit into 4 KiB")]
    XattrsTooLarge(String),
}

/// Block numbers have 32 bits without the 64bit feature.
fn limit_of(max_bytes: u64) -> u64 {
    (max_bytes / BLOCK).min(u64::from(u32::MAX))
}

/// An image while it is being made.
#[derive(Debug)]
pub(crate) struct Ext4Builder {
    pub(crate) tree: Tree,
    sink: Sink,
    blocks: Allocator,
    limit: u64,
}

impl Ext4Builder {
    /// Into an empty file, of at most `max_bytes`.
    pub(crate) fn new(file: File, max_bytes: u64) -> io::Result<Self> {
        let limit = limit_of(max_bytes);
        Ok(Self {
            tree: Tree::new(),
            sink: Sink::new(file)?,
            blocks: Allocator::new(finish::first_data_block(limit), limit),
            limit,
        })
    }

    /// From here on it is this layer, counted from 1, that brings and removes.
    pub(crate) fn begin_layer(&mut self, layer: u32) {
        self.give_freed();
        self.tree.begin_layer(layer);
    }

    /// Writes a file's bytes; the caller then names them in the tree.
    pub(crate) fn store(
        &mut self,
        size: u64,
        data: &mut dyn BufRead,
    ) -> Result<FileData, Ext4Error> {
        let mut extents = Vec::new();
        self.store_part(&mut extents, 0, size, data)?;
        Ok(FileData { size, extents })
    }

    /// Writes a sparse file: `parts` are (offset, length) of what is stored,
    /// in order, each beginning at a block; `data` has them one after another.
    pub(crate) fn store_sparse(
        &mut self,
        size: u64,
        parts: &[(u64, u64)],
        data: &mut dyn BufRead,
    ) -> Result<FileData, Ext4Error> {
        if size > MAX_FILE {
            return Err(Ext4Error::FileTooLarge);
        }
        let mut extents = Vec::new();
        for &(offset, len) in parts {
            self.store_part(&mut extents, offset / BLOCK, len, data)?;
        }
        Ok(FileData { size, extents })
    }

    fn store_part(
        &mut self,
        extents: &mut Vec<extent::Extent>,
        logical: u64,
        len: u64,
        data: &mut dyn BufRead,
    ) -> Result<(), Ext4Error> {
        if len == 0 {
            return Ok(());
        }
        let run = self.take(len.div_ceil(BLOCK))?;
        extent::push_run(extents, logical, run)?;
        self.sink.store(run.start * BLOCK, len, data)?;
        Ok(())
    }

    fn take(&mut self, blocks: u64) -> Result<Run, Ext4Error> {
        self.give_freed();
        self.blocks.take(blocks).ok_or(Ext4Error::Full)
    }

    fn give_freed(&mut self) {
        for run in self.tree.take_freed() {
            self.blocks.give(run);
        }
    }
}
