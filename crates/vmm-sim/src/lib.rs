//! Machines that are only simulated: the big fake behind the agent's tests
//! and benchmarks.
//!
//! ```text
//!   SimRuntime ──launch──▶ SimMachine ──connect_channel──▶ socket pair ──▶ session
//!       │                      │                                            (a simulated guest,
//!       └── machines by VM ────┴── run_dir/sim.state, which the next         by the real protocol)
//!                                  life of the agent adopts
//! ```
//!
//! A machine is some hundred bytes and no process; a session is a task while a
//! channel is connected. The guest speaks the real guest protocol and runs a
//! handful of programs (see `program.rs`); it has no files and no network.
//! How a machine misbehaves stands in its [`Behaviour`].

mod behaviour;
mod forwards;
mod guest;
mod machine;
mod program;
mod runtime;
mod session;
mod state;

#[cfg(test)]
mod tests;

pub use behaviour::Behaviour;
pub use machine::SimMachine;
pub use runtime::SimRuntime;
