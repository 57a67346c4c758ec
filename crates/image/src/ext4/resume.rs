//! A disk that begins as a copy of another one, up to a layer.
//!
//! The blocks of a disk after some layer are those up to the allocator's end,
//! without its holes: what a higher layer removes is retired and keeps its
//! content (`Tree::remove`), so they are all still there when the disk is
//! finished. Copied to the same places, with the same tree and the same
//! allocator, they make the new disk what it would be if its layers had been
//! unpacked: byte for byte.

use std::fs::File;

use super::alloc::{Allocator, Run};
use super::{Ext4Builder, Ext4Error, finish, limit_of};

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

    /// How much there is to copy, in blocks.
    pub(crate) fn blocks(&self, first: u64) -> u64 {
        self.used(first).iter().map(|run| run.len).sum()
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
    /// `go_on` is asked now and then.
    pub(crate) fn resume<E: From<Ext4Error>>(
        &mut self,
        from: &File,
        boundary: &Boundary,
        go_on: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        for run in boundary.used(self.first_block()) {
            go_on()?;
            self.sink.copy_run(from, run).map_err(Ext4Error::Io)?;
        }
        self.blocks = Allocator::resume(boundary.end, self.limit, &boundary.holes);
        self.tree.resume(boundary.retired.clone());
        Ok(())
    }
}
