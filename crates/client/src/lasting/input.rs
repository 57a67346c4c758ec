//! What was sent to a process and may have to be sent again.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use inn_api::exec::InputTaken;

/// The most that is kept, in bytes and in pieces. All of it fits into the
/// guest's window and the agent's queue: an agent never stops reading from us,
/// and so always hears what we have taken of the output.
const MOST_BYTES: usize = 128 * 1024;
const MOST_PIECES: usize = 128;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    End,
}

#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    /// From `start` on.
    pieces: VecDeque<Bytes>,
    start: u64,
    bytes: usize,
    /// How many of the pieces are sent on this connection.
    sent: usize,
    ended: bool,
    end_sent: bool,
    end_taken: bool,
    /// Nothing will ever be confirmed, and so nothing is kept.
    kept_by_nobody: bool,
}

impl Unconfirmed {
    pub(super) fn has_room(&self) -> bool {
        !self.ended
            && (self.kept_by_nobody || self.bytes < MOST_BYTES && self.pieces.len() < MOST_PIECES)
    }

    /// `None` is the end.
    pub(super) fn push(&mut self, data: Option<Bytes>) {
        match data {
            Some(data) if data.is_empty() => {}
            Some(data) => {
                self.bytes += data.len();
                self.pieces.push_back(data);
            }
            None => self.ended = true,
        }
    }

    /// What is to be sent next.
    pub(super) fn next(&mut self) -> Option<Piece> {
        if let Some(piece) = self.pieces.get(self.sent) {
            return Some(Piece::Data(piece.clone()));
        }
        (self.ended && !self.end_sent && !self.end_taken).then_some(Piece::End)
    }

    /// What `next` gave is on its way.
    pub(super) fn sent(&mut self, piece: &Piece) {
        match piece {
            Piece::Data(data) if self.kept_by_nobody => {
                self.pieces.pop_front();
                self.bytes -= data.len();
                self.start += data.len() as u64;
            }
            Piece::Data(_) => self.sent += 1,
            Piece::End => self.end_sent = true,
        }
    }

    pub(super) fn confirm(&mut self, taken: InputTaken) {
        self.end_taken |= taken.input_ended;
        if !taken.lasting {
            self.kept_by_nobody = true;
            for piece in self.pieces.drain(..self.sent) {
                self.bytes -= piece.len();
                self.start += piece.len() as u64;
            }
            self.sent = 0;
            return;
        }
        while let Some(first) = self.pieces.front_mut() {
            let past =
                usize::try_from(taken.input.saturating_sub(self.start)).unwrap_or(usize::MAX);
            let past = past.min(first.len());
            first.advance(past);
            self.start += past as u64;
            self.bytes -= past;
            if !first.is_empty() {
                return;
            }
            self.pieces.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }

    /// Of a new connection: nothing is sent on it yet.
    pub(super) fn send_again(&mut self) {
        self.sent = 0;
        self.end_sent = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn taken(input: u64, input_ended: bool) -> InputTaken {
        InputTaken { input, input_ended, lasting: true }
    }

    fn send(input: &mut Unconfirmed) -> Vec<Piece> {
        let mut all = Vec::new();
        while let Some(piece) = input.next() {
            input.sent(&piece);
            all.push(piece);
        }
        all
    }

    fn data(text: &'static str) -> Piece {
        Piece::Data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_has_not_arrived_is_sent_again() {
        let mut input = Unconfirmed::default();
        for text in ["one", "two", "three"] {
            input.push(Some(Bytes::from_static(text.as_bytes())));
        }
        assert_eq!(send(&mut input), [data("one"), data("two"), data("three")]);
        input.confirm(taken(4, false));
        assert_eq!(send(&mut input), []);
        input.push(None);
        assert!(!input.has_room());
        input.send_again();
        assert_eq!(send(&mut input), [data("wo"), data("three"), Piece::End]);
        input.confirm(taken(11, false));
        input.send_again();
        assert_eq!(send(&mut input), [Piece::End]);
        input.confirm(taken(11, true));
        input.send_again();
        assert_eq!(send(&mut input), []);
    }

    #[test]
    fn little_is_kept() {
        let mut input = Unconfirmed::default();
        let mut pushed = 0;
        while input.has_room() {
            input.push(Some(Bytes::from(vec![0; 10_000])));
            pushed += 10_000;
        }
        assert!((MOST_BYTES..MOST_BYTES + 10_000).contains(&pushed));
        send(&mut input);
        input.confirm(taken(5_000, false));
        assert!(!input.has_room());
        input.confirm(taken(10_000, false));
        assert!(input.has_room());
        while input.has_room() {
            input.push(Some(Bytes::from_static(b"k")));
        }
        assert!(input.pieces.len() <= MOST_PIECES);
        // Of a guest that keeps no exec.
        input.confirm(InputTaken { input: 0, input_ended: false, lasting: false });
        send(&mut input);
        assert!(input.has_room() && input.pieces.is_empty() && input.bytes == 0);
    }
}
