//! What VMs have used.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/node/usage`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageReport {
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// `vm`, `all`, or `label:` and a label's name.
    #[schema(example = "label:team")]
    pub by: String,
    pub items: Vec<UsageRow>,
}

/// What one VM has used, or several together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// A VM's id, or the label's value; of VMs without the label nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the VM was called last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many VMs there were.
    pub vms: u64,
    pub vcpu_seconds: VcpuSeconds,
    pub memory_byte_seconds: ByteSeconds,
    pub disk_byte_seconds: ByteSeconds,
    pub gpu_seconds: f64,
    /// By cards on this node's bridges: what goes over a VMM's own network
    /// nobody on the host counts.
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// CPU time: what was held for a VM while it ran, and what the host's CPUs have
/// done for it, its VMM's own work included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VcpuSeconds {
    pub allotted: f64,
    pub used: f64,
}

/// Memory or disk: what was held for a VM, and what it took of the host. Of
/// pages that several share each has its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ByteSeconds {
    pub allotted: u64,
    pub used: u64,
}

/// `GET /api/node/usage/verify`: what the ledger is found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageCheck {
    /// Whether nothing is wrong with it.
    pub ok: bool,
    pub blocks: u64,
    pub entries: u64,
    pub vms: u64,
    /// How many findings there are.
    pub found: u64,
    /// The first hundred of them.
    pub findings: Vec<UsageFinding>,
    /// The last block, to be kept where who can write the ledger cannot.
    pub head: UsageHead,
    /// Ed25519, in hex: what all of it should be signed with.
    pub public_key: String,
}

/// Something that is missing, changed, or there twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageFinding {
    /// Empty where it is about no line.
    pub file: String,
    pub line: u64,
    pub what: String,
}

/// A block by its number and the SHA-256 of its line, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageHead {
    pub block: u64,
    pub hash: String,
}
