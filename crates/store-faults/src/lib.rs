//! For tests alone: a disk below SQLite that remembers every write, can fill
//! up, and can be cut off at any point.
//!
//! ```text
//!   SQLite ──▶ vfs (a shim before SQLite's own "unix") ──▶ the real files
//!                 └──▶ Tap: Event, Event, Event …
//!                                    │
//!                 power_cuts ◀───────┘   for each prefix of the events, the
//!                     └──▶ files         files that may be found afterwards
//! ```
//!
//! What a disk owes after a power loss, and so what the model holds: all that
//! was written to a file before its last completed sync; of what came later
//! any part, in any order, and of each write any of its 512-byte sectors; a
//! file's name only from a sync of its directory on. Nothing else is changed:
//! SQLite assumes as much (sqlite.org/atomiccommit.html, 2.0; "powersafe
//! overwrite" in sqlite.org/psow.html).
//!
//! The shim is this process's default VFS from the first [`Tap`] on, so what
//! is tested needs no seam for it.

mod events;
mod power;
mod vfs;

pub use events::{Event, FileId, Tap};
pub use power::{Found, PowerCut, power_cuts};
