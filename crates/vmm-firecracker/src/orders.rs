//! What a keeper is told: by the same program, a moment before it does it.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The VM's id.
    pub(crate) vm: String,
    pub(crate) firecracker: PathBuf,
    /// After its `--id`.
    pub(crate) args: Vec<OsString>,
    pub(crate) jail: Option<JailOrder>,
    pub(crate) descriptors: Descriptors,
}

/// Those that the keeper inherits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Descriptors {
    /// The run directory.
    pub(crate) run_dir: RawFd,
    /// Sockets that listen already.
    pub(crate) control: RawFd,
    pub(crate) console: RawFd,
    /// The pipe of the console's log.
    pub(crate) console_log: RawFd,
    /// The network namespace of its tap.
    pub(crate) netns: Option<RawFd>,
    /// The memory that a jailed one goes on from.
    pub(crate) memory: Option<RawFd>,
}

/// What the root directory of a jailed one is made of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JailOrder {
    pub(crate) jailer: PathBuf,
    /// Its gid too.
    pub(crate) uid: u32,
    pub(crate) files: Vec<JailFile>,
    /// For what is written there of its memory when it is saved.
    pub(crate) room_mib: u64,
}

/// A file of the host's, and its name in the root directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JailFile {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) read_only: bool,
}

impl Orders {
    /// As a process is known among others, and a machine to Firecracker.
    pub(crate) fn instance(&self) -> String {
        format!("inn-{}", self.vm)
    }
}
