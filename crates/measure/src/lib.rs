//! How fast a host's disk is, measured on a file without a name; and what its
//! CPU and memory do.
//!
//! ```text
//!   Wish ──plan (pure)──▶ Plan, or a refusal
//!     Plan ─▶ a file without a name, written through once ─▶ each pass ─▶ Figures
//!                                        io_uring, or threads and why ─┘
//! ```
//!
//! Bounded in time by each pass's, and in bytes by the plan's. The file has no
//! name (open(2), O_TMPFILE), so it is gone with the process however that ends.
//! All is read and written past the page cache (O_DIRECT). Blocks.

mod buffers;
mod histogram;
mod host;
mod plan;
mod run;
mod threads;
mod uring;

pub use histogram::Latency;
pub use host::{HostFigures, measure_host};
pub use plan::{Direction, Pass, Pattern, Plan, Refusal, Room, Wish, plan};
pub use run::{Engine, Figures, Ground, MeasureError, Report, run};
