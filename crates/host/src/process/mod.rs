//! Processes: short programs that are run to their end, and long-lived ones
//! that outlive the agent and are found again.
//!
//! ```text
//!   run, run_blocking      a program, to its end, under a deadline
//!   run_attached           one that a person watches
//!   ask                    one that is named by configuration, told something
//!   spawn_detached         fire and forget: a process of its own session
//!   Spawner::spawn         a long-lived process, reaped when it ends ──▶ Process
//!   ChildSpec, fork        what a keeper's process keeps, in namespaces of its own
//!   cpu_time               what a process has used, as `proportional_memory`
//!   Process::open          the same process in a later life of the agent ──▶ Process
//! ```
//!
//! Invariants: a pid alone is never trusted (see [`ProcessIdentity`]); signals
//! go through pidfds, so none ever hits a process that took over a pid; a
//! long-lived process inherits no descriptor that its [`SpawnSpec`] does not
//! name, and none gets the agent's environment unless asked.

mod ask;
mod attached;
mod confined;
mod identity;
mod inherited;
mod jail;
mod nest;
mod program;
mod readable;
mod run;
mod spawn;
mod spawner;
pub mod successor;
mod usage;

#[cfg(test)]
mod tests;

pub use ask::{Answer, ask};
pub use attached::{Attached, run_attached, run_watched};
pub use confined::{Confined, User};
pub use identity::{Exit, OpenError, Process, ProcessIdentity, host_boot_id};
pub use inherited::inherited;
pub use jail::{Jail, JailError};
pub use nest::{ChildSpec, become_user, fork, unshare_mounts, unshare_pids};
pub use program::{MissingProgram, Program, find_program};
pub use run::{Output, RunError, run, run_blocking};
pub use rustix::process::Signal;
pub use spawn::{SpawnSpec, spawn_detached};
pub use spawner::Spawner;
pub use usage::{cpu_time, proportional_memory};
