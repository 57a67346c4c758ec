//! A journal's whole transactions, found as jbd2's recovery finds them
//! (Documentation/filesystems/ext4, "Journal (jbd2)"; fs/jbd2/recovery.c).
//!
//! ```text
//!   s_start ─▶ descriptor, blocks …, revocations … , commit ─▶ the next …
//!                └ a wrong number, kind or checksum: the end of the log
//! ```
//! Of a block the last transaction counts, unless it or a later one revokes it.

use std::collections::{BTreeMap, HashMap};

use super::device::{InJournal, JOURNAL_MAGIC};
use super::extents::Span;
use super::{Fields, ReadError, Volume, damaged};

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPER_V2: u32 = 4;
const REVOKE: u32 = 5;

const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const KNOWN: u32 = 0x1 | INCOMPAT_64BIT | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3;

const TAG_ESCAPE: u32 = 0x1;
const TAG_SAME_UUID: u32 = 0x2;
const TAG_LAST: u32 = 0x8;

/// Of 4 KiB, four times what mke2fs makes at most.
const MAX_BLOCKS: u64 = 1 << 22;

impl Volume {
    pub(super) fn replay(&mut self) -> Result<(), ReadError> {
        if self.sb.journal_inode == 0 {
            return Err(damaged("it wants its journal replayed and has none"));
        }
        let inode = self.inode(self.sb.journal_inode)?;
        let blocks = inode.size / self.sb.block;
        if blocks > MAX_BLOCKS {
            return Err(damaged("its journal is too long"));
        }
        let log = Log::open(self, self.spans(&inode)?, blocks)?;
        let newer = log.scan(self)?;
        tracing::debug!(blocks = newer.len(), "a journal was replayed");
        self.device.set_newer(newer);
        Ok(())
    }
}

/// The journal's file.
struct Log {
    spans: Vec<Span>,
    first: u64,
    /// One more than the last block.
    end: u64,
    start: u64,
    sequence: u32,
    incompat: u32,
    /// What every checksum begins with.
    seed: u32,
}

/// A block of the journal that is to replace one of the volume.
struct Write {
    transaction: usize,
    target: u64,
    from: InJournal,
}

#[derive(Default)]
struct Found {
    writes: Vec<Write>,
    /// The last transaction that revokes a block.
    revoked: HashMap<u64, usize>,
}

impl Log {
    fn open(volume: &Volume, spans: Vec<Span>, blocks: u64) -> Result<Self, ReadError> {
        let strange = || damaged("its journal has a strange beginning");
        let mut log =
            Self { spans, first: 0, end: blocks, start: 0, sequence: 0, incompat: 0, seed: 0 };
        let sb = volume.block(log.place(0, volume)?)?;
        let kind = sb.be32_at(4);
        if sb[..4] != JOURNAL_MAGIC || !(3..=SUPER_V2).contains(&kind) {
            return Err(strange());
        }
        if u64::from(sb.be32_at(0xc)) != volume.sb.block {
            return Err(strange());
        }
        (log.end, log.first) = (u64::from(sb.be32_at(0x10)), u64::from(sb.be32_at(0x14)));
        (log.sequence, log.start) = (sb.be32_at(0x18), u64::from(sb.be32_at(0x1c)));
        if log.end > blocks || log.first == 0 || log.first >= log.end || log.start >= log.end {
            return Err(strange());
        }
        if kind == SUPER_V2 {
            log.incompat = sb.be32_at(0x28);
        }
        let refuse = |what: &str| Err(ReadError::Unsupported(what.to_owned()));
        if log.incompat & INCOMPAT_FAST_COMMIT != 0 {
            return refuse("a journal with fast commits");
        }
        if log.incompat & INCOMPAT_ASYNC_COMMIT != 0 {
            return refuse("a journal with asynchronous commits");
        }
        if log.incompat & !KNOWN != 0 {
            return refuse("a journal with unknown features");
        }
        log.seed = crc32c(u32::MAX, &sb.bytes_at::<16>(0x30));
        Ok(log)
    }

    /// The volume's block that has a block of the journal.
    fn place(&self, logical: u64, volume: &Volume) -> Result<u64, ReadError> {
        let at = logical * volume.sb.block;
        let after = self.spans.partition_point(|span| span.offset <= at);
        let span = after.checked_sub(1).and_then(|i| self.spans.get(i));
        span.filter(|span| at < span.offset + span.len)
            .map(|span| span.block + (at - span.offset) / volume.sb.block)
            .ok_or_else(|| damaged("its journal has a hole"))
    }

    fn has_checksums(&self) -> bool {
        self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0
    }

    fn scan(&self, volume: &Volume) -> Result<BTreeMap<u64, InJournal>, ReadError> {
        let mut whole = Found::default();
        if self.start != 0 {
            self.transactions(volume, &mut whole)?;
        }
        let mut newer = BTreeMap::new();
        for write in whole.writes {
            let revoked = whole.revoked.get(&write.target);
            if revoked.is_none_or(|&last| last < write.transaction) {
                newer.insert(write.target, write.from);
            }
        }
        Ok(newer)
    }

    fn transactions(&self, volume: &Volume, whole: &mut Found) -> Result<(), ReadError> {
        let (mut at, mut sequence, mut transaction) = (self.start, self.sequence, 0);
        let mut pending = Found::default();
        // No log is longer than once around.
        let mut left = self.end - self.first;
        while left > 0 {
            let block = volume.block(self.place(at, volume)?)?;
            if block[..4] != JOURNAL_MAGIC || block.be32_at(8) != sequence {
                break;
            }
            left -= 1;
            at = self.after(at);
            match block.be32_at(4) {
                DESCRIPTOR => {
                    if !self.tail_holds(&block) {
                        break;
                    }
                    for tag in self.tags(&block) {
                        if left == 0 {
                            return Err(damaged("its journal is longer than it may be"));
                        }
                        let from = self.place(at, volume)?;
                        if tag.target >= volume.sb.blocks {
                            return Err(damaged("its journal leads out of the disk"));
                        }
                        let content = volume.block(from)?;
                        if !self.data_holds(&tag, sequence, &content) {
                            return Err(damaged("a block of its journal is not what was written"));
                        }
                        let from = InJournal { block: from, escaped: tag.flags & TAG_ESCAPE != 0 };
                        pending.writes.push(Write { transaction, target: tag.target, from });
                        left -= 1;
                        at = self.after(at);
                    }
                }
                REVOKE => {
                    if !self.tail_holds(&block) {
                        break;
                    }
                    let revoked = self.revoked(&block)?;
                    pending.revoked.extend(revoked.into_iter().map(|block| (block, transaction)));
                }
                COMMIT => {
                    if self.has_checksums() && !self.commit_holds(&block) {
                        break;
                    }
                    whole.writes.append(&mut pending.writes);
                    whole.revoked.extend(pending.revoked.drain());
                    sequence = sequence.wrapping_add(1);
                    transaction += 1;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn after(&self, at: u64) -> u64 {
        if at + 1 == self.end { self.first } else { at + 1 }
    }

    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let v3 = self.incompat & INCOMPAT_CSUM_V3 != 0;
        let wide = self.incompat & INCOMPAT_64BIT != 0;
        let v2 = self.incompat & INCOMPAT_CSUM_V2 != 0;
        // journal_tag_bytes of fs/jbd2/journal.c.
        let size = match (v3, wide) {
            (true, _) => 16,
            (false, true) => 12 + 2 * usize::from(v2),
            (false, false) => 8 + 2 * usize::from(v2),
        };
        let end = block.len() - if self.has_checksums() { 4 } else { 0 };
        let (mut at, mut tags) = (12, Vec::new());
        while at + size <= end {
            let tag = &block[at..at + size];
            let low = u64::from(tag.be32_at(0));
            let (flags, sum) = if v3 {
                (tag.be32_at(4), tag.be32_at(12))
            } else {
                let half = |at| u32::from(u16::from_be_bytes(tag.bytes_at(at)));
                (half(6), half(4))
            };
            let high = if wide { u64::from(tag.be32_at(8)) } else { 0 };
            tags.push(Tag { target: low | high << 32, flags, sum });
            at += size;
            if flags & TAG_SAME_UUID == 0 {
                at += 16;
            }
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        tags
    }

    fn revoked(&self, block: &[u8]) -> Result<Vec<u64>, ReadError> {
        let end = usize::try_from(block.be32_at(12)).unwrap_or(usize::MAX);
        let most = block.len() - if self.has_checksums() { 4 } else { 0 };
        if !(16..=most).contains(&end) {
            return Err(damaged("its journal has a strange list of revoked blocks"));
        }
        let wide = self.incompat & INCOMPAT_64BIT != 0;
        let list = &block[16..end];
        Ok(if wide {
            list.chunks_exact(8).map(|b| u64::from_be_bytes(b.bytes_at(0))).collect()
        } else {
            list.chunks_exact(4).map(|b| u64::from(b.be32_at(0))).collect()
        })
    }

    /// A descriptor's or a list's own checksum, in its last four bytes.
    fn tail_holds(&self, block: &[u8]) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let end = block.len() - 4;
        let sum = crc32c(crc32c(self.seed, &block[..end]), &[0; 4]);
        sum == block.be32_at(end)
    }

    fn commit_holds(&self, block: &[u8]) -> bool {
        let sum = crc32c(self.seed, &block[..16]);
        let sum = crc32c(crc32c(sum, &[0; 4]), &block[20..]);
        sum == block.be32_at(16)
    }

    fn data_holds(&self, tag: &Tag, sequence: u32, content: &[u8]) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let sum = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), content);
        if self.incompat & INCOMPAT_CSUM_V3 != 0 { sum == tag.sum } else { sum & 0xffff == tag.sum }
    }
}

struct Tag {
    target: u64,
    flags: u32,
    sum: u32,
}

/// CRC-32C as the kernel's crc32c() has it: the register as it stands, neither
/// preset nor inverted.
fn crc32c(register: u32, bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(register, |crc, &byte| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

static TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            // Castagnoli's polynomial, reflected (RFC 3720, B.4).
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod crc_tests {
    use super::crc32c;

    /// RFC 3720, B.4.
    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(!crc32c(u32::MAX, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283);
    }
}
