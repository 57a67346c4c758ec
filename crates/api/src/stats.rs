use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `GET /api/vms/{vm}/stats` answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// The latest reading; with `fresh=true` one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<GuestSample>,
    /// The readings of the time asked for, oldest first; empty where none was.
    pub samples: Vec<GuestSample>,
}

/// One reading of what a guest says of itself. The guest is not trusted: the
/// numbers are its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestSample {
    /// By the node's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub uptime_seconds: u64,
    pub cpus: u32,
    /// All CPUs together since the reading before: 0 to 100.
    pub cpu_percent: f64,
    pub memory_total_bytes: u64,
    /// Total less available.
    pub memory_used_bytes: u64,
    pub memory_available_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_used_bytes: u64,
    pub mounts: Vec<MountUse>,
    pub interfaces: Vec<Interface>,
    /// Over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    pub processes: u32,
    /// Where the guest's kernel has PSI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureSet>,
    /// Whether its file systems are frozen.
    pub frozen: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MountUse {
    pub target: String,
    pub source: String,
    pub kind: String,
    pub total_bytes: u64,
    pub used_bytes: u64,
    pub available_bytes: u64,
    pub inodes_total: u64,
    pub inodes_free: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    /// `02:00:00:aa:bb:cc`; empty where it has none.
    pub mac: String,
    /// `10.0.2.15/24`.
    pub addresses: Vec<String>,
    pub up: bool,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PressureSet {
    pub cpu: Pressure,
    pub memory: Pressure,
    pub io: Pressure,
}

/// Per cent of the time in which some, or all, tasks waited, over 10 s and
/// 60 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pressure {
    pub some10: f64,
    pub some60: f64,
    pub full10: f64,
    pub full60: f64,
}
