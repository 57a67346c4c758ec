//! The node agent: looks after the VMs of one host.
//!
//! ```text
//!   http ──▶ vm (a task for each) ──▶ runtime ──▶ machines
//!     │        │        └──▶ guest ──▶ the agent in each of them
//!     │        ├──▶ images, boot      what they boot from
//!     │        └──▶ inn-store         what is desired, what was seen
//!     └──▶ operations                 imports
//!   events: whatever happens is told there, kept, and shown to who asks
//!   reconcile: adopts and reaps, before anything is served
//! ```
//!
//! Every change goes the same way: desired state is stored, the VM's task is
//! poked, it reads, plans (`inn_domain::plan`, pure) and acts. A crash of the
//! agent is no special case: its next life reads the same state.

mod access;
mod boot;
mod commit;
pub mod config;
mod disk_images;
mod drain;
mod error;
mod events;
mod gauge;
mod go_down;
mod guest_disk;
mod hold;
mod http;
mod image_cache;
mod images;
mod logging;
pub mod metering;
mod metrics;
mod network;
mod node;
mod node_key;
mod operations;
pub mod paths;
mod pull;
mod reconcile;
mod reload;
mod runtime;
mod sight;
mod signals;
mod snapshots;
mod templates;
mod traces;
mod turns;
mod upgrade;
mod vm;
mod vmm_users;
mod watchdog;

#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError, ConfigSource};
pub use error::AgentError;
pub use http::openapi;
/// Sessions with the agents inside the VMs.
pub use inn_guest_session as guest;
/// The newest schema of the state that this version knows.
pub use inn_store::LATEST as STATE_SCHEMA;
/// What machines' keepers are, started from this program.
pub use inn_vmm_firecracker::if_asked as keeper_if_asked;
pub use logging::{LogGuard, init_logging};
pub use node::{Parts, run, run_blocking};
pub use sight::examine_alone;
pub use upgrade::Successor;
