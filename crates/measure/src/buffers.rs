//! Memory for requests, aligned as O_DIRECT asks for.

/// Of every disk's logical block, and a page.
const ALIGNMENT: usize = 4096;

/// Several buffers of one size in one piece.
#[derive(Debug)]
pub(crate) struct Buffers {
    memory: Vec<u8>,
    first: usize,
    size: usize,
    dice: Dice,
}

impl Buffers {
    /// With bytes that no disk can leave out or pack.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        let mut memory = vec![0; count * size + ALIGNMENT];
        let mut dice = Dice::new(size as u64 + 1);
        for chunk in memory.chunks_mut(8) {
            let bytes = dice.roll().to_ne_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        let first = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, first, size, dice }
    }

    /// One that is to be written, as it has never been: a disk that knows its
    /// blocks again would write none of them a second time.
    pub(crate) fn renewed(&mut self, index: usize) -> &mut [u8] {
        let mut mark = self.dice.roll();
        let buffer = self.get(index);
        for block in buffer.chunks_exact_mut(ALIGNMENT) {
            mark = mark.wrapping_add(1);
            block[..8].copy_from_slice(&mark.to_ne_bytes());
        }
        buffer
    }

    pub(crate) fn get(&mut self, index: usize) -> &mut [u8] {
        let from = self.first + index * self.size;
        &mut self.memory[from..from + self.size]
    }
}

/// splitmix64 (Steele and others, 2014): good enough to scatter offsets.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_block_is_written_twice() {
        let mut buffers = Buffers::new(3, 4 * ALIGNMENT);
        let mut seen = HashSet::new();
        for write in 0..300 {
            let buffer = buffers.renewed(write % 3);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            for block in buffer.chunks(ALIGNMENT) {
                assert!(seen.insert(block.to_vec()), "write {write}");
            }
        }
    }
}
