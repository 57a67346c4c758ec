//! What a node's host is: what stays while it is up, as `GET
//! /api/node/resources` tells it.
//!
//! These are what `inn-facts` reads into, too: a report that nothing is decided
//! by but its own fields has no second shape inside (docs/adr/0053).

mod devices;
mod hardware;
mod system;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use devices::{
    BlockDevice, BlockKind, FileSystem, Gpu, IommuFacts, NetworkCard, NetworkCardKind, Passthrough,
};
pub use hardware::{
    Confidential, CpuCache, CpuFacts, HugePages, KvmFacts, MemoryFacts, NumaNode, Tpm,
    Virtualisation,
};
pub use system::{
    CgroupFacts, ClockFacts, Distribution, Family, KernelFacts, KernelPart, KernelPartState, Tool,
};

use crate::NodeResources;

/// `GET /api/node/resources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What VMs may have of it; not where no agent was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_vms: Option<NodeResources>,
    #[serde(flatten)]
    pub host: HostFacts,
}

/// A host, as it shows itself to the user who looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostFacts {
    pub cpu: CpuFacts,
    pub numa: Vec<NumaNode>,
    pub virtualisation: Virtualisation,
    pub kvm: KvmFacts,
    pub memory: MemoryFacts,
    pub block_devices: Vec<BlockDevice>,
    /// One for each that is mounted, at the place where it was mounted first.
    pub file_systems: Vec<FileSystem>,
    pub network_cards: Vec<NetworkCard>,
    pub gpus: Vec<Gpu>,
    pub iommu: IommuFacts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    pub confidential: Confidential,
    pub kernel: KernelFacts,
    pub distribution: Distribution,
    pub cgroups: CgroupFacts,
    pub clock: ClockFacts,
    /// Of the kernel, which features of a node need.
    pub kernel_parts: Vec<KernelPart>,
    /// Programs that features of a node need.
    pub tools: Vec<Tool>,
    /// What could not be seen, in place of a guess.
    pub not_seen: Vec<NotSeen>,
}

/// Something that may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotSeen {
    /// A field of the facts, or a path.
    pub what: String,
    pub why: String,
}
