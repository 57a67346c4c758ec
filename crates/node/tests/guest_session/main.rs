//! The guest channel end to end: the node's sessions against the real
//! inn-guest, running as an ordinary process behind a socket.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod execs;
mod files;
mod guest;
mod resync;
