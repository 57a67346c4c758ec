//! Machines whose VMM has a parent of ours, its *keeper*.
//!
//! ```text
//!   launch ──▶ keeper       (a session of its own, in the run directory)
//!                 ▲ control.sock   what has become of the machine; "quit"
//!   adopt ────────┤ console.sock   its serial console, live
//!                 └─forks─▶ the VMM
//! ```
//!
//! For VMMs that can tell nobody how they ended once their agent has: the keeper
//! is the machine's process as far as anybody else is concerned, holds its
//! console, and outlives the VMM until somebody has asked how that ended.
//! [`Keeper`] is its side, and a program of its own or of the agent's; the rest
//! is the agent's.
//!
//! Invariants: what a keeper says is believed of its own machine alone, since its
//! guest may have taken the VMM over; a machine's processes have its run
//! directory as their working directory, by which they are found when nobody has
//! recorded them.

mod control;
mod end;
mod files;
mod keeper;
mod launch;
mod machine;
mod protocol;
mod reap;
mod watch;

use std::path::Path;

pub use control::Control;
pub use files::KeptFiles;
pub use keeper::{Keeper, never_blocks};
pub use launch::{KeptLaunch, Outlets};
pub use machine::KeptVmm;
pub use protocol::{NOT_STARTED, QUIT, REFUSED, Report, Said, VmmEnd};
pub use watch::KeptMachine;

/// What the keepers of one runtime are.
#[derive(Debug)]
pub struct Kind {
    /// As in [`crate::Capabilities`].
    pub runtime: &'static str,
    /// What people know the keeper's program by.
    pub keeper: &'static str,
    /// What they know the VMM by.
    pub vmm: &'static str,
    /// Whether a process is a machine's, by its command line (proc(5): arguments
    /// ended by zeros). Its working directory says whose.
    pub is_ours: fn(&[u8]) -> bool,
    /// What there is in the run directory beside the keeper's own sockets.
    pub sockets: &'static [&'static str],
    /// Of its logs in the run directory, those that its VMM opens, with the pipe
    /// that each is filled by.
    pub fifos: &'static [(&'static str, &'static str)],
    /// Removes what is not a file of the run directory, once the VMM has ended.
    pub clean: fn(&Path),
}

#[cfg(test)]
const KRUN_LIKE: Kind = Kind {
    runtime: "krun",
    keeper: "inn-krun",
    vmm: "libkrun",
    is_ours: |line| line.starts_with(b"inn-krun\0machine\0"),
    sockets: &["vsock.sock"],
    fifos: &[],
    clean: |_| {},
};
