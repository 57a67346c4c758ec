//! What `inn doctor` and `GET /api/node/doctor` tell.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Examination {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whether an agent has looked; otherwise who has asked has, by itself.
    pub by_agent: bool,
    /// Nothing that is needed is degraded or missing.
    pub healthy: bool,
    pub findings: Vec<Finding>,
}

/// A thing that a feature needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// `kvm`, `runtime.qemu`: stable, for programs.
    pub check: String,
    pub state: FindingState,
    /// No VM runs without it; the rest is missed by a feature alone.
    pub needed: bool,
    /// What was found, as a clause.
    pub found: String,
    /// What cannot be done so; not there where all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consequence: Option<String>,
    /// The command that mends it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What a person does: instead of a command where none mends it, or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// What `inn doctor --fix` would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FindingState {
    Ok,
    /// It works, with something less.
    Degraded,
    Missing,
}

/// A change of the host that harms nobody, whatever else is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Fix {
    /// At once, and at each boot.
    LoadModule { module: String },
    /// Made for its owner alone.
    MakeDirectory { path: String },
    /// Taken from others than owner and group.
    CloseDirectory { path: String },
    /// A file of the kernel's, until the next boot.
    WriteSetting { path: String, value: String },
    /// Of the system, and empty.
    MakeGroup { name: String },
}
