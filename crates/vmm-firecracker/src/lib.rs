//! Firecracker as a runtime.
//!
//! ```text
//!   FirecrackerRuntime ──launch──▶ the keeper, which is this program (inn_vmm::kept)
//!        │                            └─▶ jailer ──▶ firecracker        as root
//!        │                            └─▶ firecracker                   else
//!        │  configures, starts, pauses   ▲ api.sock     HTTP, one request at a time
//!        └───────────────────────────────┤ vsock.sock   "CONNECT 5161" leads to its guest
//!                                        └ vmm.fifo, metrics.fifo   its logs, kept bounded
//! ```
//!
//! Firecracker opens everything by its path, as the user that it is by then. So a
//! jailed one finds its files in a root directory of its own, in a mount
//! namespace that goes with it: nothing is mounted, linked or copied where anybody
//! else sees it, and nothing of that is left behind.
//!
//! Invariants: what is sent is what its OpenAPI file documents (`requests.rs`,
//! which is pure); a keeper's end is its VMM's, whatever user that has; a tap that
//! is lent to it by its name goes with it again as soon as it has attached.

mod api;
mod discover;
mod jail;
mod keeper;
mod kernel_args;
mod kind;
mod launch;
mod machine;
mod orders;
mod places;
mod requests;
mod saved;
mod tap;
mod version;

pub use discover::FirecrackerRuntime;
pub use keeper::if_asked;
pub use kernel_args::KERNEL_ARGS;
pub use kind::{end_stray, strays};
pub use machine::FirecrackerMachine;
