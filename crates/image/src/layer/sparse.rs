use std::io::{self, BufRead, Read};

use crate::ext4::{BLOCK, MAX_FILE};

static ZEROS: [u8; 4096] = [0; 4096];

/// Where the stored bytes of a sparse file belong: (offset, length), in
/// order, without overlap, within the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    size: u64,
    parts: Vec<(u64, u64)>,
}

impl SparseMap {
    /// `stored` is how many bytes the stream has for all parts together.
    pub(super) fn new(
        size: u64,
        parts: Vec<(u64, u64)>,
        stored: u64,
    ) -> Result<Self, &'static str> {
        if size > MAX_FILE {
            return Err("it is larger than 16 TiB");
        }
        let mut end = 0u64;
        let mut total = 0u64;
        for &(offset, len) in &parts {
            let part_end = offset.checked_add(len).ok_or("its map overflows")?;
            if offset < end || part_end > size {
                return Err("its map overlaps itself or leaves the file");
            }
            end = part_end;
            total += len;
        }
        if total != stored {
            return Err("its map and its data have different sizes");
        }
        Ok(Self { size, parts })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whole blocks that hold all parts, and what to read for each: parts
    /// that share a block become one range.
    pub(super) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &(offset, len) in self.parts.iter().filter(|part| part.1 > 0) {
            let start = offset - offset % BLOCK;
            // A file ends where it ends, also in the middle of a block.
            let end = (offset + len).next_multiple_of(BLOCK).min(self.size);
            match ranges.last_mut() {
                Some(last) if last.0 + last.1 >= start => last.1 = end - last.0,
                _ => ranges.push((start, end - start)),
            }
        }
        ranges
    }

    /// Reads the bytes of [`Self::ranges`] from the stored parts.
    pub(super) fn expand<R: BufRead>(&self, stored: R) -> Expand<R> {
        let mut pieces = Vec::new();
        let mut parts = self.parts.iter().filter(|part| part.1 > 0).peekable();
        for (start, len) in self.ranges() {
            let mut at = start;
            while let Some(&(offset, part)) = parts.next_if(|part| part.0 < start + len) {
                pieces.push(Piece { zeros: offset - at, data: part });
                at = offset + part;
            }
            pieces.push(Piece { zeros: start + len - at, data: 0 });
        }
        pieces.reverse();
        Expand { stored, pieces }
    }
}

/// So many zeros, then so many stored bytes.
#[derive(Debug, Clone, Copy)]
struct Piece {
    zeros: u64,
    data: u64,
}

#[derive(Debug)]
pub(super) struct Expand<R> {
    stored: R,
    /// Last first.
    pieces: Vec<Piece>,
}

impl<R: BufRead> BufRead for Expand<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.pieces.last().is_some_and(|piece| piece.zeros == 0 && piece.data == 0) {
            self.pieces.pop();
        }
        let within = |n: u64, len: usize| usize::try_from(n).unwrap_or(usize::MAX).min(len);
        match self.pieces.last() {
            None => Ok(&[]),
            Some(piece) if piece.zeros > 0 => Ok(&ZEROS[..within(piece.zeros, ZEROS.len())]),
            Some(piece) => {
                let chunk = self.stored.fill_buf()?;
                Ok(&chunk[..within(piece.data, chunk.len())])
            }
        }
    }

    fn consume(&mut self, n: usize) {
        let Some(piece) = self.pieces.last_mut() else { return };
        if piece.zeros > 0 {
            piece.zeros -= n as u64;
        } else {
            piece.data -= n as u64;
            self.stored.consume(n);
        }
    }
}

impl<R: BufRead> Read for Expand<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let n = chunk.len().min(into.len());
        into[..n].copy_from_slice(&chunk[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "sizes of some KiB")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The expanded ranges, put where they belong, are the file.
        #[test]
        fn expands_to_the_file(gaps in prop::collection::vec((0u64..9000, 0u64..9000), 0..8), tail in 0u64..9000) {
            let mut parts = Vec::new();
            let mut file = Vec::new();
            let mut stored = Vec::new();
            for (gap, len) in gaps {
                file.resize(file.len() + gap as usize, 0);
                parts.push((file.len() as u64, len));
                let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8 + 1).collect();
                file.extend_from_slice(&data);
                stored.extend_from_slice(&data);
            }
            file.resize(file.len() + tail as usize, 0);
            let map = SparseMap::new(file.len() as u64, parts, stored.len() as u64).unwrap();
            let mut bytes = Vec::new();
            map.expand(&stored[..]).read_to_end(&mut bytes).unwrap();
            let mut rebuilt = vec![0; file.len()];
            let mut at = 0;
            for (offset, len) in map.ranges() {
                prop_assert_eq!(offset % BLOCK, 0);
                rebuilt[offset as usize..(offset + len) as usize].copy_from_slice(&bytes[at..at + len as usize]);
                at += len as usize;
            }
            prop_assert_eq!(at, bytes.len());
            prop_assert!(rebuilt == file);
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(SparseMap::new(10, vec![(0, 4), (2, 4)], 8).is_err());
        assert!(SparseMap::new(10, vec![(8, 4)], 4).is_err());
        assert!(SparseMap::new(10, vec![(0, 4)], 5).is_err());
        assert!(SparseMap::new(u64::MAX, vec![(u64::MAX, 4)], 4).is_err());
    }
}
