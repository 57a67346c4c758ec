use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What becomes of a VM that nobody uses: no exec is attached or runs, no file
/// call, no console is open, and its guest sends nothing. What its CPUs do is
/// no use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnIdle {
    pub action: IdleAction,
    /// For so long; ten minutes unless given.
    #[serde(default = "ten_minutes")]
    #[schema(minimum = 1, maximum = 315360000, default = 600)]
    pub after_seconds: u64,
}

const fn ten_minutes() -> u64 {
    600
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IdleAction {
    /// It stands still, with all of its memory.
    Pause,
    /// Its memory is saved on the node's disk and its machine ended; it goes on
    /// from there, its programs where they were.
    Snapshot,
    /// Its guest is shut down, and boots when it is woken.
    Stop,
}

/// What `PUT /api/vms/{vm}/idle` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdleSet {
    /// Without it the VM never rests.
    #[serde(default)]
    pub on_idle: Option<OnIdle>,
}

/// That a VM was put to rest, since nobody used it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rest {
    pub action: IdleAction,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// What ends it.
    #[schema(example = "a call that needs its guest, or a start")]
    pub woken_by: String,
}
