//! What VMs have used: counted, written down so that no change of it passes
//! unseen, and added up.
//!
//! ```text
//!   Input (begins, moves, counts, ends …) ──▶ Meter ──Entry──▶ Block ──▶ a line of the ledger
//!                                               │                          │
//!                             Checkpoint ◀──────┘         Audit ◀──────────┼──────▶ Totals
//! ```
//!
//! Pure: whoever calls brings the time, the files and the key. The same inputs
//! give the same blocks, so a meter whose process dies is its last checkpoint
//! and the inputs since.
//!
//! Time is counted by the host's steady clock, so that a clock that is set
//! changes nothing of what was used; the other one says which hour it was in.

mod account;
mod audit;
mod block;
mod entry;
mod input;
mod meter;
#[cfg(test)]
mod random_tests;
mod totals;

pub use account::Account;
pub use audit::{Audit, Finding, Report, Standing};
pub use block::{Block, BlockError, Head, Signer};
pub use entry::{Entry, Span};
pub use input::{Counters, Input, Life, Moment, State, What};
pub use meter::Meter;
pub use totals::{By, Row, Totals, Used};
