//! The guest channel end to end: the node's sessions against the real
//! inn-guest, running as an ordinary process behind a socket.

mod execs;
mod files;
mod guest;
mod resync;
