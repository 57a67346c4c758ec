//! The host's side of the guest channel.
//!
//! ```text
//!   UnixStream ──establish──▶ GuestSession ──(bounded mpsc)──▶ SessionTask ──▶ guest-proto's Host
//!      resync, hello            cheap clone                     owns the stream
//!
//!   connecting ──hello──▶ open ──▶ closed(reason): EOF, protocol error, ping unanswered,
//!                        good ⇄ silent              close(), or the last handle dropped
//! ```
//!
//! A session never reconnects by itself: its owner opens the channel again and
//! establishes a new one, re-attaching to retained execs from the offsets it
//! has seen.

mod convert;
mod error;
mod exec;
mod files;
mod link;
mod machine;
mod session;
mod sum;
mod task;
mod types;
mod watch;

/// The most that is taken of one reading.
pub const MAX_MOUNTS: usize = 64;
pub const MAX_INTERFACES: usize = 64;
pub const MAX_ADDRESSES: usize = 32;

pub use convert::MAX_LISTED;
pub use error::{GuestError, RefusedKind};
pub use exec::{Exec, ExecControl, ExecInput};
pub use files::{FileReader, FileWriter};
pub use machine::{
    DiskGrown, DiskMount, Frozen, Interface, InterfaceName, InterfaceSetup, MountUse,
    NetworkApplied, NetworkSetup, Password, Pressure, Route, Telemetry, Traffic,
};
pub use session::{GuestSession, TelemetryWatch};
pub use task::Health;
pub use types::{
    DirEntry, ExecEnd, ExecEvent, ExecSpec, ExecStatus, ExecSummary, FileAttributes, FileChange,
    FileChangeKind, FileChanges, FileInfo, FileKind, FileVersion, GuestHello, GuestMount,
    GuestNetwork, GuestSetup, Output, Piece, ReadSpec, RestartPolicy, SetupReport, ShutdownKind,
    Supervision, TtySize, UploadId, WriteSpec, Written,
};
pub use watch::FileWatch;
