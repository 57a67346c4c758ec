//! What is asked of Firecracker, in its own words. Pure.
//!
//! All fields are of its OpenAPI file (`src/firecracker/swagger/firecracker.yaml`
//! there), and of 1.7's: what came later is not sent.

use std::path::{Path, PathBuf};

use inn_vmm::MachineConfig;
use serde::Serialize;

use crate::kernel_args::cmdline;

/// Below it are the host and those that are reserved (vsock(7)).
const GUEST_CID: u32 = 3;

/// One request: method, path, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
}

/// Where a VMM finds what it is to open, each by its place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) vsock: PathBuf,
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
struct Drive<'a> {
    drive_id: String,
    path_on_host: &'a Path,
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

#[derive(Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a Path,
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

/// All that comes before the card.
pub(crate) fn machine(config: &MachineConfig, owner: &str, places: &Places) -> Vec<Request> {
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
    for (at, (disk, path)) in config.disks.iter().zip(&places.disks).enumerate() {
        let drive_id = format!("disk{at}");
        let drive = Drive {
            drive_id: drive_id.clone(),
            path_on_host: path,
            is_root_device: false,
            is_read_only: disk.read_only,
            // What the guest has flushed is on the host's disk.
            cache_type: if disk.read_only { "Unsafe" } else { "Writeback" },
        };
        all.push(put(&format!("/drives/{drive_id}"), &drive));
    }
    all.push(put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: &places.vsock }));
    // Empty, and there for whoever wants memory back.
    let balloon = Balloon { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 0 };
    all.push(put("/balloon", &balloon));
    all.push(put("/entropy", &Entropy {}));
    all
}

pub(crate) fn card(mac: [u8; 6], tap: &str) -> Request {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let guest_mac = mac.join(":");
    let interface = NetworkInterface { iface_id: "eth0", guest_mac, host_dev_name: tap };
    put("/network-interfaces/eth0", &interface)
}

pub(crate) fn start() -> Request {
    put("/actions", &Action { action_type: "InstanceStart" })
}

pub(crate) fn pause() -> Request {
    Request { method: "PATCH", ..put("/vm", &Vm { state: "Paused" }) }
}

pub(crate) fn resume() -> Request {
    Request { method: "PATCH", ..put("/vm", &Vm { state: "Resumed" }) }
}

fn put(path: &str, body: &impl Serialize) -> Request {
    let body = serde_json::to_string(body).expect("plain fields");
    Request { method: "PUT", path: path.to_owned(), body }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
