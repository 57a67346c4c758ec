use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use inn_units::{Bytes, Digest, Generation, Vcpus, VmId, VmName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::idle::{OnIdle, Rest};
use crate::network::Network;
use crate::policy::{Policy, VmPolicyState};
use crate::port_map::{PortMap, PortMapCreate};

/// What `POST /api/vms` takes. At least one of `image`, `language` and
/// `diskImage`: where `language` is given with another, it says only what the
/// VM speaks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmCreate {
    /// A DNS label; made up from the image's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "web-1")]
    pub name: Option<VmName>,
    /// A local image, by name or digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "base")]
    pub image: Option<String>,
    /// A disk with an operating system of its own, in place of an image: a
    /// full VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_image: Option<DiskImage>,
    /// python, javascript, node, ruby or golang: the agent's configuration
    /// says which image that is, unless `image` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "python")]
    pub language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u8>, minimum = 1)]
    pub vcpus: Option<Vcpus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory_bytes: Option<Bytes>,
    /// Size of the VM's own writable disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk_bytes: Option<Bytes>,
    /// `none`, `allow_all` (the node's own network), a network's name, or for the
    /// runtime libvirt `libvirt:NAME` (a network of libvirt's) or `bridge:NAME`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "allow_all")]
    pub network: Network,
    /// An address of its network's that it has for itself; one of the node's
    /// choice unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4, example = "10.213.0.40")]
    pub ipv4: Option<Ipv4Addr>,
    /// The same of IPv6; that of its MAC unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ipv6: Option<Ipv6Addr>,
    /// What it may reach; whatever its network allows unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: Policy,
    /// Ports of the node that lead to it, as `POST /api/ports` takes them, but
    /// for `vm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1024)]
    pub ports: Vec<PortMapCreate>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Overrides the image's CMD; its ENTRYPOINT stays in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Whether the image's command runs as the VM's workload.
    #[serde(default)]
    pub workload: Workload,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub runtime: Runtime,
    /// How the node talks to the guest agent.
    #[serde(default)]
    pub channel: Channel,
    /// Of the VM and of its workload.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// How cloud-init sets a disk image's system up; with it, or with ssh
    /// keys, the guest agent is installed, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
    /// Lines of an authorized_keys, for the user of a disk image's system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub ssh_public_keys: Vec<String>,
    /// What its machine may use of the node.
    #[serde(default)]
    pub limits: crate::VmLimits,
    /// Gives the VM a directory disk at /persist that outlives it, by the
    /// VM's name.
    #[serde(default)]
    pub persist: bool,
    /// Deletes a VM of the same name first.
    #[serde(default)]
    pub replace: bool,
    /// Whether the VM is started at once.
    #[serde(default)]
    pub start: bool,
    /// The VM boots, also where the node has a template of its kind.
    #[serde(default)]
    pub cold: bool,
    /// The VM lives as long as one connection to `/api/vms/{vm}/lease`; it is
    /// deleted when that closes, or when none is opened within 30 s.
    #[serde(default)]
    pub lease: bool,
    #[serde(default)]
    pub stable_addresses: StableAddresses,
    /// How long the VM lives, from now on; `POST /api/vms/{vm}/ttl` renews it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315360000)]
    pub ttl_seconds: Option<u64>,
    /// What becomes of it then.
    #[serde(default)]
    pub ttl_action: TtlAction,
    /// What becomes of it when nobody uses it; nothing unless given.
    /// `PUT /api/vms/{vm}/idle` changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
}

fn is_default(policy: &Policy) -> bool {
    *policy == Policy::default()
}

/// What becomes of a VM whose time to live is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TtlAction {
    Stop,
    #[default]
    Delete,
}

/// What `POST /api/vms/{vm}/ttl` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TtlSet {
    /// From now on; without it the VM stays.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 315360000)]
    pub ttl_seconds: Option<u64>,
    /// As it was, or `delete`, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_action: Option<TtlAction>,
}

/// How long a VM still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ttl {
    pub seconds_left: u64,
    #[schema(value_type = String, format = DateTime)]
    pub ends_at: Timestamp,
    pub action: TtlAction,
}

/// A raw or qcow2 disk image. The VM gets a copy of its own, as large as
/// `diskBytes` where that is more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskImage {
    /// `file:///…`: an absolute path on the node; or the `https://…` or
    /// `http://…` of an image that `POST /api/disk-images` has fetched.
    #[schema(example = "file:///srv/images/debian-12.qcow2")]
    pub url: String,
    /// What the file's SHA-256 must be, in hex. Of an image in the node's
    /// cache, by which it is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What cloud-init in a disk image's system is told at its first boot.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudInit {
    /// In place of the name of the image's own user, who may become root by
    /// sudo; `debian`, `ubuntu` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "ada")]
    pub user: Option<String>,
    /// That user's, as crypt(5) writes it; to log in on a console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "$6$Zq7o…$…")]
    pub password_hash: Option<String>,
    /// Installed from the distribution's archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub packages: Vec<String>,
    /// User data of your own: a `#cloud-config`, which ours is merged with, a
    /// script, or any other of cloud-init's formats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262144, example = "#cloud-config\ntimezone: Europe/Berlin\n")]
    pub user_data: Option<String>,
}

impl std::fmt::Debug for CloudInit {
    /// Never what may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudInit")
            .field("user", &self.user)
            .field("packages", &self.packages)
            .finish_non_exhaustive()
    }
}

/// What opens a VM's screen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VncAccess {
    /// As RFB's VNC authentication takes it. Good until the next is made or
    /// the machine ends.
    #[schema(example = "k3vnT8xq")]
    pub password: String,
}

impl std::fmt::Debug for VncAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VncAccess(..)")
    }
}

/// How the node talks to the guest agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// What the runtime does best.
    #[default]
    Auto,
    /// The virtio-serial port `innkeeper.agent.0`.
    Serial,
    /// Port 5161 of a vsock.
    Vsock,
}

/// What the VM boots in place of the node's kernel, or says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// Absolute path on the node of a vmlinux or a bzImage with everything it
    /// needs built in; the node's own kernel when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Added to the end of the kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// The image's command runs once the VM is up.
    #[default]
    Image,
    /// Nothing runs until somebody executes something.
    None,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// The node chooses.
    #[default]
    Auto,
    Qemu,
    /// Kernels alone, under KVM.
    Firecracker,
    /// libkrun, by the helper inn-krun: kernels alone, under KVM.
    Krun,
    /// A domain of the host's libvirt.
    Libvirt,
    /// A simulated machine: for tests of the agent itself, only where the
    /// agent's configuration allows it.
    Sim,
}

/// Whether the guest's programs lie at the same addresses each time (no
/// address space layout randomisation). A command then starts some times faster
/// where CPUs are emulated; who attacks a program in the guest knows where its
/// code lies. Another VM, or the host, is no easier to attack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StableAddresses {
    /// In leased VMs, which run one command, where CPUs are emulated.
    #[default]
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// A VM that ended by itself stays stopped.
    #[default]
    No,
    OnFailure,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    Kvm,
    Tcg,
    None,
}

/// Where a VM is in its life. `stopped`, `failed` and `paused` wait for a request; all
/// others move on by themselves. A deleted VM is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Accepted; nothing made yet.
    Pending,
    /// Its disks are being made.
    Preparing,
    /// Its machine runs and the guest agent has not answered yet.
    Starting,
    /// The guest agent has answered.
    Running,
    /// Its machine stands still, with all of its memory, until `resume`, or
    /// until it is woken from its rest.
    Paused,
    Stopping,
    Stopped,
    Failed,
    Deleting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    Running,
    Stopped,
    Deleted,
}

/// Who had a VM paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    #[schema(example = "root (uid 0)")]
    pub by: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Why a VM is not what it should be: the step, its cause, the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The step that failed: `prepare-disk`, `launch`, `handshake`, …
    pub step: String,
    /// One sentence with the whole chain of causes.
    pub cause: String,
    /// What to do next.
    pub next: String,
    /// The console's last lines, where they help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestLink {
    /// No machine runs, or the guest has no agent.
    Absent,
    Connecting,
    Ready,
    /// It answers, but late, or can do less than this node asks for.
    Degraded,
    /// It was there and does not answer.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestState {
    pub link: GuestLink,
    /// Why, where it is not `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when the link is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// The protocol's version that both speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1.1")]
    pub protocol: Option<String>,
    /// Whether the agent is PID 1 of its VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_init: Option<bool>,
    /// The guest's operating system, as it names itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// How cloud-init in a VM stands, as its guest agent tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInitState {
    pub status: CloudInitStatus,
    /// What it is at: `init-local`, `init`, `modules-config`, `modules-final`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What went wrong, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// The last lines that it printed, where it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CloudInitStatus {
    /// It is at work, or its guest boots.
    Waiting,
    Done,
    /// With errors, not in time (`cloud_init_deadline`), or not at all. The VM
    /// runs on.
    Failed,
}

/// How the image's own command is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadState {
    pub command: Vec<String>,
    pub running: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Set when it could not be started or was ended by a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often the restart policy has started it again in this boot.
    #[serde(default)]
    pub restarts: u32,
}

/// How a VM's machine last came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastEnd {
    pub how: EndKind,
    /// One sentence: why it was not graceful, or what ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the request to the end; of an end by itself, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// The guest was asked and shut down within its time.
    Graceful,
    /// The machine was ended: the guest was not asked, could not be, or did
    /// not make it in time.
    Forced,
    /// Nobody asked for it.
    ByItself,
}

/// The disk image that a VM was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskImageRef {
    pub url: String,
    pub format: DiskFormat,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageRef {
    /// As the VM's creator wrote it.
    pub name: String,
    /// Pinned when the VM was made.
    #[schema(value_type = String)]
    pub digest: Digest,
}

/// One VM as the node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    #[schema(value_type = String)]
    pub id: VmId,
    #[schema(value_type = String)]
    pub name: VmName,
    /// One of `image` and `diskImage` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_image: Option<DiskImageRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    #[schema(value_type = u8)]
    pub vcpus: Vcpus,
    #[schema(value_type = u64)]
    pub memory_bytes: Bytes,
    #[schema(value_type = u64)]
    pub disk_bytes: Bytes,
    #[schema(value_type = String, example = "allow_all")]
    pub network: Network,
    #[serde(default)]
    pub policy: VmPolicyState,
    /// The addresses that the node has leased to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMap>,
    pub runtime: Runtime,
    pub channel: Channel,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    pub restart_policy: RestartPolicy,
    pub persist: bool,
    pub lease: bool,
    #[serde(default)]
    pub stable_addresses: StableAddresses,
    pub limits: crate::VmLimitsState,
    /// None: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// What becomes of it when nobody uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
    pub labels: BTreeMap<String, String>,
    pub desired: Desired,
    /// Where it is to stand still: who wants that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Where it was put to rest, since nobody used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
    pub phase: Phase,
    /// Why nothing is done on it now though something is to be: `waits for a
    /// free start: 3 ahead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Counts the changes of what is desired.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The generation that the phase was observed for; equal to `generation`
    /// once the VM has settled (reached it, or failed to).
    #[schema(value_type = u64)]
    pub observed_generation: Generation,
    pub guest: GuestState,
    /// Of a machine that runs, where cloud-init sets its system up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInitState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
    /// Of one that began from a saved machine: what its guest has confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<crate::ResumeReceipt>,
    /// The guest's latest reading, while its machine runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<crate::GuestSample>,
    /// Process id of its VMM on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Milliseconds from the start of the machine to the guest's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmList {
    pub items: Vec<Vm>,
    /// What to give as `after` to go on, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What the agent sends on `/api/vms/{vm}/lease`, as JSON text messages: the
/// VM at each change of its phase, until it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseEvent {
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}
