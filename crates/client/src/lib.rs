//! A typed client of the agent's REST API: one method for each route.
//!
//! ```no_run
//! # async fn example() -> Result<(), inn_client::ClientError> {
//! let client = inn_client::Client::unix("/run/innkeeper/api.sock");
//! for vm in client.vms().await?.items {
//!     println!("{} {}", vm.id, vm.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every request opens a connection of its own: on a unix socket that costs
//! some 30 µs, and it leaves nothing to keep alive, to pool or to go stale
//! when the agent is replaced. Making a [`Client`] does no I/O at all, since
//! short-lived programs make one each.
//!
//! Every wait has a deadline but those that last as long as a process in the
//! guest does: output streams, followed logs, watches, uploads, leases and
//! consoles.

mod channel;
mod error;
mod events;
mod execs;
mod files;
mod guest;
mod images;
mod lasting;
mod networks;
mod node;
mod node_life;
mod query;
#[cfg(unix)]
mod snapshots;
pub mod socket;
mod sse;
mod tls;
mod tokens;
mod transport;
mod vms;

#[cfg(test)]
mod tests;

pub use channel::{
    ConsoleReceiver, ConsoleSender, ExecEvent, ExecReceiver, ExecRequest, ExecSender, Lease,
};
pub use error::ClientError;
pub use events::{EventsQuery, NodeEvent, NodeEvents};
pub use execs::StatsQuery;
pub use files::{FileDownload, FileEvent, FileEvents, FileRead, FileWrite};
pub use inn_api as api;
pub use lasting::{LastingEvent, LastingReceiver, LastingSender};
pub use tls::TlsFiles;
pub use transport::{ByteStream, Client};
pub use vms::{LogRequest, LogSource, VmRemoval};
