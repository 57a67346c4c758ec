//! Which time each file of the ledger is about, so that who asks for a day has
//! that day's files read and no others.
//!
//! It is what was found in them when they were read, and no line's own time: a
//! clock that was set back and forth between two lines is seen in neither of
//! them. Kept for one life of the agent; a check reads all of it always.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use inn_meter::Entry;

#[derive(Debug, Default)]
pub(super) struct Ranges(HashMap<u64, (Stamp, Range)>);

/// By which a file is the one that was read: length, number, last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, (i64, i64));

/// Milliseconds since 1970: the first and the last that an entry is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Range(Option<(i64, i64)>);

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self(metadata.len(), metadata.ino(), (metadata.mtime(), metadata.mtime_nsec()))
    }
}

impl Range {
    pub(super) fn add(&mut self, entry: &Entry) {
        let (a, b) = (entry.span.from.wall, entry.span.to.wall);
        let (first, last) = self.0.unwrap_or((a, a));
        self.0 = Some((first.min(a).min(b), last.max(a).max(b)));
    }

    /// Whether an entry may have a part from `from` on and before `to`.
    fn touches(self, from: i64, to: i64) -> bool {
        self.0.is_some_and(|(first, last)| last >= from && first < to)
    }
}

impl Ranges {
    pub(super) fn learn(&mut self, file: u64, stamp: Stamp, range: Range) {
        self.0.insert(file, (stamp, range));
    }

    /// Whether the file is known to have nothing of that time.
    pub(super) fn rules_out(&self, file: u64, stamp: Stamp, (from, to): (i64, i64)) -> bool {
        let known = self.0.get(&file).filter(|(as_read, _)| *as_read == stamp);
        known.is_some_and(|(_, range)| !range.touches(from, to))
    }
}
