use std::net::IpAddr;

use inn_units::{Generation, VmId, VmName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Desired, GuestState, LastEnd, Phase, PortMap, ResumeReceipt, WorkloadState};

/// Why a VM is as it is, and what to do about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmWhy {
    #[schema(value_type = String)]
    pub id: VmId,
    #[schema(value_type = String)]
    pub name: VmName,
    pub verdict: Verdict,
    /// One sentence about the VM, which it calls "it".
    #[schema(example = "it is starting: at handshake for 12.00 s, of 1 min 0 s at most")]
    pub summary: String,
    pub desired: Desired,
    pub phase: Phase,
    #[schema(value_type = u64)]
    pub generation: Generation,
    #[schema(value_type = u64)]
    pub observed_generation: Generation,
    /// The step that it is at, or failed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<WhyStep>,
    /// One line each, the outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What is left to do, in order, in words.
    pub plan: Vec<String>,
    /// How often it went down by itself since it was last well.
    #[serde(default)]
    pub failures: u32,
    /// When what waits is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_try: Option<Timestamp>,
    pub guest: GuestState,
    /// Which runtimes came into question for its next start, and why the one
    /// that has it was chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<String>,
    /// None, where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkStanding>,
    /// Of one that began from a saved machine: what its guest has confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ResumeReceipt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
    /// The last way up, whether it got there or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// The last way up that failed, where `boot` is a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_boot: Option<Boot>,
    /// The console's last lines, of the last boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// None where nothing needs to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextAction>,
}

/// How far the way between a VM and the network goes, step by step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStanding {
    /// Whether its card is on a bridge of the node's; never with user-mode
    /// networking, nor on a network of others'.
    pub attached: bool,
    /// That it is known by.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// That lead to it, each with its `error` where it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMap>,
    /// What of the node's network is not as declared, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Rules of others that drop what ours let through, and the way out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is as it should be.
    Fine,
    /// It is on its way there.
    Underway,
    /// It waits for its next attempt.
    Waiting,
    Stopped,
    /// It runs, and something about it is not as it should be.
    Impaired,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhyStep {
    /// `prepare-disk`, `launch`, `handshake`, …
    pub name: String,
    pub failed: bool,
    /// Since when it is at it, or when it failed.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
}

/// What to do, and what to type for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextAction {
    pub what: String,
    /// What only its reader knows stands in it in capitals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// One way up, phase by phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// From the first phase's beginning to the last one's end, or to now.
    pub took_ms: f64,
    pub phases: Vec<BootPhase>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootPhase {
    /// `prepare-disk`, `launch`, `handshake` (from the kernel's start to the
    /// guest agent's answer), `configure`, `start-workload`.
    pub name: String,
    pub result: PhaseResult,
    /// From the boot's beginning.
    pub start_ms: f64,
    /// So far, where it is open.
    pub took_ms: f64,
    /// How long it should take on a host that is not overloaded.
    pub budget_ms: f64,
    pub over_budget: bool,
    /// What it consisted of, as its runtime tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<BootPart>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootPart {
    pub name: String,
    pub took_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseResult {
    /// It is at it.
    Open,
    Done,
    Failed,
    /// Something else was desired before it was done.
    GivenUp,
    /// Nobody answered in time, and the VM runs on without a guest agent.
    Unanswered,
}
