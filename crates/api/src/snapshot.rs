use inn_units::{Bytes, SnapshotId, SnapshotName, Vcpus, VmId, VmName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/vms/{vm}/snapshot` takes; answered by an operation, whose
/// result is the snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotCreate {
    /// A DNS label that no other snapshot has.
    #[schema(value_type = String, example = "golden")]
    pub name: SnapshotName,
}

/// Memory, devices and disk of a VM as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    #[schema(value_type = String)]
    pub id: SnapshotId,
    #[schema(value_type = String, example = "golden")]
    pub name: SnapshotName,
    /// The VM that it was taken of.
    #[schema(value_type = String)]
    pub vm: VmName,
    #[schema(value_type = String)]
    pub vm_id: VmId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<crate::ImageRef>,
    #[schema(value_type = u8)]
    pub vcpus: Vcpus,
    #[schema(value_type = u64)]
    pub memory_bytes: Bytes,
    #[schema(value_type = u64)]
    pub disk_bytes: Bytes,
    /// What it takes on the node's disk.
    #[schema(value_type = u64)]
    pub stored_bytes: Bytes,
    pub made_by: SnapshotMaker,
    pub parts: Vec<SnapshotPart>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What has to be the same where a machine goes on from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotMaker {
    #[schema(example = "qemu")]
    pub runtime: String,
    pub version: String,
    #[schema(example = "x86_64")]
    pub arch: String,
    #[schema(example = "tcg")]
    pub accelerator: String,
    #[schema(example = "microvm")]
    pub machine: String,
    pub cpu: String,
    /// The host CPU's, where the guest sees them.
    pub cpu_features: Vec<String>,
    pub devices: Vec<String>,
    /// A digest of the kernel in its memory. Whatever begins from it runs that one,
    /// and boots the node's after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotPart {
    #[schema(example = "memory")]
    pub name: String,
    #[schema(value_type = u64)]
    pub bytes: Bytes,
    #[schema(value_type = u64)]
    pub stored_bytes: Bytes,
    /// Over its blocks that are not all zero.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotList {
    pub items: Vec<Snapshot>,
}

/// What `POST /api/snapshots/import` takes; answered by an operation, whose
/// result is the snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotImport {
    /// Absolute path on the node, of what an export has written.
    pub path: String,
    /// As it was called unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<SnapshotName>,
}

/// What the `fork` of a VM or of a snapshot takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForkRequest {
    /// How many VMs begin from it; 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64)]
    pub count: Option<u32>,
    /// They are called `PREFIX-1` and so on; the name of what they begin from
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "worker")]
    pub name_prefix: Option<String>,
    /// The very names, in place of a count and a prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 64)]
    pub names: Vec<VmName>,
    /// Of one alone: it lives as long as one connection to its lease, as a VM
    /// that is made with `lease`.
    #[serde(default)]
    pub lease: bool,
}

/// What a VM that began from a saved machine began from, and what its guest
/// confirmed before anybody was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeReceipt {
    /// The name of the snapshot, or of the VM that was forked.
    pub origin: String,
    #[schema(value_type = String)]
    pub snapshot: SnapshotId,
    /// Names this machine's life: its kernel's boot id is that of what it
    /// began from.
    pub boot_session: String,
    #[schema(value_type = String, format = DateTime)]
    pub confirmed_at: Timestamp,
    /// From the question to the guest's answer.
    pub took_us: u64,
    /// By how much the guest's clock is behind the host's, at the most.
    pub clock_lag_us: u64,
    pub steps: Vec<ResumeStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeStep {
    /// `channel`, `entropy`, `clock`, `hostname`, `machine-id`, `network`,
    /// `mounts`, `hooks`, `connections`, `secrets`.
    pub name: String,
    /// `done` or `skipped`; with one that failed the VM is not handed out.
    #[schema(example = "done")]
    pub result: String,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub took_us: u64,
}

/// A receipt as the node has signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedReceipt {
    pub receipt: ResumeReceipt,
    /// JSON, byte for byte what was signed.
    pub statement: String,
    #[schema(example = "ed25519")]
    pub algorithm: String,
    /// In hex.
    pub signature: String,
    /// The node's, in hex.
    pub public_key: String,
}
