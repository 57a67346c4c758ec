use inn_units::VmId;
use serde::{Deserialize, Serialize};

use crate::account::Account;

/// One instant by both of a host's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, u64)", into = "(i64, u64)")]
pub struct Moment {
    /// Milliseconds since 1970, UTC.
    pub wall: i64,
    /// Microseconds since the host's boot by a clock that nobody sets and that
    /// stands still while the host sleeps (`CLOCK_MONOTONIC`).
    pub steady: u64,
}

/// One machine's process among all that a host's boot has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u64)", into = "(u32, u64)")]
pub struct Life {
    pub pid: u32,
    /// proc(5), `starttime`.
    pub started: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No machine: its disk alone is there.
    Stopped,
    Running,
    /// Its memory is held, its CPUs are not.
    Paused,
}

/// What one machine has used since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct Counters {
    /// Microseconds.
    pub cpu: u64,
    /// Bytes that its guest has sent.
    pub sent: u64,
    /// Bytes that were sent to it.
    pub received: u64,
}

/// What is seen of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub at: Moment,
    pub vm: VmId,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is there from now on.
    Begins(Account),
    /// Its account is another one.
    Changes(Account),
    Moves {
        state: State,
        life: Option<Life>,
    },
    /// What a machine had used before it was this VM's.
    Had {
        life: Life,
        counters: Counters,
    },
    Counts {
        life: Life,
        counters: Counters,
    },
    /// Bytes of the host's memory that are its own, with its share of those
    /// that it shares, and of the host's disk: both hold until the next time.
    Weighs {
        resident: u64,
        occupied: u64,
    },
    /// Its machine ended while nobody looked: it has run until it was last
    /// seen, which is all that can be shown.
    Lost,
    /// It is there no more.
    Ends,
}

impl From<(i64, u64)> for Moment {
    fn from((wall, steady): (i64, u64)) -> Self {
        Self { wall, steady }
    }
}

impl From<Moment> for (i64, u64) {
    fn from(at: Moment) -> Self {
        (at.wall, at.steady)
    }
}

impl From<(u32, u64)> for Life {
    fn from((pid, started): (u32, u64)) -> Self {
        Self { pid, started }
    }
}

impl From<Life> for (u32, u64) {
    fn from(life: Life) -> Self {
        (life.pid, life.started)
    }
}

impl From<(u64, u64, u64)> for Counters {
    fn from((cpu, sent, received): (u64, u64, u64)) -> Self {
        Self { cpu, sent, received }
    }
}

impl From<Counters> for (u64, u64, u64) {
    fn from(counters: Counters) -> Self {
        (counters.cpu, counters.sent, counters.received)
    }
}
