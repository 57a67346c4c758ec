//! libvirt as a runtime: each machine is a domain of a libvirtd's, which
//! starts its QEMU, confines it and sees it end.
//!
//! ```text
//!   LibvirtRuntime ─ Link ─ libvirt.so.0 ──socket──▶ libvirtd ──starts──▶ QEMU
//!        │            ▲ events, by a thread of its own                      ▲
//!        │            └ calls, each with a deadline                         │
//!        └──▶ LibvirtMachine ── agent.sock, console.sock, its pidfd ────────┘
//! ```
//!
//! The library is opened at run time: neither building nor starting the agent
//! needs it. A definition carries whose it is (`definition`), by which a
//! domain is found again, and told from those of others, which nobody here
//! touches.
//!
//! Invariants: a machine lives as long as its QEMU, which its pidfd tells, so a
//! libvirtd that restarts or hangs ends no machine and hides no end; nothing of
//! a machine's is asked of libvirt without a deadline; a domain of our name that
//! is not ours is left alone, whatever is asked for.

mod addresses;
mod definition;
mod discover;
mod end;
mod files;
mod launch;
#[allow(unsafe_code)]
mod library;
mod link;
mod machine;
mod monitor;
mod reap;

pub use addresses::{KnownBy, within};
pub use discover::{LibvirtRuntime, Settings};
pub use machine::LibvirtMachine;
