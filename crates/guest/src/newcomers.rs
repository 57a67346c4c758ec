//! Who sends much gives way to who has just come.
//!
//! The protocol gives every stream its turn on the channel, but a flood also
//! takes the guest's CPUs: its process prints as fast as it is read. So a
//! stream that has sent much waits while another one is new, and with it the
//! process that fills its pipe. The wait is short, and between two of them a
//! flood has its share, so that no number of newcomers starves it.
//!
//! ```text
//!   sends ──SHARE sent──▶ looks ──nobody is new──────────────▶ sends
//!     ▲                     └─────▶ waits ──it has gone, or HOLD is over─┐
//!     └──────────────────────────────────────────────────────────────────┘
//! ```

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a stream is new: most requests and short commands are done by
/// then, also where the CPU is emulated (a spawn takes some 4 ms there).
const HOLD: Duration = Duration::from_millis(30);

/// What a stream sends between two waits, in bytes: a message or two.
const SHARE: usize = 64 * 1024;

/// The newest stream of a session. Older ones that are new still are covered
/// by its time, but for the few milliseconds between the two.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    newest: Cell<Option<(u32, Instant)>>,
    gone: Notify,
}

/// What one stream has sent since it last gave way, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Sent(Cell<usize>);

impl Newcomers {
    pub(crate) fn came(&self, stream: u32) {
        self.newest.set(Some((stream, Instant::now() + HOLD)));
    }

    pub(crate) fn went(&self, stream: u32) {
        if self.newest.get().is_some_and(|(newest, _)| newest == stream) {
            self.all_went();
        }
    }

    pub(crate) fn all_went(&self) {
        self.newest.set(None);
        self.gone.notify_waiters();
    }

    /// Before `stream` sends so many bytes more.
    pub(crate) async fn give_way(&self, stream: u32, sent: &Sent, bytes: usize) {
        if sent.0.get() >= SHARE {
            while let Some((newest, until)) = self.newest.get()
                && newest != stream
            {
                if timeout_at(until, self.gone.notified()).await.is_err() {
                    // Nothing runs between the two: it is still this one. Nobody
                    // has to ask the clock about it again.
                    self.newest.set(None);
                }
            }
            sent.0.set(0);
        }
        sent.0.set(sent.0.get() + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: u32 = 1;
    const NEW: u32 = 3;

    async fn gives_way(newcomers: &Newcomers, sent: &Sent) -> Duration {
        let begin = Instant::now();
        newcomers.give_way(FLOOD, sent, SHARE).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_sent_much_waits_for_a_newcomer_and_then_has_its_share() {
        let (newcomers, sent) = (Newcomers::default(), Sent::default());
        newcomers.came(NEW);
        // Little was sent by then.
        assert_eq!(gives_way(&newcomers, &sent).await, Duration::ZERO);
        // The clock is paused, and goes to the next timer when all wait.
        assert_eq!(gives_way(&newcomers, &sent).await, HOLD);
        assert_eq!(gives_way(&newcomers, &sent).await, Duration::ZERO, "it is new no more");

        newcomers.came(NEW + 2);
        let goes = async {
            tokio::time::sleep(HOLD / 3).await;
            newcomers.went(NEW + 2);
        };
        let (waited, ()) = tokio::join!(gives_way(&newcomers, &sent), goes);
        assert_eq!(waited, HOLD / 3, "as long as the newcomer was there");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_itself_nor_after_the_session() {
        let (newcomers, sent) = (Newcomers::default(), Sent::default());
        newcomers.came(FLOOD);
        for _ in 0..3 {
            assert_eq!(gives_way(&newcomers, &sent).await, Duration::ZERO);
        }
        newcomers.came(NEW);
        let ends = async { newcomers.all_went() };
        let (waited, ()) = tokio::join!(gives_way(&newcomers, &sent), ends);
        assert_eq!(waited, Duration::ZERO);
    }
}
