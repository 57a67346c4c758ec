use inn_units::VmId;
use serde::{Deserialize, Serialize};

use crate::input::Moment;

/// From one instant of one boot of the host to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[Moment; 2]", into = "[Moment; 2]")]
pub struct Span {
    pub from: Moment,
    pub to: Moment,
}

/// What a VM has used in one span, never longer than an hour of the clock
/// unless it could not be written down for longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub vm: VmId,
    /// By its number: a block says what that stands for before an entry has it.
    pub account: u32,
    pub span: Span,
    /// Microseconds that its machine ran. What it was allotted of CPUs is this
    /// times their number, of memory this and `paused` times its size.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub running: u64,
    /// Microseconds that its machine stood still, with its memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paused: u64,
    /// Microseconds of the host's CPUs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu: u64,
    /// Byte-seconds of the host's memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resident: u64,
    /// Byte-seconds of the host's disk.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub occupied: u64,
    /// Bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sent: u64,
    /// Bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub received: u64,
    /// It is the VM's first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// It is the VM's last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

impl Entry {
    /// Without a gap, by both clocks, and on the same account.
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        let goes_on = !self.last && !next.first && self.vm == next.vm;
        goes_on && self.account == next.account && self.span.to == next.span.from
    }

    /// Makes one of two that follow each other.
    pub(crate) fn append(&mut self, next: &Self) {
        let Self { vm: _, account: _, span, first: _, last, .. } = next;
        self.span.to = span.to;
        self.last = *last;
        for (sum, more) in [
            (&mut self.running, next.running),
            (&mut self.paused, next.paused),
            (&mut self.cpu, next.cpu),
            (&mut self.resident, next.resident),
            (&mut self.occupied, next.occupied),
            (&mut self.sent, next.sent),
            (&mut self.received, next.received),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Span {
    /// Microseconds.
    pub fn lasted(&self) -> u64 {
        self.to.steady.saturating_sub(self.from.steady)
    }
}

impl From<[Moment; 2]> for Span {
    fn from([from, to]: [Moment; 2]) -> Self {
        Self { from, to }
    }
}

impl From<Span> for [Moment; 2] {
    fn from(span: Span) -> Self {
        [span.from, span.to]
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
