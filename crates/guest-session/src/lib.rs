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
//!
//! The guest is hostile: whatever it sends costs a bounded amount, and each
//! bound has its place.
//!
//! | What | At most | Where |
//! |---|---|---|
//! | streams; a frame; the data of one | 128; 128 KiB; 64 KiB | guest-proto's `MAX_STREAMS`, `MAX_FRAME`, `MAX_DATA` |
//! | data of a stream that nobody takes | 256 KiB in 1024 pieces; of a file or tree four times that | guest-proto's `WINDOW`, `MAX_WINDOW`, `MIN_DATA_COST`; `link::STREAM_EVENTS` |
//! | what such pieces keep alive with them | eight frames' buffers a stream; of a file or tree 32 | guest-proto's `frame::SHARE_FROM` |
//! | requests and data on their way out | 64, and the guest's credit | `task::COMMANDS` |
//! | one turn of a session's task | one read of 80 KiB, or 64 commands, or 8 writes | `task::SessionTask::serve` |
//! | silence | 10 s until it is told, 60 s until the end | `task::SILENT_AFTER`, `PING_DEADLINE` |
//! | a text of its own | 300 characters, none of them control characters | `convert::MAX_TEXT` |
//! | a listing | 100,000 entries, 32 MiB of names | [`MAX_LISTED`], `convert::files` |
//! | execs in a list; a reading's mounts, interfaces, addresses | 4096; 64, 64, 32 | `convert::exec`; [`MAX_MOUNTS`] and others below |
//! | readings of a watch | twice as often as asked for | [`TelemetryWatch::next`] |
//! | the holes of a file | the size that the guest told first | [`FileReader::next`] |
//! | what a guest says it has kept of an upload | the length to come | [`GuestSession::write_file`] |

mod convert;
mod error;
mod exec;
mod files;
mod link;
mod machine;
mod resume;
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
pub use resume::{GuestResume, ResumeReport, ResumeStep, ResumeStepKind, StepResult};
pub use session::{GuestSession, Held, HeldBack, Left, Resuming, TelemetryWatch};
pub use task::Health;
pub use types::{
    DirEntry, ExecEnd, ExecEvent, ExecSpec, ExecStatus, ExecSummary, FileAttributes, FileChange,
    FileChangeKind, FileChanges, FileInfo, FileKind, FileVersion, GuestAddressing, GuestHello,
    GuestMount, GuestNetwork, GuestNetwork6, GuestSetup, InputTaken, Output, Piece, ReadSpec,
    RestartPolicy, SetupReport, ShutdownKind, Supervision, TtySize, UploadId, WriteSpec, Written,
};
pub use watch::FileWatch;
