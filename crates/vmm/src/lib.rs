//! What a runtime is.
//!
//! A runtime turns a [`MachineConfig`] into a running virtual machine, and
//! finds that machine again after the agent has died. It knows nothing of
//! images, networks or guests: it is given files, and gives back a socket to
//! the guest's channel.
//!
//! ```text
//!   MachineConfig ──launch──▶ Machine ──connect_channel──▶ byte stream to the guest agent
//!                               │  ▲
//!                     identity()│  │adopt(identity)      (another life of the agent)
//!                               ▼  │
//!                        MachineIdentity (stored)
//! ```
//!
//! Invariants: `launch` returns once the VMM process runs and its control
//! socket answers (the guest may still boot); a machine dies with the agent
//! only where [`Lifetime::Leased`] asks for it; whatever `launch` made and
//! cannot hand over is gone again when it returns an error; no method answers
//! "unsupported": what a runtime can't do stands in its [`Capabilities`].
//!
//! What runtimes have in common is here too: the refusal of what one can't do,
//! logs, the shared root directory, a guest's [`memory`], and machines with a
//! [`kept`] VMM.

mod card;
mod config;
mod confine;
#[cfg(feature = "conformance")]
pub mod conformance;
mod cpu;
mod fingerprint;
mod forward;
pub mod kept;
mod launch;
mod limits;
mod log;
mod logs;
mod machine;
pub mod memory;
mod saved;
mod stray;

pub use card::{Bucket, CardLimits, Flow};
pub use config::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot, Lifetime,
    MachineConfig, Nic, NicBackend, Tap, VmmUser,
};
pub use confine::CurrentJail;
pub use cpu::host_cpu_features;
pub use fingerprint::{Card, Fingerprint, Misfit};
pub use forward::{Forward, ForwardPlan, ForwardTransport, Forwarded};
pub use launch::{Stopwatch, chain, io_error};
pub use log::{bound_log, open_log, read_tail, remove_log};
pub use logs::{LAST_WORDS, StartingWriter, complete_logs, find_log_writer, last_lines};
pub use machine::{
    AdoptError, Capabilities, Launch, LaunchError, Machine, MachineEnd, MachineIdentity, Runtime,
};
pub use saved::{Saved, SavedAhead};
pub use stray::Stray;
