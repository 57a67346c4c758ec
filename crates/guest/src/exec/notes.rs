//! What befell a supervised exec, for those who follow its output.

use std::collections::VecDeque;

use inn_guest_proto::wire::ExecNote;

/// Kept for followers that are behind; whoever is further behind misses the
/// oldest, and finds the number of restarts in those that come.
const MAX_NOTES: usize = 32;

/// The latest notes, each with its place among the output.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kept: VecDeque<(u64, ExecNote)>,
    /// How many there ever were.
    total: u64,
}

impl Notes {
    /// `at`: so much output came before it.
    pub(super) fn push(&mut self, at: u64, note: ExecNote) {
        if self.kept.len() == MAX_NOTES {
            self.kept.pop_front();
        }
        self.kept.push_back((at, note));
        self.total += 1;
    }

    /// The number that the next note will have.
    pub(super) fn next_number(&self) -> u64 {
        self.total
    }

    /// The first note from `number` on, with its own number and its place.
    pub(super) fn read(&self, number: u64) -> Option<(u64, u64, ExecNote)> {
        let first = self.total - self.kept.len() as u64;
        let index = usize::try_from(number.saturating_sub(first)).ok()?;
        let (at, note) = self.kept.get(index)?;
        Some((first + index as u64, *at, *note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_numbers_stay() {
        let mut notes = Notes::default();
        assert!(notes.read(0).is_none());
        for restarts in 0..40 {
            notes.push(u64::from(restarts) * 10, ExecNote { restarts, ..ExecNote::default() });
        }
        let (number, at, note) = notes.read(0).unwrap();
        assert_eq!((number, at, note.restarts), (8, 80, 8));
        assert_eq!(notes.read(39).unwrap().2.restarts, 39);
        assert!(notes.read(notes.next_number()).is_none());
    }
}
