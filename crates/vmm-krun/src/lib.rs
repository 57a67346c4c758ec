//! libkrun as a runtime: a VMM of our own, by a helper, since the call that
//! starts a machine never returns.
//!
//! ```text
//!   KrunRuntime ──launch──▶ inn-krun, the keeper    (a session of its own)
//!        │                     ▲ control.sock   what has become of the machine; "quit"
//!        └──adopt──────────────┤ console.sock   its serial console, live
//!                              └─forks─▶ inn-krun, the VMM
//!                                           ▲ vsock.sock   port 5161 of its guest; made by
//!                                                          libkrun once the guest has a driver
//! ```
//!
//! The keeper is the machine's process as far as anybody else is concerned: it
//! holds the tap and the console, and outlives the VMM until somebody has asked
//! how that ended (see [`inn_vmm::kept`]). [`protocol`] is what agent and helper say to each other.
//!
//! Invariants: the helper gets all it is told by descriptor, and all of the
//! host's files too where its machine has a user of its own; what it says is
//! believed of its own machine alone, since its guest may have taken it over;
//! both processes have the run directory as their working directory, by which
//! they are found when nobody has recorded them.

mod discover;
mod kernel_args;
mod kind;
mod launch;
mod machine;
mod orders;
pub mod protocol;

pub use discover::KrunRuntime;
pub use kernel_args::KERNEL_ARGS;
pub use kind::{end_stray, strays};
pub use machine::KrunMachine;
