//! The host's network: networks, addresses and port maps as resources of the
//! node.
//!
//! ```text
//!   http ──▶ requests ──(store, then state, then poke)──▶ NetworkTask ──plan──▶ kernel
//!   VmTask ─ attach, detach ──────────────────────────────┘   ▲
//!                                   monitors, every minute ───┘
//! ```
//!
//! Without bridges the task is another one, which tells VMMs of their ports.
//!
//! One task owns the host's network: it alone compares what is declared with
//! what the kernel has and applies the difference. Whoever has changed what is
//! declared pokes it, and waits until that is applied where it has to be.

mod declare;
mod error;
mod forwards;
mod host;
mod kernel;
mod leases;
mod mode;
mod requests;
mod severed;
mod standing;
mod state;
mod task;
mod zone;

pub(crate) use error::{NetworkError, PortsError};
pub(crate) use leases::{AddressChange, LeaseDeniedReason};
pub use mode::{ForeignChoice, ModeChoice};
pub(crate) use requests::{NewNetwork, NewPortMap, NewTarget, vms_on};
pub(crate) use standing::Standing;
pub(crate) use state::Networks;
pub(crate) use task::{prepare, start};
