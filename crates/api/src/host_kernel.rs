use inn_units::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The kernels of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostKernelList {
    pub items: Vec<HostKernel>,
    /// Where more can be put, each in a directory of its own.
    pub directory: String,
}

/// A kernel that a VM could boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostKernel {
    /// Its directory's name; of the host's own kernels, and of the one that the
    /// configuration names, another.
    pub name: String,
    /// Empty where nothing says.
    pub version: String,
    pub path: String,
    /// Of the file as it lies there.
    #[schema(value_type = u64)]
    pub bytes: Bytes,
    pub origin: KernelOrigin,
    /// Whether VMs boot it that bring none of their own.
    pub default: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KernelOrigin {
    /// Unpacked from a package.
    Package,
    /// Built for guests.
    Built,
    /// What the host itself may boot.
    Host,
    /// `kernel.path` names it.
    Configuration,
}

/// What `PUT /api/kernels/default` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KernelDefault {
    /// A kernel's name; without one the newest there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub name: Option<String>,
}
