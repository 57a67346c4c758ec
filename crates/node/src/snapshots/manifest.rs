use std::fmt;

use inn_units::{Bytes, SnapshotId, SnapshotName, VmId, VmName};
use inn_vmm::Fingerprint;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What this version writes. One that it does not know it does not read.
const FORMAT: u32 = 1;

/// The file beside the parts.
pub(crate) const FILE: &str = "manifest.json";

/// The header of a snapshot: what it is of, what made it, and what its parts
/// have to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) id: SnapshotId,
    pub(crate) name: SnapshotName,
    pub(crate) created_at: Timestamp,
    /// The agent's version that has written it.
    pub(crate) written_by: String,
    pub(crate) vm: VmName,
    pub(crate) vm_id: VmId,
    /// Versions, CPU and its features, kernel, devices.
    pub(crate) made_by: Fingerprint,
    /// As the state database has a VM's.
    pub(crate) spec: serde_json::Value,
    /// Of the kernel, but for what the runtime adds.
    #[serde(default)]
    pub(crate) cmdline: String,
    /// As of a [`Capture`](crate::vm::Capture).
    #[serde(default)]
    pub(crate) between_frames: bool,
    pub(crate) parts: Vec<Part>,
    /// Of one that travels: what the image's disk has to be where it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root_disk: Option<Root>,
    /// Of a template: the key of all that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<String>,
}

/// As of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Root {
    pub(crate) length: Bytes,
    pub(crate) sha256: String,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) length: Bytes,
    /// Of it, what is not zero.
    pub(crate) stored: Bytes,
    /// Over each block of 64 KiB that is not all zero: its offset in 8 bytes,
    /// little endian, then its bytes. In hex.
    pub(crate) sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PartKind {
    Memory,
    State,
    Disk,
    /// The disk at /persist, of a VM that has one.
    Persist,
    Kernel,
    Initramfs,
}

impl PartKind {
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::State => "state",
            Self::Disk => "disk",
            Self::Persist => "persist",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
        }
    }
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error(
        "it is of format {found}, and this version of inn reads {FORMAT}; use the version that wrote it ({by})"
    )]
    Format { found: u32, by: String },
    #[error("its manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

impl Manifest {
    pub(crate) const fn format() -> u32 {
        FORMAT
    }

    pub(crate) fn read(text: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            format: u32,
            #[serde(default)]
            written_by: String,
        }
        let head: Head = serde_json::from_slice(text)?;
        if head.format != FORMAT {
            return Err(ManifestError::Format { found: head.format, by: head.written_by });
        }
        Ok(serde_json::from_slice(text)?)
    }

    pub(crate) fn part(&self, kind: PartKind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    pub(crate) fn stored(&self) -> Bytes {
        Bytes(self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.stored.get())))
    }
}
