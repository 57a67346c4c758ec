//! The host's side of things: the processes we start or find again, the locks
//! that keep two agents apart, and sockets by name.
//!
//! This is the one crate that spawns processes. Programs are called by argv,
//! never through a shell, and every one of them stands in
//! [`process::Program`]'s table with what installs it.

pub mod cgroup;
pub mod clock;
pub mod init_system;
mod lock;
pub mod log_times;
pub mod log_writer;
pub mod memory;
pub mod netns;
pub mod packet;
pub mod process;
pub mod socket;
pub mod tap;
pub mod tsc;

pub use lock::{LockError, LockFile};
