//! Whether a port that says "nobody is there" tells of the host that we serve.
//!
//! ```text
//!             heard             nobody               nobody, still
//!   unknown ────────▶ there ────────────▶ leaving ─────────────────▶ unknown:
//!      ▲                ▲                  │   │     after a while     its session is over
//!      │                └───── heard ──────┘   │
//!      └──── an opening, or what comes before one
//! ```
//!
//! The driver learns of hosts that come and go by a queue of its own, which a
//! kernel thread empties, and hands out bytes as they come
//! (drivers/char/virtio_console.c, `control_work_handler` and `in_intr`). So on a
//! busy machine all of a new host's opening can have been read before the driver
//! knows that somebody is there, or that the host before is gone. Until then a
//! read says "end of file", and to believe it would be to forget an opening
//! whose sender waits for the answer.

use std::time::Duration;

use tokio::time::Instant;

/// For the driver to tell of a host that has come right after another: both are
/// in its queue then. Nobody waits for what ends by this.
const GRACE: Duration = Duration::from_millis(200);

/// Of a port's other end; a connection needs none of this.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nobody has come, or somebody of whom the driver does not know yet. No
    /// request is made before an opening's answer was taken, so nothing is lost
    /// if they are gone already.
    #[default]
    Unknown,
    There,
    /// Since when it is not for the driver's ignorance.
    Leaving {
        until: Instant,
    },
}

impl Presence {
    /// The driver knows of a host: it took bytes for it, or has none of it now
    /// and yet no end.
    pub(crate) fn heard(&mut self) {
        *self = Self::There;
    }

    /// Of another host, as it seems.
    pub(crate) fn began(&mut self) {
        *self = Self::Unknown;
    }

    /// A read says that nobody is there. Whether the session is over by that.
    pub(crate) fn nobody(&mut self, now: Instant) -> bool {
        match *self {
            Self::Unknown => false,
            Self::There => {
                *self = Self::Leaving { until: now + GRACE };
                false
            }
            Self::Leaving { until } if now < until => false,
            Self::Leaving { .. } => {
                *self = Self::Unknown;
                true
            }
        }
    }

    /// When to read again.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        match self {
            Self::Leaving { until } => Some(*until),
            Self::Unknown | Self::There => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_there_and_stays_away_is_gone() {
        let now = Instant::now();
        let mut presence = Presence::default();
        assert!(!presence.nobody(now), "nobody has come yet");
        assert_eq!(presence.look_at(), None);
        presence.heard();
        assert!(!presence.nobody(now));
        assert!(!presence.nobody(now + GRACE / 2));
        let at = presence.look_at().expect("it is looked again");
        assert!(presence.nobody(at));
        assert!(!presence.nobody(at + GRACE), "once");
    }

    #[test]
    fn an_opening_outlives_what_the_driver_says_of_the_host_before() {
        let now = Instant::now();
        let mut presence = Presence::There;
        // The new host's bytes come first, then that the old one left.
        presence.began();
        assert!(!presence.nobody(now) && !presence.nobody(now + 2 * GRACE));
        // The answer was taken as if for the old one.
        presence.heard();
        assert!(!presence.nobody(now));
        presence.heard();
        assert_eq!(presence.look_at(), None);
    }
}
