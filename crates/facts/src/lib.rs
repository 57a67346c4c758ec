//! What the host is: read from what its kernel shows in files, as whoever asks.
//!
//! ```text
//!   Root: /, or a tree that was recorded ──▶ linux::collect ──▶ HostFacts
//!                                            (one file a matter; text in, facts out)
//! ```
//!
//! Facts come in the API's own types (docs/adr/0053). What cannot be seen is
//! told in `not_seen` and never guessed; nothing here needs root, starts a
//! program or waits for the network. All that knows Linux is in `linux`:
//! another system is another module beside it.

pub mod doctor;
#[cfg(target_os = "linux")]
mod linux;
mod pci_ids;
mod root;

use inn_api::HostFacts;

#[cfg(target_os = "linux")]
pub use linux::now::{CpuTicks, ProcessUse, file_systems, host_now, process_use};
pub use root::Root;

/// All of the host's facts. Blocks, for some ten milliseconds.
#[cfg(target_os = "linux")]
pub fn collect(root: &Root) -> HostFacts {
    linux::collect(root)
}

/// Nothing is known of hosts that are no Linux yet.
#[cfg(not(target_os = "linux"))]
pub fn collect(_root: &Root) -> HostFacts {
    let why = format!("facts are read on Linux, and this is {}", std::env::consts::OS);
    let not_seen = vec![inn_api::NotSeen { what: "the host".to_owned(), why }];
    HostFacts { not_seen, ..HostFacts::default() }
}
