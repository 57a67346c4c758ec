//! What the end-to-end tests stand on: a host of their own, with its own data
//! directory, agent and environment, driven through the built `inn` alone.
//!
//! The tests are black boxes: nothing here links a crate of the agent's but
//! `inn-fail-point`, which only names the instants of the kill matrix. A failed
//! expectation panics with the command, what it printed and the agent's last
//! log lines.

#![allow(clippy::unwrap_used, reason = "a test's harness: a panic is a failed test")]

pub mod api;
pub mod docker;
pub mod firewalld;
pub mod fixtures;
pub mod host;
pub mod hostile;
pub mod kernels;
pub mod leftovers;
pub mod libvirtd;
pub mod netns;
pub mod process;
pub mod registry;
pub mod tree;
pub mod wait;

pub use fixtures::Fixtures;
pub use host::Host;
pub use process::{Inn, Output, Running};
