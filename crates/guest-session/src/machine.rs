//! What a guest tells of its machine, and what can be changed in it.

use std::net::IpAddr;
use std::time::Duration;

/// One reading. All of it is the guest's word, clipped and bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// By the guest's clock, since the epoch.
    pub clock: Duration,
    pub uptime: Duration,
    pub cpus: u32,
    /// All CPUs together since the reading before: 0 to 1000.
    pub cpu_permille: u32,
    /// Bytes.
    pub memory_total: u64,
    pub memory_available: u64,
    pub memory_free: u64,
    pub swap_total: u64,
    pub swap_used: u64,
    /// At most [`super::MAX_MOUNTS`].
    pub mounts: Vec<MountUse>,
    /// At most [`super::MAX_INTERFACES`].
    pub interfaces: Vec<Interface>,
    /// Hundredths, over 1, 5 and 15 minutes.
    pub load: [u32; 3],
    pub processes: u32,
    pub os: String,
    pub hostname: String,
    /// CPU, memory, I/O, where the kernel has PSI.
    pub pressure: Option<[Pressure; 3]>,
    pub frozen: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountUse {
    pub target: String,
    pub source: String,
    pub kind: String,
    /// Bytes.
    pub total: u64,
    pub used: u64,
    pub available: u64,
    pub inodes_total: u64,
    pub inodes_free: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: Option<[u8; 6]>,
    /// With the prefix length; at most [`super::MAX_ADDRESSES`].
    pub addresses: Vec<(IpAddr, u8)>,
    pub up: bool,
    pub rx: Traffic,
    pub tx: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Hundredths of a per cent of the time in which some, or all, tasks waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub some_10: u32,
    pub some_60: u32,
    pub full_10: u32,
    pub full_60: u32,
}

/// A password, in the clear or hashed as crypt(5) writes it.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    Clear(String),
    Hash(String),
}

impl std::fmt::Debug for Password {
    /// Never the secret itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSetup {
    pub interfaces: Vec<InterfaceSetup>,
    pub dns: Vec<IpAddr>,
    pub search: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSetup {
    pub which: InterfaceName,
    pub dhcp4: bool,
    pub dhcp6: bool,
    pub addresses: Vec<(IpAddr, u8)>,
    pub routes: Vec<Route>,
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceName {
    Mac([u8; 6]),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `None`: the default route of `via`'s family.
    pub to: Option<(IpAddr, u8)>,
    pub via: IpAddr,
    pub metric: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkApplied {
    /// `netplan`, `networkd`, `ifupdown` or `addresses`.
    pub by: String,
    /// What was left undone, one sentence each.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frozen {
    pub mounts: Vec<String>,
    /// Of a thaw: the guest's dead-man timer was there first.
    pub expired: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskGrown {
    pub device: String,
    /// Bytes of the file system.
    pub before: u64,
    pub after: u64,
}

/// A disk of the VM to mount in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskMount {
    pub serial: String,
    /// Absolute; made when it is missing.
    pub target: String,
    pub read_only: bool,
    /// The file system; `None` lets the guest find out.
    pub kind: Option<String>,
    /// In the guest's fstab too.
    pub lasting: bool,
    /// Make an ext4 on it if it holds nothing.
    pub format: bool,
}
