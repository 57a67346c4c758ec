//! Between agent and helper. Both are installed together: another version of
//! the one is refused by the other, and machines of an earlier life only need
//! [`inn_vmm::kept::Report`].

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// How the helper's program is called.
pub const PROGRAM: &str = "inn-krun";

/// The first argument of a helper that is to run a machine; then comes the
/// machine's name, for people who look at a host's processes, and the number of
/// the descriptor that has its [`Orders`].
pub const COMMAND: &str = "machine";

/// Of [`Orders`]. Raised with every change of them.
pub const VERSION: u32 = 1;

/// In the run directory, which is both processes' working directory.
pub const VSOCK: &str = "vsock.sock";

/// The guest agent's port.
pub const PORT: u32 = 5161;

/// All that a machine is, in a file that the helper inherits. Paths may lead
/// through `/proc/self/fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orders {
    pub version: u32,
    /// The VM's id.
    pub vm: String,
    pub vcpus: u8,
    pub memory_mib: u32,
    /// An uncompressed ELF image.
    pub kernel: String,
    pub initramfs: Option<String>,
    pub cmdline: String,
    /// In the order in which the guest sees them.
    pub disks: Vec<DiskOrder>,
    pub card: Option<CardOrder>,
    /// Whom it runs as once it has opened its disks.
    pub user: Option<UserOrder>,
    pub descriptors: Descriptors,
}

/// Those that the helper inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptors {
    /// The run directory.
    pub run_dir: RawFd,
    /// Sockets that listen already.
    pub control: RawFd,
    pub console: RawFd,
    /// The pipe of the console's log.
    pub console_log: RawFd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskOrder {
    pub path: String,
    pub read_only: bool,
    pub serial: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CardOrder {
    pub mac: [u8; 6],
    /// A tap whose frames have a virtio-net header of 10 bytes. Without one
    /// nothing is behind the card.
    pub tap: Option<RawFd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserOrder {
    /// Its gid too.
    pub uid: u32,
    pub groups: Vec<u32>,
}
