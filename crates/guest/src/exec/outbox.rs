//! A process's output on its way to a host that says what has arrived.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::Channel;

/// Smaller pieces are gathered: a slice of a read's buffer keeps all of it.
const WORTH_KEEPING: usize = MAX_DATA / 2;

/// How much is gathered in one segment.
const SEGMENT: usize = 16 * 1024;

/// What a segment costs besides its bytes.
const SEGMENT_COST: usize = 64;

/// Keeps everything until it is taken. It never refuses: who pushes asks
/// first whether there is room, and goes past it by one piece at most. Offsets
/// count stdout and stderr together from the process's start.
#[derive(Debug)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    capacity: usize,
    cost: usize,
    start: u64,
    end: u64,
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    channel: Channel,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Whole(Bytes),
    Gathered(BytesMut),
}

impl Kept {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Gathered(bytes) => bytes,
        }
    }
}

impl Outbox {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { segments: VecDeque::new(), capacity, cost: 0, start: 0, end: 0 }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.cost < self.capacity
    }

    /// Everything before it has been taken.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn push(&mut self, channel: Channel, mut bytes: Bytes) {
        if bytes.len() >= WORTH_KEEPING {
            return self.add(channel, Kept::Whole(bytes));
        }
        while !bytes.is_empty() {
            if let Some(Segment { channel: of, kept: Kept::Gathered(last), .. }) =
                self.segments.back_mut()
                && *of == channel
                && last.len() < SEGMENT
            {
                let now = bytes.split_to(bytes.len().min(SEGMENT - last.len()));
                last.extend_from_slice(&now);
                self.cost += now.len();
                self.end += now.len() as u64;
            } else {
                self.add(channel, Kept::Gathered(BytesMut::new()));
            }
        }
    }

    fn add(&mut self, channel: Channel, kept: Kept) {
        let length = kept.bytes().len();
        self.segments.push_back(Segment { offset: self.end, channel, kept });
        self.cost += SEGMENT_COST + length;
        self.end += length as u64;
    }

    /// Drops what lies before `offset`. False for an offset that has not come
    /// yet, or one of which some is gone.
    pub(crate) fn take(&mut self, offset: u64) -> bool {
        if !(self.start..=self.end).contains(&offset) {
            return false;
        }
        self.start = offset;
        while let Some(first) = self.segments.front_mut() {
            let length = first.kept.bytes().len();
            let taken = usize::try_from(offset.saturating_sub(first.offset)).unwrap_or(usize::MAX);
            if taken >= length {
                self.cost -= SEGMENT_COST + length;
                self.segments.pop_front();
                continue;
            }
            match &mut first.kept {
                Kept::Whole(bytes) => bytes.advance(taken),
                Kept::Gathered(bytes) => bytes.advance(taken),
            }
            first.offset += taken as u64;
            self.cost -= taken;
            break;
        }
        true
    }

    /// What one channel has from `offset` on, as far as it is in one piece;
    /// `None` at the end.
    pub(crate) fn read(&self, offset: u64) -> Option<(Channel, Bytes)> {
        let after = self.segments.partition_point(|segment| segment.offset <= offset);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let skip = usize::try_from(offset - segment.offset).ok()?;
        if skip >= segment.kept.bytes().len() {
            return None;
        }
        let bytes = match &segment.kept {
            Kept::Whole(bytes) => bytes.slice(skip..),
            Kept::Gathered(bytes) => Bytes::copy_from_slice(&bytes[skip..]),
        };
        Some((segment.channel, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(outbox: &Outbox, mut offset: u64) -> Vec<(u64, Channel, u8)> {
        let mut all = Vec::new();
        while let Some((channel, bytes)) = outbox.read(offset) {
            all.extend(bytes.iter().zip(offset..).map(|(byte, at)| (at, channel, *byte)));
            offset += bytes.len() as u64;
        }
        all
    }

    proptest! {
        #[test]
        fn nothing_goes_before_it_is_taken(
            pieces in prop::collection::vec((any::<bool>(), 0usize..40_000, 0usize..30_000), 0..12),
        ) {
            let mut outbox = Outbox::new(100_000);
            let mut model = Vec::new();
            let mut taken = 0;
            for (err, length, take) in pieces {
                let channel = if err { Channel::Stderr } else { Channel::Stdout };
                let bytes: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
                model.extend(bytes.iter().map(|byte| (channel, *byte)));
                outbox.push(channel, bytes.into());
                taken = model.len().min(taken + take);
                prop_assert!(outbox.take(taken as u64));
                let kept: Vec<_> = model.iter().enumerate().skip(taken)
                    .map(|(at, (channel, byte))| (at as u64, *channel, *byte))
                    .collect();
                prop_assert_eq!(read_all(&outbox, taken as u64), kept);
                prop_assert!(outbox.cost() >= model.len() - taken);
            }
            prop_assert!(!outbox.take(model.len() as u64 + 1));
            prop_assert!(outbox.take(model.len() as u64));
            prop_assert_eq!(outbox.cost(), 0);
        }
    }

    #[test]
    fn it_is_full_until_some_is_taken() {
        let mut outbox = Outbox::new(50_000);
        outbox.push(Channel::Stdout, Bytes::from(vec![b'x'; 60_000]));
        assert!(!outbox.has_room());
        assert!(outbox.take(20_000) && outbox.has_room());
        assert!(!outbox.take(19_999), "what is gone is gone");
        let (channel, bytes) = outbox.read(59_999).unwrap();
        assert_eq!((channel, &bytes[..]), (Channel::Stdout, &b"x"[..]));
        assert!(outbox.read(60_000).is_none());
        for _ in 0..10 {
            outbox.push(Channel::Stderr, Bytes::from_static(b"a"));
            outbox.push(Channel::Stdout, Bytes::from_static(b"b"));
        }
        assert_eq!((outbox.start(), outbox.end()), (20_000, 60_020));
        assert!(outbox.take(60_019));
        assert_eq!(read_all(&outbox, 60_019), [(60_019, Channel::Stdout, b'b')]);
    }
}
