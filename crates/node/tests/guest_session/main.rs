//! The guest channel end to end: the node's sessions against the real
//! inn-guest, running as an ordinary process behind a socket; and, where a
//! guest is to be old, wrong or hostile, against one that follows a script.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod bare;
mod changes;
mod execs;
mod files;
mod guest;
mod old_guest;
mod resync;
mod runs;
mod scripted;
mod simulated;
mod small_disk;
mod sparse;
mod told;
mod transfers;
