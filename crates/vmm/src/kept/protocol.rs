//! Between an agent and the keepers of its machines. Machines of an earlier life
//! are asked by it too: it only grows.

use rustix::process::WaitStatus;
use serde::{Deserialize, Serialize};

/// What a keeper ends with when it could not do as it was told.
pub const REFUSED: i32 = 64;

/// What a VMM's process ends with that never became a VMM.
pub const NOT_STARTED: i32 = 65;

/// What a client of the control socket says to end the machine and its keeper.
pub const QUIT: &[u8] = b"quit\n";

/// No report is longer, with its newline.
pub(crate) const LONGEST_REPORT: usize = 256;

/// What every client of the control socket is told, as a line of JSON: once the
/// machine runs, and once it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub vm: String,
    /// `None` while the machine runs.
    pub end: Option<VmmEnd>,
    /// What the guest has said of its end by then, on its console.
    #[serde(default)]
    pub said: Option<Said>,
}

/// What a console's last words tell of a guest's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Said {
    Panic,
    PowerOff,
}

/// How the VMM's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VmmEnd {
    Exited(i32),
    Signaled(i32),
}

impl VmmEnd {
    pub fn of(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signaled(signal),
            (None, None) => Self::Exited(NOT_STARTED),
        }
    }
}
