//! How long a body may take: a client that stops sending holds neither a
//! connection's place nor what its request has begun.
//!
//! ```text
//!   waits for the client ── LEAST bytes have come ──▶ the count begins anew
//!        └── api.body_timeout of waiting, all in all ──▶ TooSlow, 408
//! ```
//! Only the wait for the client counts. An upload is as slow as the guest that
//! takes it, and as long as it is large.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// What makes a body one that goes on: less in a minute nobody sends who means
/// to come to an end.
const LEAST: u64 = 4 << 10;

#[derive(Debug, thiserror::Error)]
#[error(
    "the body comes too slowly: fewer than {LEAST} bytes in {} s (api.body_timeout)",
    window.as_secs_f64()
)]
pub(super) struct TooSlow {
    pub(super) window: Duration,
}

/// A body that has to go on.
#[derive(Debug)]
pub(super) struct Paced {
    body: Incoming,
    pace: Pace,
    /// Whether bytes have come that may be of another request's head.
    heard: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Pace {
    window: Duration,
    got: u64,
    /// Since so many bytes had come.
    waited: Duration,
    waits_since: Option<Instant>,
    /// Never later than the window's end.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) fn new(body: Incoming, window: Duration, heard: Arc<AtomicBool>) -> Self {
        Self { body, pace: Pace::new(window), heard }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        // What came was the body's.
        self.heard.store(false, Ordering::Relaxed);
    }
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { window, got: 0, waited: Duration::ZERO, waits_since: None, alarm: None }
    }

    fn came(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
        }
        self.got += bytes as u64;
        if self.got >= LEAST {
            (self.got, self.waited) = (0, Duration::ZERO);
        }
    }

    /// Ready once it has waited for too long.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let due = since + self.window.saturating_sub(self.waited);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                let bytes = data.map_or(0, Bytes::len);
                self.pace.came(bytes);
                Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)))
            }
            Poll::Pending => {
                std::task::ready!(self.pace.poll_over(cx));
                let window = self.pace.window;
                Poll::Ready(Some(Err(axum::Error::new(TooSlow { window }))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    async fn waits(pace: &mut Pace, so_long: Duration) -> bool {
        let over = poll_fn(|cx| pace.poll_over(cx));
        // Cancelled as a body is that has data.
        timeout(so_long, over).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_wait_for_the_client_counts() {
        let mut pace = Pace::new(WINDOW);
        for _ in 0..4 {
            assert!(waits(&mut pace, Duration::from_secs(2)).await);
            pace.came(1);
            // The guest takes its time.
            advance(Duration::from_secs(60)).await;
        }
        assert!(!waits(&mut pace, Duration::from_secs(3)).await, "ten seconds for four bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_goes_on_may_take_for_ever() {
        let mut pace = Pace::new(WINDOW);
        for _ in 0..1_000 {
            assert!(waits(&mut pace, Duration::from_secs(9)).await);
            pace.came(4 << 10);
        }
    }
}
