//! What the node is at now.

use inn_units::{SnapshotId, VmId, VmName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{FileSystem, MemoryFacts, NodeResources};

/// `GET /api/node/snapshot`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSnapshot {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub vms: u64,
    /// VMs that have a machine now.
    pub running: u64,
    pub resources: NodeResources,
    /// What VMs begin from in place of a boot.
    pub templates: Vec<Template>,
    pub pool: Pool,
    /// As measured at most a second ago.
    #[serde(default)]
    pub host: HostNow,
    /// The same, of each VM that runs.
    #[serde(default)]
    pub usage: Vec<VmUse>,
}

/// What the host is at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostNow {
    /// Over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Of all CPUs together since the measurement before, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    pub memory: MemoryFacts,
    pub file_systems: Vec<FileSystem>,
}

/// What a VM's machine takes of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmUse {
    #[schema(value_type = String)]
    pub id: VmId,
    #[schema(value_type = String)]
    pub name: VmName,
    /// Since the machine began.
    pub cpu_seconds: f64,
    /// Since the measurement before: 100 is one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// The host's memory, with what it shares with others.
    pub resident_bytes: u64,
    /// Blocks that its files take.
    pub disk_bytes: u64,
}

/// A machine that was saved, once up, for VMs of its kind to begin from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    pub image: String,
    pub vcpus: u8,
    pub memory_bytes: u64,
    pub state: TemplateState,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<SnapshotId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub made_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// What it takes of the disk.
    pub disk_bytes: u64,
    /// What it takes of the host's memory now; VMs that began from it share that.
    pub held_bytes: u64,
    /// Clones of it that wait, up and standing still.
    pub waiting: u64,
    /// What one of them takes of the host's memory, as measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_bytes: Option<u64>,
    /// VMs that began from a clone that waited.
    pub hits: u64,
    /// VMs that began from the template itself, since no clone waited.
    pub misses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TemplateState {
    /// It is made next.
    Wanted,
    Making,
    Ready,
    /// It could not be made, or did not do; it is tried again later.
    Failed,
}

/// Clones of templates that wait for VMs to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
    /// What they may take of the host's memory together.
    pub memory_limit_bytes: u64,
    /// What they take of it.
    pub memory_bytes: u64,
    pub waiting: u64,
    /// The most of one template.
    pub each_at_most: u64,
}
