//! What is asked of Firecracker, in its own words. Pure.
//!
//! All fields are of its OpenAPI file (`src/firecracker/swagger/firecracker.yaml`
//! there), and of 1.7's: of what came later only `network_overrides` is sent, to
//! versions that have it.

use std::path::{Path, PathBuf};

use inn_vmm::{Bucket, CardLimits, Flow, MachineConfig};
use serde::Serialize;

use crate::kernel_args::cmdline;
use crate::places::{self, BootPlaces};

/// Below it are the host and those that are reserved (vsock(7)).
const GUEST_CID: u32 = 3;

const CARD: &str = "eth0";

/// One request: method, path, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
}

#[derive(Serialize)]
struct Machine {
    vcpu_count: u8,
    mem_size_mib: u64,
}

#[derive(Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_path: Option<&'a Path>,
    boot_args: String,
}

#[derive(Serialize)]
struct Drive {
    drive_id: String,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
    cache_type: &'static str,
}

#[derive(Serialize)]
struct NetworkInterface<'a> {
    iface_id: &'static str,
    guest_mac: String,
    host_dev_name: &'a str,
    #[serde(skip_serializing_if = "RateLimiter::is_none")]
    rx_rate_limiter: RateLimiter,
    #[serde(skip_serializing_if = "RateLimiter::is_none")]
    tx_rate_limiter: RateLimiter,
}

/// What is not there stays as it is.
#[derive(Serialize)]
struct PartialNetworkInterface {
    iface_id: &'static str,
    rx_rate_limiter: RateLimiter,
    tx_rate_limiter: RateLimiter,
}

#[derive(Serialize)]
struct RateLimiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<TokenBucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<TokenBucket>,
}

/// So many tokens at most, which come back in so many milliseconds.
#[derive(Serialize)]
struct TokenBucket {
    size: u64,
    refill_time: u64,
}

/// The rest stays as it is; its size is read anew.
#[derive(Serialize)]
struct PartialDrive {
    drive_id: String,
    path_on_host: String,
}

#[derive(Serialize)]
struct Vsock {
    guest_cid: u32,
    uds_path: &'static str,
}

#[derive(Serialize)]
struct Balloon {
    amount_mib: u32,
    deflate_on_oom: bool,
    stats_polling_interval_s: u32,
}

#[derive(Serialize)]
struct Entropy {}

#[derive(Serialize)]
struct Action {
    action_type: &'static str,
}

#[derive(Serialize)]
struct Vm {
    state: &'static str,
}

#[derive(Serialize)]
struct SnapshotCreate<'a> {
    snapshot_type: &'static str,
    snapshot_path: &'a Path,
    mem_file_path: &'a Path,
}

#[derive(Serialize)]
struct SnapshotLoad<'a> {
    snapshot_path: &'a Path,
    mem_backend: MemoryBackend<'a>,
    resume_vm: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_overrides: Vec<NetworkOverride<'a>>,
}

#[derive(Serialize)]
struct MemoryBackend<'a> {
    backend_type: &'static str,
    backend_path: &'a Path,
}

#[derive(Serialize)]
struct NetworkOverride<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
}

/// Where a state and a memory are, as Firecracker opens them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedPaths {
    pub(crate) state: PathBuf,
    pub(crate) memory: PathBuf,
}

/// All that comes before the card.
pub(crate) fn machine(config: &MachineConfig, owner: &str, places: &BootPlaces) -> Vec<Request> {
    let mut all = vec![
        put(
            "/machine-config",
            &Machine { vcpu_count: config.vcpus.get(), mem_size_mib: config.memory.whole_mib() },
        ),
        put(
            "/boot-source",
            &BootSource {
                kernel_image_path: &places.kernel,
                initrd_path: places.initramfs.as_deref(),
                boot_args: cmdline(&config.disks, owner),
            },
        ),
    ];
    for disk in &config.disks {
        let drive_id = places::disk(&disk.serial);
        let drive = Drive {
            drive_id: drive_id.clone(),
            path_on_host: drive_id.clone(),
            is_root_device: false,
            is_read_only: disk.read_only,
            // What the guest has flushed is on the host's disk.
            cache_type: if disk.read_only { "Unsafe" } else { "Writeback" },
        };
        all.push(put(&format!("/drives/{drive_id}"), &drive));
    }
    all.push(put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: places::VSOCK }));
    // Empty, and there for whoever wants memory back.
    let balloon = Balloon { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 0 };
    all.push(put("/balloon", &balloon));
    all.push(put("/entropy", &Entropy {}));
    all
}

impl TokenBucket {
    /// docs/api_requests/patch-network-interface.md in Firecracker, "Removing
    /// Rate Limiting".
    const NONE: Self = Self { size: 0, refill_time: 0 };

    /// At the very rate, for which the burst is rounded up.
    fn of(bucket: Bucket) -> Self {
        let Bucket { per_second, burst } = bucket;
        let (rate, burst) = (u128::from(per_second.max(1)), u128::from(burst.max(1)));
        let refill_time = (burst * 1000).div_ceil(rate);
        let size = (rate * refill_time / 1000).max(1);
        let most = |number| u64::try_from(number).unwrap_or(u64::MAX);
        Self { size: most(size), refill_time: most(refill_time) }
    }
}

impl RateLimiter {
    fn of(flow: Flow) -> Self {
        Self { bandwidth: flow.bytes.map(TokenBucket::of), ops: flow.packets.map(TokenBucket::of) }
    }

    /// With those that are to go.
    fn whole(flow: Flow) -> Self {
        let Self { bandwidth, ops } = Self::of(flow);
        Self {
            bandwidth: bandwidth.or(Some(TokenBucket::NONE)),
            ops: ops.or(Some(TokenBucket::NONE)),
        }
    }

    fn is_none(&self) -> bool {
        self.bandwidth.is_none() && self.ops.is_none()
    }
}

pub(crate) fn card(mac: [u8; 6], tap: &str, limits: &CardLimits) -> Request {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let guest_mac = mac.join(":");
    let interface = NetworkInterface {
        iface_id: CARD,
        guest_mac,
        host_dev_name: tap,
        rx_rate_limiter: RateLimiter::of(limits.to_guest),
        tx_rate_limiter: RateLimiter::of(limits.from_guest),
    };
    put("/network-interfaces/eth0", &interface)
}

/// Of a machine that has been started: these limits, and no others.
pub(crate) fn limit_card(limits: &CardLimits) -> Request {
    let interface = PartialNetworkInterface {
        iface_id: CARD,
        rx_rate_limiter: RateLimiter::whole(limits.to_guest),
        tx_rate_limiter: RateLimiter::whole(limits.from_guest),
    };
    patch("/network-interfaces/eth0", &interface)
}

pub(crate) fn start() -> Request {
    put("/actions", &Action { action_type: "InstanceStart" })
}

pub(crate) fn pause() -> Request {
    patch("/vm", &Vm { state: "Paused" })
}

pub(crate) fn resume() -> Request {
    patch("/vm", &Vm { state: "Resumed" })
}

/// Of a paused machine. All of its memory, or what is in use of it.
pub(crate) fn save(sparse: bool, to: &SavedPaths) -> Request {
    let snapshot_type = if sparse { "Diff" } else { "Full" };
    let SavedPaths { state, memory } = to;
    put(
        "/snapshot/create",
        &SnapshotCreate { snapshot_type, snapshot_path: state, mem_file_path: memory },
    )
}

/// In place of all that a machine that boots is asked. Its guest stands still.
pub(crate) fn load(from: &SavedPaths, tap: Option<&str>) -> Request {
    let overridden = |host_dev_name| NetworkOverride { iface_id: CARD, host_dev_name };
    put(
        "/snapshot/load",
        &SnapshotLoad {
            snapshot_path: &from.state,
            mem_backend: MemoryBackend { backend_type: "File", backend_path: &from.memory },
            resume_vm: false,
            network_overrides: tap.map(overridden).into_iter().collect(),
        },
    )
}

/// Has it look at how large a disk is.
pub(crate) fn resize(serial: &str) -> Request {
    let drive_id = places::disk(serial);
    let path_on_host = drive_id.clone();
    patch(&format!("/drives/{drive_id}"), &PartialDrive { drive_id, path_on_host })
}

fn patch(path: &str, body: &impl Serialize) -> Request {
    Request { method: "PATCH", ..put(path, body) }
}

fn put(path: &str, body: &impl Serialize) -> Request {
    let body = serde_json::to_string(body).expect("plain fields");
    Request { method: "PUT", path: path.to_owned(), body }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
