//! Turns: how many of one thing the node does at a time, first come, first
//! served.
//!
//! ```text
//!   take ─┬─▶ free ──────────────▶ Turn ──dropped──▶ the next in line
//!         └─▶ in line ──called──▶──┘ └───its time is over──▶──┘
//!                └── dropped: it leaves the line
//! ```
//!
//! Whoever has a turn gives it back by dropping it. One that hangs loses it
//! once its time is over, so that nobody behind it waits for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How often somebody in line looks whether a turn is overdue.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Turns {
    /// What there are turns of: `start`.
    what: &'static str,
    most: usize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// By number, until when.
    held: BTreeMap<u64, Instant>,
}

#[derive(Debug)]
struct Waiting {
    longest: Duration,
    called: Arc<Notify>,
}

/// The right to go ahead.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    number: u64,
}

/// A place in line, for whoever asks how long it is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    turns: Arc<Turns>,
    number: u64,
}

impl Turns {
    pub(crate) fn new(what: &'static str, most: usize) -> Arc<Self> {
        Arc::new(Self { what, most: most.max(1), line: Mutex::default() })
    }

    /// How many are held, and how many wait for one.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let line = self.lock();
        (line.held.len(), line.waiting.len())
    }

    /// A turn for at most `longest`. Where none is free, `told` gets the place
    /// in line first. Dropping the future leaves the line.
    pub(crate) async fn take(
        self: &Arc<Self>,
        longest: Duration,
        told: impl FnOnce(Place),
    ) -> Turn {
        let called = Arc::new(Notify::new());
        // Leaves the line, or gives the turn back, however this ends.
        let turn = {
            let mut line = self.lock();
            let number = line.next;
            line.next += 1;
            line.waiting.insert(number, Waiting { longest, called: Arc::clone(&called) });
            line.advance(self.most);
            Turn { turns: Arc::clone(self), number }
        };
        if self.lock().held.contains_key(&turn.number) {
            return turn;
        }
        told(Place { turns: Arc::clone(self), number: turn.number });
        while !self.has_been_called(turn.number) {
            tokio::select! {
                // A call that came before this is kept for it.
                () = called.notified() => {}
                () = tokio::time::sleep(LOOK) => self.lock().revoke(self.most),
            }
        }
        turn
    }

    /// Who is in line no more was called, even if its turn is over by now.
    fn has_been_called(&self, number: u64) -> bool {
        !self.lock().waiting.contains_key(&number)
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // Every change leaves the line whole.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn advance(&mut self, most: usize) {
        while self.held.len() < most
            && let Some((number, waiting)) = self.waiting.pop_first()
        {
            self.held.insert(number, Instant::now() + waiting.longest);
            waiting.called.notify_one();
        }
    }

    fn revoke(&mut self, most: usize) {
        let now = Instant::now();
        self.held.retain(|_, until| *until > now);
        self.advance(most);
    }
}

impl Place {
    /// `waits for a free start: 3 ahead`.
    pub(crate) fn sentence(&self) -> String {
        let ahead = self.turns.lock().waiting.range(..self.number).count();
        format!("waits for a free {}: {ahead} ahead", self.turns.what)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.turns.lock();
        line.waiting.remove(&self.number);
        line.held.remove(&self.number);
        line.advance(self.turns.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A taker, and its place in line once it has one.
    async fn in_line(
        turns: &Arc<Turns>,
        longest: Duration,
    ) -> (tokio::task::JoinHandle<Turn>, Place) {
        let (tell, told) = tokio::sync::oneshot::channel();
        let turns = Arc::clone(turns);
        let taker = tokio::spawn(async move {
            turns.take(longest, |place| tell.send(place).expect("somebody listens")).await
        });
        (taker, told.await.expect("it has to wait"))
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_given_in_order_and_places_are_told() {
        let turns = Turns::new("start", 2);
        let none = |_| panic!("nobody is ahead");
        let first = turns.take(LONG, none).await;
        let second = turns.take(LONG, none).await;
        let (third, third_place) = in_line(&turns, LONG).await;
        let (fourth, fourth_place) = in_line(&turns, LONG).await;
        let (fifth, fifth_place) = in_line(&turns, LONG).await;
        assert_eq!(third_place.sentence(), "waits for a free start: 0 ahead");
        assert_eq!(fifth_place.sentence(), "waits for a free start: 2 ahead");
        // Who gives up makes way for those behind.
        fourth.abort();
        assert!(fourth.await.unwrap_err().is_cancelled());
        assert_eq!(fifth_place.sentence(), "waits for a free start: 1 ahead");
        drop((fourth_place, first));
        let third = third.await.unwrap();
        assert!(!fifth.is_finished());
        drop(second);
        let fifth = fifth.await.unwrap();
        assert_eq!(turns.lock().held.len(), 2);
        drop((third, fifth));
        assert!(turns.lock().held.is_empty() && turns.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_hangs_is_lost_when_its_time_is_over() {
        let turns = Turns::new("start", 1);
        let hangs = turns.take(Duration::from_secs(90), |_| {}).await;
        let begun = Instant::now();
        let (next, _) = in_line(&turns, LONG).await;
        let next = next.await.unwrap();
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(90) && waited < Duration::from_secs(92));
        // Its late end takes nothing from who came after it.
        drop(hangs);
        assert_eq!(turns.lock().held.len(), 1);
        drop(next);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_called_and_gone_passes_the_turn_on() {
        let turns = Turns::new("start", 1);
        let first = turns.take(LONG, |_| {}).await;
        let (second, _) = in_line(&turns, LONG).await;
        let (third, _) = in_line(&turns, LONG).await;
        drop(first);
        // Called, and dropped before it has seen that.
        second.abort();
        let _ = second.await;
        drop(third.await.unwrap());
        assert!(turns.lock().held.is_empty());
    }
}
