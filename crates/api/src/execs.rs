use std::collections::BTreeMap;

use inn_units::ExecId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/vms/{vm}/execs` takes: a command that runs on by itself.
/// One of `command` and `shell`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecCreate {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// A line for the guest's shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `user`, `user:group`, names or numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A duration such as `30s`; the node's maximum where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Output after so many bytes is dropped and counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit_bytes: Option<u64>,
    /// How much of the latest output the guest keeps; 1 MiB where not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_bytes: Option<u32>,
    /// Keep stdin open for who attaches.
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub tty: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecList {
    pub items: Vec<ExecInfo>,
    /// What to give as `after` to go on, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A command that runs in the guest, or has ended and is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecInfo {
    #[schema(value_type = String)]
    pub id: ExecId,
    /// The same as `id`: lists have both.
    pub name: String,
    pub command: Vec<String>,
    pub pid: u32,
    pub user: String,
    /// The VM's own workload.
    pub workload: bool,
    /// Whether it outlives its connection and can be attached to.
    pub detached: bool,
    pub tty: bool,
    pub running: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    pub restarts: u32,
    /// The offsets of output that an attach can still read.
    pub output_start: u64,
    pub output_end: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<ExecEnded>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecEnded {
    /// As a shell says it: the code, or 128 and the signal's number.
    pub exit_code: i32,
    /// The signal's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    pub timed_out: bool,
    /// Bytes of output dropped because of the limit.
    pub truncated_bytes: u64,
    pub took_ms: u64,
}

/// What `POST /api/vms/{vm}/execs/{exec}/signal` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecSignal {
    /// A name such as `SIGTERM` or `TERM`, or a number.
    #[schema(example = "SIGTERM")]
    pub signal: String,
}
