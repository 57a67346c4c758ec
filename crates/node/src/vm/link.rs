//! How it stands with a VM's guest agent, in one word and with the reason.
//!
//! ```text
//!   no machine, or paused, or nobody answered ── absent ◀──────────┐ a full VM, in its start's time
//!                                                       │
//!   launched ──▶ connecting ──hello──▶ ready ◀──▶ degraded
//!                                        ▲  └──session over──┐
//!                                        └──── found ──── lost
//! ```
//!
//! Nothing here is remembered: [`link`] is a function of what is observed, and
//! the task publishes what it says.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::Guest;
use inn_guest_proto::{VERSION, capability};
use inn_units::{Architecture, format_duration};
use tokio::time::Instant;

use crate::guest::GuestHello;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Absent,
    Connecting,
    Ready,
    /// It answers, but late, or can do less than this node asks for.
    Degraded,
    Lost,
}

/// Why a link is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkReason {
    NoMachine,
    Paused,
    Boots,
    NoAgent {
        within: Duration,
    },
    /// There is none for its CPUs.
    NoAgentFor(Architecture),
    Lost(Arc<str>),
    /// A ping is unanswered.
    Silent {
        since: Instant,
    },
    /// It answers, and its telemetry has stopped.
    NoTelemetry {
        since: Instant,
    },
    /// It does not know what came after it was made.
    Older {
        protocol: (u32, u32),
        lacks: Vec<&'static str>,
    },
}

/// What a link is made of.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    /// `None`: no machine runs.
    pub(super) guest: Option<Guest>,
    pub(super) paused: bool,
    pub(super) hello: Option<&'a GuestHello>,
    pub(super) silent_since: Option<Instant>,
    pub(super) no_telemetry_since: Option<Instant>,
    /// What ended the last session.
    pub(super) lost: Option<Arc<str>>,
    pub(super) start_deadline: Duration,
    /// What its CPUs are, where that is not the agent's own.
    pub(super) foreign_architecture: Option<Architecture>,
}

/// All that this node may ask of a guest beyond protocol 1.0.
const WANTED: [&str; 4] =
    [capability::TELEMETRY, capability::EXEC_2, capability::FILES_2, capability::MACHINE];

pub(super) fn link(facts: &Facts<'_>) -> (Link, Option<LinkReason>) {
    let Some(guest) = facts.guest else { return (Link::Absent, Some(LinkReason::NoMachine)) };
    if facts.paused {
        return (Link::Absent, Some(LinkReason::Paused));
    }
    match guest {
        Guest::Booting => (Link::Connecting, Some(LinkReason::Boots)),
        Guest::Absent => {
            let late = LinkReason::NoAgent { within: facts.start_deadline };
            let reason = facts.foreign_architecture.map_or(late, LinkReason::NoAgentFor);
            (Link::Absent, Some(reason))
        }
        Guest::Adopted | Guest::Lost => {
            let reason = facts.lost.clone().unwrap_or_else(|| "the node has restarted".into());
            (Link::Lost, Some(LinkReason::Lost(reason)))
        }
        Guest::Answered | Guest::Configured | Guest::Up => match shortcoming(facts) {
            Some(reason) => (Link::Degraded, Some(reason)),
            None => (Link::Ready, None),
        },
    }
}

/// The worst thing about a guest that is there.
fn shortcoming(facts: &Facts<'_>) -> Option<LinkReason> {
    if let Some(since) = facts.silent_since {
        return Some(LinkReason::Silent { since });
    }
    if let Some(since) = facts.no_telemetry_since {
        return Some(LinkReason::NoTelemetry { since });
    }
    let hello = facts.hello?;
    let lacks: Vec<&'static str> =
        WANTED.into_iter().filter(|capability| !hello.can(capability)).collect();
    let older = hello.protocol < (VERSION.major, VERSION.minor);
    (older || !lacks.is_empty()).then_some(LinkReason::Older { protocol: hello.protocol, lacks })
}

impl LinkReason {
    /// One sentence, as of `now`.
    pub(crate) fn sentence(&self, now: Instant) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
            match self {
                Self::NoMachine => f.write_str("no machine runs"),
                Self::Paused => f.write_str("it is paused"),
                Self::Boots => f.write_str("the guest boots"),
                Self::NoAgent { within } => write!(
                    f,
                    "no guest agent has answered within {}; the VM runs on without one",
                    format_duration(*within)
                ),
                Self::NoAgentFor(architecture) => write!(
                    f,
                    "its CPUs are {architecture}, for which this node has no guest agent; the VM \
                     runs without one"
                ),
                Self::Lost(why) => f.write_str(why),
                Self::Silent { since } => write!(f, "no answer for {} s", seconds(*since)),
                Self::NoTelemetry { since } => write!(f, "no telemetry for {} s", seconds(*since)),
                Self::Older { protocol: (major, minor), lacks } if lacks.is_empty() => {
                    write!(f, "the guest agent speaks {major}.{minor}, an older protocol")
                }
                Self::Older { protocol: (major, minor), lacks } => {
                    write!(f, "guest agent {major}.{minor} lacks {}", lacks.join(", "))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(protocol: (u32, u32), capabilities: &[&str]) -> GuestHello {
        GuestHello {
            protocol,
            version: "test".into(),
            boot_id: "b".into(),
            kernel: "k".into(),
            capabilities: capabilities.iter().map(|&name| name.to_owned()).collect(),
            is_init: false,
            configured: false,
            uptime: Duration::ZERO,
            os: None,
            frozen: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_reason() {
        let current = hello((VERSION.major, VERSION.minor), &WANTED);
        let old = hello((1, 0), &[]);
        let poor = hello((VERSION.major, VERSION.minor), &WANTED[..2]);
        let since = Instant::now();
        let start_deadline = Duration::from_secs(60);
        let base = || Facts { guest: Some(Guest::Up), start_deadline, ..Facts::default() };
        let lost = |why: &str| Facts { guest: Some(Guest::Lost), lost: Some(why.into()), ..base() };
        let now = since + Duration::from_secs(12);
        for (facts, wanted, words) in [
            (Facts { guest: None, ..base() }, Link::Absent, "no machine"),
            (Facts { guest: Some(Guest::Booting), ..base() }, Link::Connecting, "boots"),
            (Facts { paused: true, ..base() }, Link::Absent, "it is paused"),
            (Facts { guest: Some(Guest::Absent), ..base() }, Link::Absent, "within 1 min"),
            (
                Facts {
                    guest: Some(Guest::Absent),
                    foreign_architecture: Some(Architecture::Aarch64),
                    ..base()
                },
                Link::Absent,
                "its CPUs are aarch64",
            ),
            (lost("it went away"), Link::Lost, "it went away"),
            (Facts { guest: Some(Guest::Adopted), ..base() }, Link::Lost, "restarted"),
            (Facts { hello: Some(&current), ..base() }, Link::Ready, ""),
            (Facts { hello: Some(&old), ..base() }, Link::Degraded, "1.0 lacks telemetry, exec-2"),
            (Facts { hello: Some(&poor), ..base() }, Link::Degraded, "lacks files-2, machine"),
            (
                Facts { hello: Some(&old), silent_since: Some(since), ..base() },
                Link::Degraded,
                "no answer for 12 s",
            ),
            (
                Facts { hello: Some(&current), no_telemetry_since: Some(since), ..base() },
                Link::Degraded,
                "no telemetry for 12 s",
            ),
        ] {
            let (state, reason) = link(&facts);
            let sentence = reason.map(|r| r.sentence(now).to_string()).unwrap_or_default();
            assert_eq!(state, wanted, "{facts:?}");
            assert!(sentence.contains(words), "{facts:?}: {sentence}");
            assert_eq!(sentence.is_empty(), state == Link::Ready, "{sentence}");
        }
    }
}
