use std::time::Duration;

use inn_domain::network::Policy;
use inn_domain::{
    BootTimeline, Desired, EndKind, Observed, ResourceLimits, TtlAction, VmPhase, VmSpec,
};
use inn_units::{Architecture, Bytes, Digest, Generation, VmId};
use jiff::Timestamp;

/// A VM as it was accepted, and what is desired of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRecord {
    pub id: VmId,
    pub spec: VmSpec,
    pub desired: Desired,
    /// What its disk has grown to since; `None` is the spec's size.
    pub grown_disk: Option<Bytes>,
    /// What its limits have become since; `None` is the spec's.
    pub changed_limits: Option<ResourceLimits>,
    /// What its policy has become since; `None` is the spec's.
    pub changed_policy: Option<Policy>,
    pub created_at: Timestamp,
    pub ttl: Option<TtlRecord>,
}

/// The time that a VM was given to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlRecord {
    /// By the host's clock when this was stored.
    pub ends_at: Timestamp,
    pub granted: Duration,
    pub action: TtlAction,
}

/// A VM as it was last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedRecord {
    /// Without the backoff, whose times are an agent's own.
    pub observed: Observed,
    /// That of the VM's restarts, unless it is well.
    pub backoff: Option<BackoffRecord>,
    /// For people who read the file; derived from the rest.
    pub phase: Option<VmPhase>,
    pub observed_generation: Generation,
    pub machine: Option<MachineRecord>,
    /// In that machine.
    pub cloud_init: Option<CloudInitRecord>,
    pub failure: Option<FailureRecord>,
    pub workload: Option<WorkloadRecord>,
    pub started_at: Option<Timestamp>,
    pub boot: Option<Duration>,
    pub last_end: Option<EndRecord>,
    pub boots: BootRecords,
    /// Of one that began from a saved machine.
    pub receipt: Option<ReceiptRecord>,
}

/// What a guest has confirmed once its machine went on from a saved one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptRecord {
    /// JSON, as it was signed.
    pub statement: String,
    /// Ed25519, in hex.
    pub signature: String,
    /// The public key, in hex.
    pub key: String,
}

/// How often the VM went down of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffRecord {
    pub failures: u32,
    /// When it starts again, by the host's clock.
    pub not_before: Option<Timestamp>,
}

/// The VM's last way up, and the last one that failed where that was another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootRecords {
    pub last: Option<BootRecord>,
    pub failed: Option<BootRecord>,
}

/// One way up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootRecord {
    pub at: Timestamp,
    /// How long the console's log was then.
    pub console_from: u64,
    /// Whether its machine had no CPU of its own.
    pub emulated: bool,
    pub timeline: BootTimeline,
}

/// How the VM's machine last came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndRecord {
    pub how: EndKind,
    /// One sentence: why it was not graceful, or what ended it.
    pub reason: Option<String>,
    /// Of an end that was asked for.
    pub took: Option<Duration>,
    pub at: Timestamp,
}

/// How to find the VM's machine again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineRecord {
    pub runtime: String,
    pub pid: u32,
    pub start_ticks: u64,
    pub host_boot_id: String,
    pub kvm: bool,
    /// A digest of the kernel that it has booted, where that is the node's.
    pub kernel: Option<String>,
    /// What its CPUs are, where that is not the agent's own: it has no guest agent
    /// for those.
    pub foreign_architecture: Option<Architecture>,
}

/// How cloud-init in the VM stands, as its guest agent tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudInitRecord {
    pub state: CloudInitState,
    /// What it is at, or was at last.
    pub stage: Option<String>,
    /// What went wrong, one line each.
    pub errors: Vec<String>,
    /// The last lines that it printed, where it failed.
    pub output: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudInitState {
    Waiting,
    Done,
    /// With errors, not in time, or not at all.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRecord {
    pub step: String,
    /// The causes in one sentence.
    pub cause: String,
    /// The same one by one, the outermost first.
    pub causes: Vec<String>,
    pub next: String,
    /// What to type for that.
    pub command: Option<String>,
    pub console: Vec<String>,
    pub at: Timestamp,
}

/// The workload of the current boot and how much of its output is in its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadRecord {
    pub command: Vec<String>,
    pub running: bool,
    pub exit_code: Option<i32>,
    pub reason: Option<String>,
    /// Output offset less the log's length: together with the log itself it
    /// says where to go on, without a write for each piece of output.
    pub log_base: i64,
    /// How often the guest has started it again in this boot.
    pub restarts: u32,
}

/// What a KVM verdict holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeKey {
    pub kernel: Digest,
    /// Path and version.
    pub vmm: String,
    pub host_boot: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeRecord {
    pub usable: bool,
    pub reason: String,
    pub took: Duration,
}

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The host's crash: the write is on the disk.
    Host,
    /// The agent's crash only.
    Agent,
}
