use std::hash::Hasher;

use twox_hash::XxHash64;

/// The checksum of a content whose holes are left out: see VERSIONING.md,
/// "Block sums". Where the holes are does not change it: zeros that are sent
/// count as those that are not.
#[derive(Clone)]
pub struct BlockSum {
    hash: XxHash64,
    /// Where the next byte lies.
    position: u64,
    /// The beginning of the block that `position` is in.
    block: Vec<u8>,
}

/// In bytes.
const BLOCK: usize = 64 * 1024;

impl Default for BlockSum {
    fn default() -> Self {
        Self { hash: XxHash64::with_seed(0), position: 0, block: Vec::new() }
    }
}

impl std::fmt::Debug for BlockSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockSum").field("position", &self.position).finish_non_exhaustive()
    }
}

impl BlockSum {
    /// How much of the content it has seen.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The content's next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK - self.within();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            if self.block.is_empty() && now.len() == BLOCK {
                // The usual case: nothing is copied.
                self.take(now, self.position / BLOCK as u64);
                self.position += BLOCK as u64;
                continue;
            }
            self.pad();
            self.block.extend_from_slice(now);
            self.position += now.len() as u64;
            self.close_full();
        }
    }

    /// A hole: so many zeros.
    pub fn skip(&mut self, zeros: u64) {
        let end = self.position.saturating_add(zeros);
        let block_end = (self.position / BLOCK as u64 + 1).saturating_mul(BLOCK as u64);
        if !self.block.is_empty() && end >= block_end {
            self.block.resize(BLOCK, 0);
            self.position = block_end;
            self.close_full();
        }
        // Zeros at the front of a block are put there by what follows them.
        self.position = end;
    }

    /// Of all that was added: 8 bytes, big endian.
    pub fn finish(mut self) -> [u8; 8] {
        if !self.block.is_empty() {
            let length = self.within();
            self.block.resize(if length == 0 { BLOCK } else { length }, 0);
            let (block, index) = (std::mem::take(&mut self.block), self.index_of_last());
            self.take(&block, index);
        }
        self.hash.write(&self.position.to_le_bytes());
        self.hash.finish().to_be_bytes()
    }

    fn within(&self) -> usize {
        usize::try_from(self.position % BLOCK as u64).unwrap_or(0)
    }

    fn index_of_last(&self) -> u64 {
        self.position.saturating_sub(1) / BLOCK as u64
    }

    /// Makes `block` reach up to `position`.
    fn pad(&mut self) {
        let within = self.within();
        if self.block.len() < within {
            self.block.resize(within, 0);
        }
    }

    fn close_full(&mut self) {
        if self.block.len() == BLOCK {
            let mut block = std::mem::take(&mut self.block);
            self.take(&block, self.index_of_last());
            // Its memory serves the next one.
            block.clear();
            self.block = block;
        }
    }

    fn take(&mut self, block: &[u8], index: u64) {
        if !is_zero(block) {
            self.hash.write(&index.to_le_bytes());
            self.hash.write(block);
        }
    }
}

/// Whether there is nothing but zeros.
///
/// Compares each byte with its neighbour: a memcmp, unlike a search that stops
/// at the first byte, looks at many at once.
pub fn is_zero(block: &[u8]) -> bool {
    match block.split_first() {
        Some((first, rest)) => *first == 0 && *rest == block[..rest.len()],
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(content: &[u8]) -> [u8; 8] {
        let mut hash = XxHash64::with_seed(0);
        for (index, block) in content.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                hash.write(&(index as u64).to_le_bytes());
                hash.write(block);
            }
        }
        hash.write(&(content.len() as u64).to_le_bytes());
        hash.finish().to_be_bytes()
    }

    proptest! {
        #[test]
        fn holes_and_pieces_do_not_change_it(
            parts in proptest::collection::vec((any::<bool>(), 0usize..150_000, any::<u8>()), 0..8),
        ) {
            let (mut sum, mut content) = (BlockSum::default(), Vec::new());
            for (hole, length, fill) in parts {
                if hole {
                    sum.skip(length as u64);
                    content.resize(content.len() + length, 0);
                } else {
                    let bytes = vec![fill; length];
                    sum.add(&bytes);
                    content.extend_from_slice(&bytes);
                }
            }
            prop_assert_eq!(sum.position(), content.len() as u64);
            prop_assert_eq!(sum.finish(), plain(&content));
        }
    }

    /// Of "a": XXH64 of eight zero bytes, the letter, and 1 in eight bytes.
    #[test]
    fn it_is_what_the_protocol_says() {
        let mut sum = BlockSum::default();
        sum.add(b"a");
        let said = XxHash64::oneshot(0, b"\0\0\0\0\0\0\0\0a\x01\0\0\0\0\0\0\0");
        assert_eq!(sum.finish(), said.to_be_bytes());
        // Of nothing: the example of the algorithm's specification, for this seed.
        assert_eq!(XxHash64::oneshot(0, b""), 0xef46_db37_51d8_e999);
    }

    #[test]
    fn one_byte_makes_the_difference() {
        assert!(is_zero(&[]));
        let mut block = vec![0; 65_536];
        assert!(is_zero(&block));
        for at in [0, 1, 40_000, 65_535] {
            block[at] = 1;
            assert!(!is_zero(&block));
            block[at] = 0;
        }
    }

    #[test]
    fn lengths_and_places_count() {
        let of = |skip: u64, bytes: &[u8]| {
            let mut sum = BlockSum::default();
            sum.skip(skip);
            sum.add(bytes);
            sum.finish()
        };
        assert_ne!(of(0, b""), of(1, b""));
        assert_ne!(of(0, b"a"), of(BLOCK as u64, b"a"));
        assert_eq!(of(0, &[0; 70_000]), of(70_000, b""));
    }
}
