//! What is asked of Firecracker, in its own words. Pure.
//!
//! All fields are of its OpenAPI file (`src/firecracker/swagger/firecracker.yaml`
//! there), and of 1.7's: of what came later only `network_overrides` is sent, to
//! versions that have it.

use std::path::{Path, PathBuf};

use inn_vmm::MachineConfig;
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

pub(crate) fn card(mac: [u8; 6], tap: &str) -> Request {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let guest_mac = mac.join(":");
    let interface = NetworkInterface { iface_id: CARD, guest_mac, host_dev_name: tap };
    put("/network-interfaces/eth0", &interface)
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
