//! What can be changed inside a guest, each by `POST /api/vms/{vm}/guest/…`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `…/guest/password`. One of `password` and `hash`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetPassword {
    pub user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// As crypt(5) writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

impl std::fmt::Debug for SetPassword {
    /// Never the secret itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetPassword").field("user", &self.user).finish_non_exhaustive()
    }
}

/// `…/guest/hostname`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetHostname {
    pub hostname: String,
}

/// `…/guest/clock`: sets it to the node's, and says by how much it was off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockSet {
    /// How far the guest's clock was behind; negative where it was ahead.
    pub behind_ms: i64,
}

/// `…/guest/network`. Taken back by the guest, whole, unless the node has
/// heard of it again within `confirmSeconds`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSetup {
    pub interfaces: Vec<InterfaceSetup>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<std::net::IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// 30 where not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 600)]
    pub confirm_seconds: Option<u32>,
}

/// One interface, by `mac` or by `name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InterfaceSetup {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub dhcp4: bool,
    #[serde(default)]
    pub dhcp6: bool,
    /// `10.0.2.15/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSetup>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSetup {
    /// `10.0.0.0/8`, or `default`.
    pub to: String,
    #[schema(value_type = String)]
    pub via: std::net::IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkApplied {
    /// `netplan`, `networkd`, `ifupdown` or `addresses`.
    pub by: String,
    /// What was left undone, one sentence each.
    pub problems: Vec<String>,
}

/// `…/guest/freeze`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Freeze {
    /// Mount points; all that can be frozen where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// The guest thaws by itself after so long, whatever happens; 30 where
    /// not said, at most 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 600)]
    pub timeout_seconds: Option<u32>,
}

/// What `…/guest/freeze` and `…/guest/thaw` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Frozen {
    pub mounts: Vec<String>,
    /// Of a thaw: the guest had thawed by itself before.
    pub expired: bool,
}

/// What `PUT …/guest/ssh-keys` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetSshKeys {
    pub user: String,
    /// Lines of authorized_keys(5).
    pub keys: Vec<String>,
    /// Otherwise they are added.
    #[serde(default)]
    pub replace: bool,
}

/// What `GET …/guest/ssh-keys?user=` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshKeys {
    pub keys: Vec<String>,
}

/// `…/guest/disk`: makes a disk of the VM larger, on the node and in the
/// guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrowDisk {
    /// The disk's new size; without it only the guest's file system grows to
    /// the size that its disk has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The mount point of the file system; `/` where not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskGrown {
    /// The file system's device in the guest.
    pub device: String,
    pub before_bytes: u64,
    pub after_bytes: u64,
}

/// `…/guest/mount`: mounts a disk of the VM by its serial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountDisk {
    pub serial: String,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    /// The file system; found out where not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// In the guest's fstab too.
    #[serde(default)]
    pub lasting: bool,
    /// Make an ext4 on it if it holds nothing.
    #[serde(default)]
    pub format: bool,
}

/// `…/guest/unmount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unmount {
    pub target: String,
}
