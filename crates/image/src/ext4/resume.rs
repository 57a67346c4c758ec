//! A disk that begins as a copy of another one, up to a layer.
//!
//! The blocks of a disk after some layer are those up to the allocator's end,
//! without its holes: what a higher layer removes is retired and keeps its
//! content (`Tree::remove`), so they are all still there when the disk is
//! finished. Copied to the same places, with the same tree and the same
//! allocator, they make the new disk what it would be if its layers had been
//! unpacked: byte for byte.

use std::fs::File;
use std::io;

use super::alloc::{Allocator, Run};
use super::sink::BlockCopy;
use super::{Ext4Builder, finish, limit_of};

/// Which blocks belong to a disk after a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Boundary {
    /// The first block behind all that is used.
    pub(crate) end: u64,
    /// Unused ones before it, in order.
    pub(crate) holes: Vec<Run>,
    /// Those of removed files that still have their content.
    pub(crate) retired: Vec<Run>,
}

impl Boundary {
    /// The runs between the holes.
    fn used(&self, first: u64) -> Vec<Run> {
        let mut used = Vec::new();
        let mut at = first;
        for hole in self.holes.iter().copied().chain([Run { start: self.end, len: 0 }]) {
            if hole.start > at {
                used.push(Run { start: at, len: hole.start - at });
            }
            at = hole.start + hole.len;
        }
        used
    }
}

impl Ext4Builder {
    /// Where the first file's data can lie: another disk with another limit
    /// has another one, and cannot be copied from.
    pub(crate) fn first_block(&self) -> u64 {
        finish::first_data_block(self.limit)
    }

    /// The same, for a disk that is not begun yet.
    pub(crate) fn first_block_of(max_bytes: u64) -> u64 {
        finish::first_data_block(limit_of(max_bytes))
    }

    /// Where things stand after the layers so far.
    pub(crate) fn boundary(&mut self) -> Boundary {
        self.give_freed();
        Boundary {
            end: self.blocks.end(),
            holes: self.blocks.holes().collect(),
            retired: self.tree.retired().to_vec(),
        }
    }

    /// Goes on from a boundary of another disk, whose tree is here already.
    /// The blocks are still to be copied; meanwhile layers may be stored, since
    /// none of them is given out again.
    pub(crate) fn resume(&mut self, from: File, boundary: &Boundary) -> io::Result<BlockCopy> {
        let copy = self.sink.copy(from, boundary.used(self.first_block()))?;
        self.blocks = Allocator::resume(boundary.end, self.limit, &boundary.holes);
        self.tree.resume(boundary.retired.clone());
        Ok(copy)
    }
}
