//! Reads ext4 volumes that somebody else has written, a hostile guest among
//! them, without mounting anything.
//!
//! ```text
//!   file ─▶ super block ─▶ journal replayed, in memory ─▶ super block once more
//!     └ blocks, those of the journal in place of the older ones
//!          └ group descriptors ─▶ inodes ─▶ extents, directories, attributes
//! ```
//! Nothing is believed: every number is compared with the size of the volume
//! before it is used, every list and every tree has an end of our own, and what
//! contradicts itself is an error. Nothing is written: an interrupted guest's
//! journal is read in the blocks' place.
//!
//! The layouts follow the kernel's Documentation/filesystems/ext4. What volumes
//! of our making never have (encryption, inline data, attributes in inodes of
//! their own, block maps) is refused by its name.

mod device;
mod directory;
mod extents;
mod inode;
mod journal;
mod super_block;
#[cfg(test)]
mod tests;
mod xattr;

use std::fs::File;
use std::io;

pub(crate) use directory::Listing;
pub(crate) use extents::Span;
pub(crate) use inode::{Inode, InodeKind};

use device::Device;
use super_block::SuperBlock;

/// EXT4_ROOT_INO.
pub(crate) const ROOT: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the disk could not be read")]
    Io(#[from] io::Error),
    #[error("the file system is damaged: {0}")]
    Damaged(String),
    #[error("the file system has {0}, which is not read here")]
    Unsupported(String),
}

fn damaged(why: impl Into<String>) -> ReadError {
    ReadError::Damaged(why.into())
}

/// A file system, as its last whole transaction left it.
#[derive(Debug)]
pub(crate) struct Volume {
    device: Device,
    sb: SuperBlock,
}

impl Volume {
    pub(crate) fn open(file: File) -> Result<Self, ReadError> {
        let mut device = Device::new(file)?;
        let sb = SuperBlock::read(&device)?;
        device.set_block(sb.block);
        let mut volume = Self { device, sb };
        if volume.sb.needs_recovery {
            volume.replay()?;
            volume.sb = SuperBlock::read(&volume.device)?;
        }
        Ok(volume)
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        if number == 0 && self.sb.first_data_block > 0 || number >= self.sb.blocks {
            return Err(damaged(format!("it has no block {number}")));
        }
        self.device.block(number)
    }
}

/// Little-endian numbers of a record. A place outside of it is 0: records are
/// read whole, of sizes that we have chosen.
trait Fields {
    fn bytes_at<const N: usize>(&self, at: usize) -> [u8; N];

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes_at(at))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes_at(at))
    }

    fn be32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes_at(at))
    }

    /// From a low half, and a high one elsewhere.
    fn halves_at(&self, low: usize, high: usize) -> u64 {
        u64::from(self.u32_at(low)) | u64::from(self.u32_at(high)) << 32
    }
}

impl Fields for [u8] {
    fn bytes_at<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(found) = at.checked_add(N).and_then(|end| self.get(at..end)) {
            bytes.copy_from_slice(found);
        }
        bytes
    }
}
