use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KernelFacts {
    /// `Linux`.
    pub name: String,
    /// `6.1.0-31-amd64`.
    pub release: String,
    /// When and how it was built.
    pub version: String,
    /// Whether it can load modules.
    pub loads_modules: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Distribution {
    /// `debian`.
    pub id: String,
    /// `12`; empty where it has none.
    pub version: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
    pub family: Family,
}

/// How its packages are installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// apt.
    Debian,
    /// dnf.
    Fedora,
    /// zypper.
    Suse,
    /// apk.
    Alpine,
    /// pacman.
    Arch,
    #[default]
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CgroupFacts {
    /// `v2`, `v1`, `hybrid` or `none`.
    pub layout: String,
    /// Those that are mounted where the agent is.
    pub controllers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClockFacts {
    /// `tsc`, `kvm-clock`, `arch_sys_counter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Those that the kernel could use.
    pub sources: Vec<String>,
    /// Whether somebody disciplines it, as far as the kernel knows
    /// (adjtimex(2)'s STA_UNSYNC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synchronised: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelPart {
    /// `nf_tables`, `wireguard`, `vhost_vsock`, `tun`.
    pub name: String,
    pub state: KernelPartState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KernelPartState {
    /// Loaded, or built in.
    Here,
    /// Its module is on disk, and not loaded.
    Loadable,
    Missing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// `qemu-img`.
    pub name: String,
    /// Where it is; not there where it is not installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}
