use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CpuFacts {
    /// `x86_64`, `aarch64`, as the kernel has it.
    pub architecture: String,
    pub vendor: String,
    pub model: String,
    pub sockets: u32,
    /// Of all sockets, of CPUs that are online.
    pub cores: u32,
    /// What the kernel schedules on: CPUs that are online.
    pub threads: u32,
    /// CPUs that are there and switched off.
    pub offline: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mhz: Option<u32>,
    pub caches: Vec<CpuCache>,
    /// As the kernel names them, sorted: `flags` or `Features` of /proc/cpuinfo.
    pub flags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuCache {
    pub level: u8,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Of one.
    pub size_bytes: u64,
    /// How many the host has.
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumaNode {
    pub id: u32,
    /// `0-15,32-47`.
    pub cpus: String,
    pub memory_bytes: u64,
    pub free_bytes: u64,
    /// To each node in their order; 10 is the node itself (ACPI's SLIT).
    pub distances: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Virtualisation {
    /// `vmx` (VT-x), `svm` (AMD-V); on ARM nothing tells before KVM is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// Whether KVM gives the extension on to its guests; unknown without KVM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested: Option<bool>,
    /// Whether this host is a VM itself.
    pub in_vm: bool,
    /// Whose VM, where that can be told: `kvm`, `vmware`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// The container that the agent is in: `docker`, `lxc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// The kernel's hypervisor. That there is a device proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KvmFacts {
    /// There is a /dev/kvm.
    pub present: bool,
    /// Whether a guest has booted under it; not there where none was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probed: Option<bool>,
    /// Why, as a clause: `booted in 240 ms`.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryFacts {
    pub total_bytes: u64,
    /// What programs can get without swapping, by the kernel's estimate.
    pub available_bytes: u64,
    pub free_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
    pub huge_pages: Vec<HugePages>,
    /// `always`, `madvise` or `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transparent_huge_pages: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HugePages {
    pub page_bytes: u64,
    pub total: u64,
    pub free: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tpm {
    /// `2.0`, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Memory that a VM's host cannot read: what the CPU can, and what KVM has
/// switched on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Confidential {
    pub sev: bool,
    pub sev_es: bool,
    pub sev_snp: bool,
    /// KVM can start such guests.
    pub sev_snp_enabled: bool,
    /// As the kernel tells it of a host (`tdx_host_platform`).
    pub tdx: bool,
    pub tdx_enabled: bool,
    /// What this host is itself, being a VM: `sev-snp`, `tdx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_of: Option<String>,
}
