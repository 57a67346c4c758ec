use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{ReadError, damaged};

/// JBD2_MAGIC_NUMBER, as it stands on the disk.
pub(super) const JOURNAL_MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// The volume's blocks, with those that its journal has newer.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    pub(super) bytes: u64,
    block: u64,
    newer: BTreeMap<u64, InJournal>,
}

/// Where a block's newest content is.
#[derive(Debug, Clone, Copy)]
pub(super) struct InJournal {
    pub(super) block: u64,
    /// It began with the journal's magic number, which was taken out.
    pub(super) escaped: bool,
}

impl Device {
    pub(super) fn new(file: File) -> Result<Self, ReadError> {
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes, block: 1024, newer: BTreeMap::new() })
    }

    pub(super) fn set_block(&mut self, bytes: u64) {
        self.block = bytes;
    }

    pub(super) fn set_newer(&mut self, newer: BTreeMap<u64, InJournal>) {
        self.newer = newer;
    }

    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let newer = self.newer.get(&number);
        let mut bytes = vec![0; usize::try_from(self.block).map_err(|_| damaged("its blocks"))?];
        self.raw(newer.map_or(number, |newer| newer.block), &mut bytes)?;
        if newer.is_some_and(|newer| newer.escaped) {
            bytes[..4].copy_from_slice(&JOURNAL_MAGIC);
        }
        Ok(bytes)
    }

    /// As it stands on the disk.
    fn raw(&self, number: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let at = number.checked_mul(self.block).filter(|at| *at < self.bytes);
        let at = at.ok_or_else(|| damaged(format!("block {number} is outside of the disk")))?;
        Ok(self.file.read_exact_at(into, at)?)
    }

    /// Some blocks at once, into a buffer of as many.
    pub(super) fn blocks(&self, first: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let count = into.len() as u64 / self.block;
        if self.newer.range(first..first.saturating_add(count)).next().is_none() {
            return self.raw(first, into);
        }
        let size = usize::try_from(self.block).map_err(|_| damaged("its blocks"))?;
        for (number, part) in (first..).zip(into.chunks_mut(size)) {
            part.copy_from_slice(&self.block(number)?);
        }
        Ok(())
    }

    /// Bytes at the beginning of the disk, where the super block is.
    pub(super) fn head(&self) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; 1024];
        if self.bytes < 2048 {
            return Err(damaged("the disk is too small for a super block"));
        }
        if self.newer.is_empty() {
            self.file.read_exact_at(&mut bytes, 1024)?;
            return Ok(bytes);
        }
        let (number, at) = if self.block == 1024 { (1, 0) } else { (0, 1024) };
        bytes.copy_from_slice(&self.block(number)?[at..at + 1024]);
        Ok(bytes)
    }
}
