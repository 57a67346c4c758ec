//! Zeros on their way between bodies, which have them all, and the guest's
//! channel, which leaves out long runs of them.

use bytes::Bytes;
use inn_guest_proto::is_zero;

use crate::guest::Piece;

/// What is looked at at once, and where holes may begin: file systems keep no
/// smaller ones.
const BLOCK: usize = 4096;

/// The shortest run that is worth a hole.
const SHORTEST_HOLE: u64 = 64 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The next of so many zeros.
pub(super) fn zeros(count: u64) -> Bytes {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
    Bytes::from_static(&ZEROS[..count])
}

/// Finds the holes of a content that comes in parts.
#[derive(Debug, Default)]
pub(super) struct HoleFinder {
    /// How far the content has come, as far as alignment goes.
    position: u64,
    /// Zeros that have come and were not passed on.
    pending: u64,
}

impl HoleFinder {
    /// Of a content that goes on from `start`.
    pub(super) fn at(start: u64) -> Self {
        Self { position: start, pending: 0 }
    }

    /// What is to be passed on, in order, now that `part` has come.
    pub(super) fn take(&mut self, part: &Bytes, pieces: &mut Vec<Piece>) {
        // Up to `begin` all is passed on or pending; from `zeros_from` to `at`
        // there are zeros.
        let (mut begin, mut zeros_from, mut at) = (0, 0, 0);
        while at < part.len() {
            let within = usize::try_from(self.position % BLOCK as u64).unwrap_or(0);
            let end = part.len().min(at + BLOCK - within);
            if !is_zero(&part[at..end]) {
                // Those at the front go on with those of the parts before.
                let before = if zeros_from == 0 { std::mem::take(&mut self.pending) } else { 0 };
                let run = before + (at - zeros_from) as u64;
                if run >= SHORTEST_HOLE {
                    push(pieces, part.slice(begin..zeros_from));
                    pieces.push(Piece::Hole(run));
                    begin = at;
                } else {
                    push(pieces, zeros(before));
                }
                zeros_from = end;
            }
            self.position += (end - at) as u64;
            at = end;
        }
        push(pieces, part.slice(begin..zeros_from));
        self.pending += (part.len() - zeros_from) as u64;
    }

    /// At the content's end.
    pub(super) fn finish(&mut self, pieces: &mut Vec<Piece>) {
        self.flush(pieces);
    }

    fn flush(&mut self, pieces: &mut Vec<Piece>) {
        let pending = std::mem::take(&mut self.pending);
        if pending >= SHORTEST_HOLE {
            pieces.push(Piece::Hole(pending));
        } else {
            push(pieces, zeros(pending));
        }
    }
}

fn push(pieces: &mut Vec<Piece>, bytes: Bytes) {
    if !bytes.is_empty() {
        pieces.push(Piece::Data(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(start: u64, parts: &[Bytes]) -> Vec<Piece> {
        let (mut finder, mut pieces) = (HoleFinder::at(start), Vec::new());
        for part in parts {
            finder.take(part, &mut pieces);
        }
        finder.finish(&mut pieces);
        pieces
    }

    fn content(pieces: &[Piece]) -> (Vec<u8>, u64) {
        let (mut out, mut holes) = (Vec::new(), 0);
        for piece in pieces {
            match piece {
                Piece::Data(bytes) => out.extend_from_slice(bytes),
                Piece::Hole(length) => {
                    assert!(*length >= SHORTEST_HOLE, "{length}");
                    holes += length;
                    out.resize(out.len() + usize::try_from(*length).unwrap(), 0);
                }
            }
        }
        (out, holes)
    }

    /// Data, a hole, data with short runs of zeros, and a hole at the end.
    fn sample() -> Vec<u8> {
        let mut sample = vec![1; 10_000];
        sample.resize(10_000 + 300_000, 0);
        for length in [1, 4096, 8192, 60_000, 65_000] {
            sample.push(2);
            sample.resize(sample.len() + length, 0);
        }
        sample.extend([3; 5000]);
        sample.resize(sample.len() + 200_000, 0);
        sample
    }

    #[test]
    fn nothing_changes_however_a_content_is_cut() {
        let sample = sample();
        for start in [0, 1, 4095, 4096, 70_000] {
            for size in [1000, 4096, 5000, 16_384, 100_000, sample.len()] {
                let parts: Vec<Bytes> = sample.chunks(size).map(Bytes::copy_from_slice).collect();
                let (found, holes) = content(&find(start, &parts));
                assert!(found == sample, "{start} {size}");
                // But for what the blocks at their ends have.
                assert!((470_000..=500_000).contains(&holes), "{start} {size}: {holes}");
            }
        }
    }

    #[test]
    fn all_zeros_are_one_hole_and_data_is_not_copied() {
        let zeros = Bytes::from(vec![0; 100_000]);
        assert_eq!(find(0, &[zeros.clone(), zeros]), [Piece::Hole(200_000)]);
        assert_eq!(find(0, &[Bytes::from(vec![0; 100])]), [Piece::Data(zeros_of(100))]);
        let data = Bytes::from(vec![7; 100_000]);
        let found = find(5, std::slice::from_ref(&data));
        let [Piece::Data(passed)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(passed.as_ptr(), data.as_ptr());
        assert_eq!(find(0, &[]), []);
    }

    fn zeros_of(count: usize) -> Bytes {
        Bytes::from(vec![0; count])
    }
}
