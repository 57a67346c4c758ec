//! The rates of a VM's policy, where its VMM can keep them itself: what is
//! above waits in the guest's card then, and isn't dropped on its way.
//!
//! ```text
//!   launch ──▶ has them from its first packet
//!   adopted ───────────────┐
//!   its policy changes ────┼─▶ told ──▶ has them
//!   was not told, by 15 s ─┘
//! ```
//!
//! The host's tables hold for every VMM, one that doesn't behave too. So what
//! a VM sends is let out by its VMM in lesser bursts than they take, and they
//! drop nothing of it. What it gets they come first to: its VMM's limits are
//! wider there, and hold should somebody have taken the tables away.

use std::time::Duration;

use inn_domain::network::Policy;
use inn_net::table::{burst_of_bytes, burst_of_packets};
use inn_vmm::{Bucket, Capabilities, CardLimits, Flow, Machine, Runtime};
use tokio::time::{Instant, timeout};

use super::task::VmTask;

/// For an answer from a VMM that is well.
const ANSWER: Duration = Duration::from_secs(2);

/// Until one that gave none is told again.
const AGAIN: Duration = Duration::from_secs(15);

/// What a machine's VMM holds its card to.
#[derive(Debug, Default)]
pub(super) struct Card {
    /// Where that is known.
    held_to: Option<CardLimits>,
    again: Option<Instant>,
}

impl Card {
    pub(super) fn held_to(limits: CardLimits) -> Self {
        Self { held_to: Some(limits), again: None }
    }
}

impl VmTask {
    /// What a machine of such a runtime is launched with.
    pub(super) fn card_limits(&self, can: &Capabilities) -> CardLimits {
        match can.card_limits {
            true => self.wanted_of_card().unwrap_or_default(),
            false => CardLimits::default(),
        }
    }

    /// `None` where it has no tap, or leads nowhere yet.
    fn wanted_of_card(&self) -> Option<CardLimits> {
        let on_ours = !self.is_draft && self.node.networks.of(&self.shared.spec.network).is_some();
        on_ours.then(|| limits(&self.shared.view.borrow().policy))
    }

    /// Tells the VMM, where there is something to tell.
    pub(super) async fn hold_card(&mut self) {
        let (Some(machine), Some(wanted)) = (self.machine.clone(), self.wanted_of_card()) else {
            self.card.again = None;
            return;
        };
        if self.card.held_to == Some(wanted) {
            self.card.again = None;
            return;
        }
        if self.card.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        let runtime = self.node.runtimes.named(&machine.identity().runtime).await;
        let can = matches!(&runtime, Ok(Some(runtime)) if runtime.capabilities().card_limits);
        let told = match can {
            true => timeout(ANSWER, machine.limit_card(&wanted)).await,
            // The host's tables are all that there is.
            false => Ok(Ok(())),
        };
        let why = match told {
            Ok(Ok(())) => {
                self.card = Card::held_to(wanted);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
        };
        // One that has ended is told of by its end.
        tracing::warn!(vm = %self.shared.spec.name, why, "its VMM does not keep its rates yet");
        self.card = Card { held_to: None, again: Some(Instant::now() + AGAIN) };
    }

    /// When it is to be told again.
    pub(super) fn tells_card(&self) -> Option<Instant> {
        self.card.again
    }
}

fn limits(policy: &Policy) -> CardLimits {
    let Policy::Rules { rates, .. } = policy else { return CardLimits::default() };
    // A burst that the tables take whole, whatever their clock has seen less.
    let out = |rate, burst: u32| Bucket { per_second: rate, burst: u64::from(burst) / 4 * 3 };
    // Frames are longer than the packets that the tables count.
    let into = |rate: u64, burst: u32| Bucket {
        per_second: rate.saturating_add(rate / 8).saturating_add(1),
        burst: burst.into(),
    };
    CardLimits {
        from_guest: Flow {
            bytes: rates.egress_bytes.map(|rate| out(rate, burst_of_bytes(rate))),
            packets: rates.egress_packets.map(|rate| out(rate, burst_of_packets(rate))),
        },
        to_guest: Flow {
            bytes: rates.ingress_bytes.map(|rate| into(rate, burst_of_bytes(rate))),
            packets: rates.ingress_packets.map(|rate| into(rate, burst_of_packets(rate))),
        },
    }
}

#[cfg(test)]
mod tests {
    use inn_domain::network::RateLimits;

    use super::*;

    #[test]
    fn a_vmm_lets_out_what_the_tables_take() {
        // A packet that segmentation offload has made, with its headers.
        const LARGEST: u64 = 66 << 10;
        for rate in [1, 1000, 1 << 20, 125_000_000, u64::MAX] {
            let rates = RateLimits {
                egress_bytes: Some(rate),
                ingress_bytes: Some(rate),
                egress_packets: Some(rate),
                ingress_packets: Some(rate),
            };
            let CardLimits { from_guest, to_guest } =
                limits(&Policy::Rules { rules: Vec::new(), rates });
            let bytes = from_guest.bytes.unwrap();
            assert_eq!(bytes.per_second, rate);
            assert!((LARGEST..u64::from(burst_of_bytes(rate))).contains(&bytes.burst), "{bytes:?}");
            let packets = from_guest.packets.unwrap();
            assert!((1..u64::from(burst_of_packets(rate))).contains(&packets.burst), "{packets:?}");
            for (bucket, burst) in [
                (to_guest.bytes.unwrap(), burst_of_bytes(rate)),
                (to_guest.packets.unwrap(), burst_of_packets(rate)),
            ] {
                assert!(bucket.per_second > rate || rate == u64::MAX, "{bucket:?}");
                assert!(bucket.burst >= burst.into(), "{bucket:?}");
            }
        }
        for policy in [Policy::None, Policy::AllowAll] {
            assert!(limits(&policy).is_none());
        }
    }
}
