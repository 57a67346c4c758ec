//! The last bytes of a process's output, by offset.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use inn_guest_proto::wire::Channel;

/// Neighbouring output of one channel is kept together up to this size.
const SEGMENT: usize = 16 * 1024;

/// What a segment costs besides its bytes, so that output that alternates
/// between stdout and stderr stays within the bound too.
const SEGMENT_COST: usize = 64;

/// Keeps at most `capacity` bytes, segment overhead included, and forgets the
/// oldest first. Offsets count stdout and stderr together from the start.
#[derive(Debug)]
pub(crate) struct Ring {
    segments: VecDeque<Segment>,
    capacity: usize,
    cost: usize,
    end: u64,
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    channel: Channel,
    bytes: BytesMut,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { segments: VecDeque::new(), capacity, cost: 0, end: 0 }
    }

    /// The oldest offset that can still be read.
    pub(crate) fn start(&self) -> u64 {
        self.segments.front().map_or(self.end, |segment| segment.offset)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Of what it holds now.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn push(&mut self, channel: Channel, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = match self.segments.back() {
                Some(last) if last.channel == channel => SEGMENT - last.bytes.len(),
                _ => 0,
            };
            if room == 0 {
                let segment = Segment { offset: self.end, channel, bytes: BytesMut::new() };
                self.segments.push_back(segment);
                self.cost += SEGMENT_COST;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.segments.back_mut() {
                last.bytes.extend_from_slice(now);
            }
            self.cost += now.len();
            self.end += now.len() as u64;
            bytes = later;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.cost > self.capacity {
            let excess = self.cost - self.capacity;
            let Some(first) = self.segments.front_mut() else { return };
            if first.bytes.len() <= excess {
                self.cost -= first.bytes.len() + SEGMENT_COST;
                self.segments.pop_front();
            } else {
                first.bytes.advance(excess);
                first.offset += excess as u64;
                self.cost -= excess;
            }
        }
    }

    /// At most `limit` bytes of one channel from `offset` on, or from the
    /// oldest that is kept; `None` at the end.
    pub(crate) fn read(&self, offset: u64, limit: usize) -> Option<(u64, Channel, Bytes)> {
        let after = self.segments.partition_point(|segment| segment.offset <= offset);
        // The segment before may reach beyond `offset`.
        let candidates = self.segments.range(after.saturating_sub(1)..);
        for segment in candidates {
            let skip = usize::try_from(offset.saturating_sub(segment.offset)).unwrap_or(usize::MAX);
            if skip < segment.bytes.len() {
                let rest = &segment.bytes[skip..];
                let piece = &rest[..rest.len().min(limit)];
                let at = segment.offset + skip as u64;
                return Some((at, segment.channel, Bytes::copy_from_slice(piece)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(ring: &Ring, mut offset: u64) -> Vec<(u64, Channel, u8)> {
        let mut all = Vec::new();
        while let Some((at, channel, bytes)) = ring.read(offset, 7) {
            all.extend(bytes.iter().zip(at..).map(|(byte, at)| (at, channel, *byte)));
            offset = at + bytes.len() as u64;
        }
        all
    }

    proptest! {
        #[test]
        fn keeps_the_last_bytes_in_order_and_within_bounds(
            pieces in prop::collection::vec((any::<bool>(), 0usize..300), 0..200),
            capacity in 0usize..20_000,
            from in 0u64..30_000,
        ) {
            let mut ring = Ring::new(capacity);
            let mut model = Vec::new();
            for (err, length) in pieces {
                let channel = if err { Channel::Stderr } else { Channel::Stdout };
                let bytes: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
                for byte in &bytes {
                    model.push((model.len() as u64, channel, *byte));
                }
                ring.push(channel, &bytes);
                prop_assert!(ring.cost() <= capacity);
            }
            prop_assert_eq!(ring.end(), model.len() as u64);
            let start = ring.start().max(from);
            let expected: Vec<_> = model.into_iter().filter(|(at, ..)| *at >= start).collect();
            prop_assert_eq!(read_all(&ring, from), expected);
        }
    }

    #[test]
    fn a_large_ring_keeps_everything() {
        let mut ring = Ring::new(1 << 20);
        ring.push(Channel::Stdout, &[b'x'; 100_000]);
        ring.push(Channel::Stderr, b"end");
        assert_eq!(ring.start(), 0);
        assert_eq!(ring.end(), 100_003);
        let (at, channel, bytes) = ring.read(100_001, 100).unwrap();
        assert_eq!((at, channel, &bytes[..]), (100_001, Channel::Stderr, &b"nd"[..]));
        assert!(ring.read(100_003, 1).is_none());
    }
}
