//! The guest channel: what a node and the agent inside a VM say to each other,
//! as state machines of both ends without I/O and without a clock.
//!
//! ```text
//!   driver ──input()──▶ [bytes] ──next()──▶ events ──▶ driver
//!   driver ◀─output()── [bytes] ◀── open, send, end, consumed … ◀── driver
//! ```
//!
//! A byte stream without connections carries it all (a virtio-serial port), so
//! either end may vanish in the middle of a frame. [`Host`] opens every session
//! with zeros, a marker and a nonce; see [`sync`](crate::RESYNC_ZEROS). The peer
//! is never trusted: each limit below is checked before memory is spent, and a
//! peer that breaks one gets a [`ProtocolError`], never a panic.
//!
//! Layers: `frame` (lengths, seals, resynchronisation) under `mux` (streams,
//! credit, order of sending) under [`Host`] and [`Guest`].

mod block_sum;
mod error;
mod frame;
mod guest;
mod host;
mod mux;
mod version;
pub mod wire;

pub use block_sum::{BlockSum, is_zero};
pub use error::{ProtocolError, SendError};
pub use frame::{MARKER, NONCE_BYTES, Nonce, RESYNC_ZEROS, SEAL};
pub use guest::{Guest, GuestEvent};
pub use host::{Host, HostEvent};
pub use mux::data_cost;
pub use version::{VERSION, Version, agree};

/// The name of the virtio-serial port.
pub const PORT_NAME: &str = "innkeeper.agent.0";

/// The vsock port that a guest agent listens on.
pub const VSOCK_PORT: u32 = 5161;

/// Names in a hello of what came after 1.0: see VERSIONING.md.
pub mod capability {
    pub const TELEMETRY: &str = "telemetry";
    pub const EXEC_2: &str = "exec-2";
    pub const FILES_2: &str = "files-2";
    pub const MACHINE: &str = "machine";
    pub const EXEC_3: &str = "exec-3";
    pub const RESUME: &str = "resume";
    /// As a service too: its system's network becomes another's.
    pub const RESUME_2: &str = "resume-2";
}

/// The largest payload of a frame, seal included. It bounds the zeros that
/// every opening sends, and what an exec's arguments and environment may take.
pub const MAX_FRAME: usize = 128 * 1024;

/// The most bytes that one `Data` carries.
pub const MAX_DATA: usize = 64 * 1024;

/// Credit per stream and direction at its opening: enough to keep a channel of
/// 250 MB/s busy over a round trip of 1 ms.
pub const WINDOW: u32 = 256 * 1024;

/// The most credit that an end accepts to hold; bounds what it queues. Who
/// receives files and trees gives as much at once: an emulated guest takes
/// longer than a round trip of 1 ms.
pub const MAX_WINDOW: u32 = 1024 * 1024;

/// What the smallest `Data` costs of the credit, so that a window is at most
/// `WINDOW / MIN_DATA_COST` messages and a receiver can bound their number.
pub const MIN_DATA_COST: u32 = 256;

/// Streams open at once: requests that a node has in flight to one VM.
pub const MAX_STREAMS: usize = 128;

/// Queued `Control` messages (signals and resizes) that the host refuses to
/// exceed: a person types some per second.
pub const MAX_QUEUED_CONTROLS: usize = 256;

/// How much an end reads at once: a full `Data` in its frame fits.
pub const READ_SIZE: usize = 80 * 1024;
