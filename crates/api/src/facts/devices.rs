use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockDevice {
    /// `nvme0n1`.
    pub name: String,
    pub kind: BlockKind,
    pub size_bytes: u64,
    pub rotational: bool,
    pub removable: bool,
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The bus that it is on: `nvme`, `virtio`, `sata`, `usb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    pub logical_block_bytes: u32,
    pub physical_block_bytes: u32,
    /// The names of its partitions.
    pub partitions: Vec<String>,
    /// What it is made of: the disks of an array, the file of none.
    pub made_of: Vec<String>,
    /// The device-mapper's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockKind {
    Disk,
    Loop,
    /// Of the device-mapper: LVM, encryption.
    Mapped,
    /// Of the kernel's software RAID.
    Raid,
    /// Compressed memory.
    Zram,
    Optical,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileSystem {
    pub mounted_at: String,
    /// A device, or what stands for one.
    pub source: String,
    /// `ext4`.
    pub kind: String,
    pub read_only: bool,
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Of the free ones, to others than root.
    pub available_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkCard {
    pub name: String,
    pub kind: NetworkCardKind,
    /// Empty where it has none.
    pub mac: String,
    pub mtu: u32,
    /// `up`, `down`, `unknown`, as IF_OPER_ names them.
    pub state: String,
    /// Where the driver tells one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The bridge or bond that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// What its device can give VMs of its own: SR-IOV's `sriov_totalvfs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_functions: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkCardKind {
    Physical,
    Wireless,
    Loopback,
    Bridge,
    Bond,
    Vlan,
    Tap,
    #[serde(rename = "wireguard")]
    WireGuard,
    /// Of software, of another kind.
    Virtual,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// `0000:3b:00.0`.
    pub pci_address: String,
    /// `10de:2330`.
    pub pci_id: String,
    pub vendor: String,
    /// The vendor's, or its PCI id where no list names it.
    pub name: String,
    /// The kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Of the vendor's driver, by NVML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Whether it is divided; not there where it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommu_group: Option<u32>,
    pub passthrough: Passthrough,
}

/// Whether the whole device can be a VM's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Passthrough {
    pub possible: bool,
    /// As a clause.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IommuFacts {
    /// The kernel keeps devices apart by it.
    pub enabled: bool,
    /// `dmar`, `ivhd`, `smmu3`: as the kernel has named them.
    pub kinds: Vec<String>,
    pub groups: u32,
}
