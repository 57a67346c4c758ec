use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `adopting` until every VM of an earlier life has been adopted or given
    /// up, then `ok`; `drained` while the node takes and starts no VMs.
    pub status: String,
    pub version: String,
}

/// `GET /api/node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    pub id: String,
    pub version: String,
    pub pid: u32,
    pub data_dir: String,
    /// `host:port` of the TCP listener, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_listen: Option<String>,
    pub vms: u64,
    /// When the agent of today began: another one after an upgrade in place,
    /// whose pid stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub started_at: Option<Timestamp>,
    /// Guests are shut down and stay so, since the host goes down.
    #[serde(default)]
    pub guests_held: bool,
    /// VMs that have a machine now.
    #[serde(default)]
    pub running: u64,
    /// It takes and starts no VMs.
    #[serde(default)]
    pub drained: bool,
    /// Not for callers who see some VMs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<NodeResources>,
    /// Domains of the libvirt that this node uses, which no Innkeeper has
    /// defined: they are left alone. Not for callers who see some VMs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_domains: Vec<String>,
}

/// What `POST /api/node/drain` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeDrain {
    /// Stops every VM, too, by their label `stop-order` and the newest first.
    #[serde(default)]
    pub stop_vms: bool,
    /// After so long those that still run are ended at once; 300 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub timeout_seconds: Option<u32>,
}

/// What `POST /api/node/reap` found that was nobody's, and removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReapedList {
    pub items: Vec<Reaped>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reaped {
    pub kind: ReapedKind,
    /// The id of the VM that it was made for.
    pub vm: String,
    /// Why it is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReapedKind {
    /// With its processes.
    Machine,
    RunDirectory,
    /// Disks and logs.
    VmFiles,
    /// A disk at /persist that was never completed.
    UnfinishedDisk,
    /// With what was left running in it.
    ControlGroup,
}

/// What VMs may reserve of the node, over-commit included, and what they do:
/// those that run, or will, their memory, vCPUs and disk; stopped ones their
/// disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeResources {
    pub memory_bytes: Share,
    pub vcpus: Share,
    pub disk_bytes: Share,
    pub vms: Share,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Share {
    pub total: u64,
    pub reserved: u64,
    /// What may be reserved yet.
    pub free: u64,
    /// What running VMs take now, of what is measured: memory that is resident,
    /// blocks of the disk, VMs that run. In a node's resources alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
}
