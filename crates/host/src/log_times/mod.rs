//! When the bytes of a log were written, for logs whose lines have no times.
//!
//! ```text
//!   NAME.1  ░░░░░░░░░░░░  NAME  ░░░░░░░░░░░░    two parts of one log
//!           ╎   ╎    ╎          ╎  ╎     ╎
//!   NAME.times  a mark where something was written after a second without one:
//!               from here to the next mark it was written from … until
//! ```
//!
//! Whoever writes the log marks it ([`Times`]), before the bytes; whoever reads
//! it asks where to begin ([`begin`]). The answer may be too early, by the
//! length of a mark, and never too late: what has no mark counts as written when
//! its part was written to last. A clock that jumps makes a mark more, and what
//! was marked by a clock that was ahead of now is as old as what follows it.
//!
//! A part has at most [`MOST`] marks. When they are used up, those are joined
//! that are older than [`COARSE`] times what they then hold: a log that is
//! written to all the time is told apart to a second at first, and later to a
//! hundredth of its age.

mod file;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::file::{Times, path_of, read};

/// How long what follows a mark is taken to be of its time.
pub const PERIOD: Duration = Duration::from_secs(1);

/// Of a part: 48 KiB of them. A year of one each second leaves 1,700 when they
/// are joined (`COARSE` + `COARSE` × ln(a year ÷ `COARSE` seconds)).
pub const MOST: usize = 2048;

/// How old what is joined has to be, as a multiple of how long it was written.
pub const COARSE: u64 = 128;

/// Of a mark: three numbers, the least significant byte first.
const SIZE: usize = 24;

/// In a mark's first number, beside the offset.
const OLDER: u64 = 1 << 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `NAME.1`
    Older,
    Current,
}

/// What of a part begins at `offset`, up to the next mark, was written in this
/// time, `until` not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    part: Part,
    offset: u64,
    from: Millis,
    until: Millis,
}

/// A time, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Millis(u64);

/// What there is of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub length: u64,
    /// When it was last written to.
    pub modified: SystemTime,
}

/// Where to begin so that nothing which was written at `since` or later is left
/// out.
pub fn begin(
    marks: &[Mark],
    [older, current]: [Extent; 2],
    since: SystemTime,
    now: SystemTime,
) -> (Part, u64) {
    let (since, now) = (Millis::from(since), Millis::from(now));
    let mut spans = spans_of(Part::Older, marks, older);
    let in_older = spans.len();
    spans.extend(spans_of(Part::Current, marks, current));
    // Marks are missing if somebody writes who makes none.
    if let Some(last) = spans.get_mut(in_older..).and_then(<[Mark]>::last_mut) {
        last.until = last.until.max(Millis::after(current.modified));
    }
    let mut place = (Part::Current, current.length);
    // When what follows a span was written, by a clock that was not ahead.
    let mut next = Millis(u64::MAX);
    for span in spans.iter().rev() {
        let is_ahead = span.from > now;
        let until = if is_ahead { span.until.min(next) } else { span.until };
        if until > since {
            place = (span.part, span.offset);
        }
        if !is_ahead {
            next = span.from;
        }
    }
    place
}

/// The marks of a part, and one for what is before the first.
fn spans_of(part: Part, marks: &[Mark], extent: Extent) -> Vec<Mark> {
    if extent.length == 0 {
        return Vec::new();
    }
    let is_there = |mark: &&Mark| mark.part == part && mark.offset <= extent.length;
    let known: Vec<Mark> = marks.iter().filter(is_there).copied().collect();
    let mut spans = Vec::with_capacity(known.len() + 1);
    if known.first().is_none_or(|first| first.offset > 0) {
        let until = known.first().map_or(Millis::after(extent.modified), |first| first.from);
        spans.push(Mark { part, offset: 0, from: Millis(0), until });
    }
    spans.extend(known);
    spans
}

/// Of the current part's, those that are old enough become one.
fn thinned(marks: &[Mark], now: SystemTime) -> Vec<Mark> {
    let now = Millis::from(now).0;
    let (mut all, current): (Vec<Mark>, Vec<Mark>) =
        marks.iter().partition(|mark| mark.part == Part::Older);
    let older = all.len();
    let is_old = |first: &Mark, next: &Mark| {
        let took = next.until.0.checked_sub(first.from.0);
        next.from >= first.from
            && took.is_some_and(|took| took <= now.saturating_sub(next.until.0) / COARSE)
    };
    join(&mut all, &current, is_old);
    // Of a clock that jumps without end, or of a century.
    if all.len() - older > MOST - MOST / 8 {
        let current = all.split_off(older);
        let mut odd = false;
        join(&mut all, &current, |_, _| {
            odd = !odd;
            odd
        });
    }
    all
}

fn join(all: &mut Vec<Mark>, marks: &[Mark], mut may: impl FnMut(&Mark, &Mark) -> bool) {
    let begin = all.len();
    for next in marks {
        match all.get_mut(begin..).and_then(<[Mark]>::last_mut) {
            Some(last) if may(last, next) => {
                last.from = last.from.min(next.from);
                last.until = last.until.max(next.until);
            }
            _ => all.push(*next),
        }
    }
}

/// The current part becomes the older one, without its first `dropped` bytes.
fn turned(marks: &[Mark], dropped: u64) -> Vec<Mark> {
    let current: Vec<Mark> =
        marks.iter().filter(|mark| mark.part == Part::Current).copied().collect();
    // The last of those that begin before what is left goes on into it.
    let first = current.iter().rposition(|mark| mark.offset <= dropped).unwrap_or(0);
    let moved = current.get(first..).unwrap_or_default().iter().map(|mark| Mark {
        part: Part::Older,
        offset: mark.offset.saturating_sub(dropped),
        ..*mark
    });
    moved.collect()
}

impl Mark {
    fn new(offset: u64, now: SystemTime) -> Self {
        let from = Millis::from(now);
        Self { part: Part::Current, offset, from, until: Millis::from(now + PERIOD) }
    }

    /// Whether what is written now is of its time.
    fn holds(&self, now: SystemTime) -> bool {
        (self.from..self.until).contains(&now.into())
    }

    fn encode(&self) -> [u8; SIZE] {
        let place = match self.part {
            Part::Older => self.offset | OLDER,
            Part::Current => self.offset & !OLDER,
        };
        let mut bytes = [0; SIZE];
        for (to, number) in bytes.chunks_mut(8).zip([place, self.from.0, self.until.0]) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// Half a mark at the end is none.
fn decode(bytes: &[u8]) -> Vec<Mark> {
    let (marks, _) = bytes.as_chunks::<SIZE>();
    let number = |mark: &[u8; SIZE], at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&mark[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let mark = |mark| {
        let place = number(mark, 0);
        let part = if place & OLDER == 0 { Part::Current } else { Part::Older };
        let (from, until) = (Millis(number(mark, 8)), Millis(number(mark, 16)));
        Mark { part, offset: place & !OLDER, from, until }
    };
    marks.iter().map(mark).collect()
}

fn encode(marks: &[Mark]) -> Vec<u8> {
    marks.iter().flat_map(Mark::encode).collect()
}

impl Millis {
    /// The first one that is later.
    fn after(time: SystemTime) -> Self {
        Self(Self::from(time).0.saturating_add(1))
    }
}

/// What is before 1970 is 1970.
impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
