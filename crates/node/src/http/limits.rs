//! How often callers may ask, and how loud the refused ones get.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use inn_api::Code;
use tokio::time::Instant;

use super::auth::Peer;
use super::problem::Failed;
use crate::access::{Principal, Rates, Who};
use crate::config::AccessConfig;

/// Between two lines about callers that were refused: whoever tries passwords
/// fills no disk with it.
const QUIET: Duration = Duration::from_secs(10);

/// Buckets; how fast they fill is in the configuration, and may change.
#[derive(Debug, Default)]
pub(super) struct Limits {
    callers: Rates<Who>,
    strangers: Rates<super::connections::PeerKey>,
    refused: Mutex<Refused>,
}

#[derive(Debug, Default)]
struct Refused {
    unsaid: u64,
    said: Option<Instant>,
}

impl Limits {
    /// Those who own the host are not kept from anything.
    pub(super) fn admit(
        &self,
        config: &AccessConfig,
        principal: &Principal,
        peer: &Peer,
    ) -> Result<(), Duration> {
        match &principal.who {
            Who::User { .. } if peer.owns_the_host() => Ok(()),
            Who::Nobody => self.stranger(config, peer),
            who => self.callers.take(who.clone(), config.rate, Instant::now()),
        }
    }

    /// One more request of somebody without good credentials.
    pub(super) fn stranger(&self, config: &AccessConfig, peer: &Peer) -> Result<(), Duration> {
        self.strangers.take(peer.key(), config.strangers_rate, Instant::now())
    }

    /// Writes of refused callers into the log, at a bounded rate.
    pub(super) fn note_refusal(&self, peer: &Peer, status: u16) {
        if let Some(unsaid) = self.may_say(Instant::now()) {
            tracing::warn!(from = %peer.key(), status, unsaid, "a caller was refused");
        }
    }

    /// How many were refused since the last line, if it is time for one.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.said.is_some_and(|said| now.saturating_duration_since(said) < QUIET) {
            refused.unsaid += 1;
            return None;
        }
        refused.said = Some(now);
        Some(std::mem::take(&mut refused.unsaid))
    }
}

/// 429 with the seconds after which it may go better.
pub(super) fn too_often(wait: Duration) -> Response {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    let detail = format!("asked too often; try again in {seconds} s, or ask for less at a time");
    let mut response = Failed::new(Code::LimitExceeded, detail).into_response();
    if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_without_end_are_a_line_now_and_then() {
        let limits = Limits::default();
        let start = Instant::now();
        assert_eq!(limits.may_say(start), Some(0));
        for _ in 0..1_000 {
            assert_eq!(limits.may_say(start + QUIET / 2), None);
        }
        assert_eq!(limits.may_say(start + QUIET), Some(1_000));
        assert_eq!(limits.may_say(start + QUIET * 3), Some(0));
    }

    #[test]
    fn whoever_asks_too_often_hears_when_to_come_again() {
        for (wait, seconds) in [(1, "1"), (1_000, "1"), (1_001, "2")] {
            let response = too_often(Duration::from_millis(wait));
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }
}
