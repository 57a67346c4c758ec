//! The JSON in the database's columns. Frozen with the schema: a field that
//! changes its meaning is a migration. Fields that come are `default`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use inn_units::{Architecture, Bytes, Digest, Generation, SnapshotId, Vcpus, VmName};
use serde::{Deserialize, Serialize};

use crate::network_rows::{StoredNetwork, StoredPolicy};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredSpec {
    pub(crate) name: VmName,
    #[serde(flatten)]
    pub(crate) source: StoredSource,
    pub(crate) language: Option<String>,
    pub(crate) vcpus: Vcpus,
    pub(crate) memory: Bytes,
    pub(crate) disk: Bytes,
    pub(crate) network: StoredNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipv4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipv6: Option<Ipv6Addr>,
    #[serde(default)]
    pub(crate) policy: StoredPolicy,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) runs_workload: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) runtime: StoredRuntime,
    #[serde(default)]
    pub(crate) channel: StoredChannel,
    pub(crate) restart: StoredRestart,
    pub(crate) kernel: Option<StoredKernel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cloud_init: Option<StoredCloudInit>,
    #[serde(default)]
    pub(crate) limits: StoredLimits,
    pub(crate) persist: bool,
    pub(crate) lease: bool,
    #[serde(default)]
    pub(crate) stable_addresses: StoredStableAddresses,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<StoredOrigin>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredStableAddresses {
    #[default]
    Auto,
    On,
    Off,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredOrigin {
    pub(crate) snapshot: SnapshotId,
    pub(crate) name: String,
}

/// The statement of what a guest has confirmed, and who signed it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredReceipt {
    pub(crate) statement: String,
    pub(crate) signature: String,
    pub(crate) key: String,
}

/// Told apart by the names of their fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum StoredSource {
    Image {
        image_name: String,
        image_digest: Digest,
        image_root_disk: PathBuf,
        image_run: StoredRun,
    },
    Disk {
        disk_url: String,
        disk_path: PathBuf,
        disk_format: StoredDiskFormat,
        disk_digest: Option<Digest>,
        #[serde(default)]
        disk_cached: bool,
        disk_size: Bytes,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk_architecture: Option<Architecture>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredDiskFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredChannel {
    #[default]
    Auto,
    Serial,
    Vsock,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredRun {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredLimits {
    pub(crate) cpu_percent: Option<u32>,
    pub(crate) cpu_weight: Option<u32>,
    pub(crate) memory: Option<Bytes>,
    pub(crate) pids: Option<u32>,
    pub(crate) io_read: Option<Bytes>,
    pub(crate) io_write: Option<Bytes>,
    pub(crate) io_read_ops: Option<u64>,
    pub(crate) io_write_ops: Option<u64>,
}

/// May hold secrets, which its `Debug` does not show.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredCloudInit {
    pub(crate) user: Option<String>,
    pub(crate) password_hash: Option<String>,
    pub(crate) ssh_keys: Vec<String>,
    pub(crate) packages: Vec<String>,
    pub(crate) user_data: Option<String>,
}

impl std::fmt::Debug for StoredCloudInit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredCloudInit(..)")
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredKernel {
    pub(crate) path: Option<PathBuf>,
    pub(crate) args: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredRuntime {
    Auto,
    Qemu,
    Firecracker,
    Krun,
    Libvirt,
    Sim,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredRestart {
    No,
    OnFailure,
    Always,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredDesired {
    pub(crate) power: StoredPower,
    pub(crate) run: Generation,
    /// `None` ends the machine at once.
    pub(crate) grace_ms: Option<u64>,
    pub(crate) keep_disk: bool,
    pub(crate) purge_persist: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<StoredPause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rest: Option<StoredRest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_idle: Option<StoredOnIdle>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredRest {
    pub(crate) action: StoredIdleAction,
    pub(crate) since_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredOnIdle {
    pub(crate) action: StoredIdleAction,
    pub(crate) after_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredIdleAction {
    Pause,
    Snapshot,
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredPause {
    pub(crate) by: String,
    pub(crate) since_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredPower {
    Running,
    Stopped,
    Deleted,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredTtl {
    pub(crate) ends_at: jiff::Timestamp,
    pub(crate) granted_ms: u64,
    pub(crate) action: StoredTtlAction,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredTtlAction {
    Stop,
    Delete,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredMachine {
    /// `None` while the machine is being launched: whether there is one has
    /// to be found out.
    pub(crate) identity: Option<StoredIdentity>,
    pub(crate) run: Generation,
    pub(crate) guest: StoredGuest,
    #[serde(default)]
    pub(crate) full: bool,
    #[serde(default)]
    pub(crate) set_up: bool,
    #[serde(default)]
    pub(crate) motion: StoredMotion,
    #[serde(default)]
    /// [`inn_domain::MachineView::unconfirmed`].
    pub(crate) woken: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cloud_init: Option<StoredSetUp>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredMotion {
    #[default]
    Runs,
    Paused,
    Behind,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredSetUp {
    pub(crate) state: StoredSetUpState,
    pub(crate) stage: Option<String>,
    pub(crate) errors: Vec<String>,
    pub(crate) output: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredSetUpState {
    Waiting,
    Done,
    Failed,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredIdentity {
    pub(crate) runtime: String,
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) host_boot_id: String,
    pub(crate) kvm: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<String>,
    /// Where it is not the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) architecture: Option<Architecture>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredGuest {
    Booting,
    Answered,
    Configured,
    Up,
    Lost,
    Absent,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredDown {
    pub(crate) generation: Generation,
    pub(crate) reason: StoredDownReason,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredDownReason {
    PoweredOff,
    Reset,
    Crashed,
    StartFailed,
    NotWoken,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredBackoff {
    pub(crate) failures: u32,
    pub(crate) not_before: Option<jiff::Timestamp>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredFailure {
    pub(crate) step: String,
    pub(crate) cause: String,
    #[serde(default)]
    pub(crate) causes: Vec<String>,
    pub(crate) next: String,
    #[serde(default)]
    pub(crate) command: Option<String>,
    pub(crate) console: Vec<String>,
    pub(crate) at: jiff::Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredWorkload {
    pub(crate) command: Vec<String>,
    pub(crate) running: bool,
    pub(crate) exit_code: Option<i32>,
    pub(crate) reason: Option<String>,
    pub(crate) log_base: i64,
    #[serde(default)]
    pub(crate) restarts: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredEnd {
    pub(crate) how: StoredEndKind,
    pub(crate) reason: Option<String>,
    pub(crate) took_ms: Option<u64>,
    pub(crate) at: jiff::Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredEndKind {
    Graceful,
    Forced,
    ByItself,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredBoots {
    pub(crate) last: Option<StoredBoot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<StoredBoot>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredBoot {
    pub(crate) at: jiff::Timestamp,
    pub(crate) console_from: u64,
    pub(crate) emulated: bool,
    pub(crate) run: Generation,
    pub(crate) phases: Vec<StoredPhase>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredPhase {
    pub(crate) phase: StoredBootPhase,
    pub(crate) start_us: u64,
    pub(crate) took_us: Option<u64>,
    pub(crate) result: StoredPhaseResult,
    /// Names with microseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<(String, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredBootPhase {
    PrepareDisk,
    Launch,
    Handshake,
    Configure,
    CloudInit,
    StartWorkload,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredPhaseResult {
    Open,
    Done,
    Failed,
    GivenUp,
    Unanswered,
}
