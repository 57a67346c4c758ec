//! Machines whose PID 1 is the real guest agent. Needs QEMU, mkfs.ext4, a Debian
//! kernel beside its modules in INN_TEST_KERNEL, and the static inn-guest that
//! building the `inn` binary makes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{Program, run_blocking};
use inn_image::initramfs::ModuleSet;
use inn_image::kernel::{GuestBinary, KernelStore};
use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, KernelBoot, LaunchError, Lifetime,
    MachineConfig, Runtime,
};
use inn_vmm_qemu::{MachineType, QemuRuntime};

/// Far beyond an emulated boot on a loaded host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// QEMU, with a log writer of its own program: a test's own is none.
fn discover() -> Result<QemuRuntime, LaunchError> {
    let writer = env!("CARGO_BIN_EXE_inn-log-writer");
    Ok(QemuRuntime::discover()?.with_log_writer(writer.into()))
}

pub(crate) struct Guests {
    pub(crate) runtime: QemuRuntime,
    kernel: PathBuf,
    guest: Vec<u8>,
    pub(crate) channel: ChannelKind,
}

impl Guests {
    /// Says aloud why a test cannot run here.
    pub(crate) fn for_test(name: &str, channel: ChannelKind) -> Option<Self> {
        let skip = |why: String| println!("SKIPPED {name}: {why}");
        let Some(kernel) = std::env::var_os("INN_TEST_KERNEL") else {
            skip("INN_TEST_KERNEL names no kernel".to_owned());
            return None;
        };
        let Some(guest) = guest_binary() else {
            skip("INN_TEST_GUEST names no static inn-guest, and package inn made none".to_owned());
            return None;
        };
        let guest = std::fs::read(guest).unwrap();
        let mut runtime = match discover() {
            Ok(runtime) => runtime,
            Err(error @ LaunchError::MissingProgram { .. }) => {
                skip(error.to_string());
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        if let Some(bridge) = std::env::var_os("INN_TEST_VHOST_DEVICE_VSOCK") {
            runtime = runtime.with_vsock_bridge(bridge.into());
        }
        if !runtime.capabilities().channels.contains(&channel) {
            skip(Program::VHOST_DEVICE_VSOCK.find().unwrap_err().to_string());
            return None;
        }
        Some(Self { runtime, kernel: kernel.into(), guest, channel })
    }

    pub(crate) fn config(&self, dir: &Path, initramfs: PathBuf) -> MachineConfig {
        let boot = KernelBoot {
            kernel: self.kernel.clone(),
            initramfs: Some(initramfs),
            // What the kernel says of its disks is the proof of their growth.
            cmdline: "loglevel=7".to_owned(),
        };
        MachineConfig {
            id: VmId::from_bytes([3; 5]),
            vcpus: Vcpus::ONE,
            memory: Bytes::mib(128),
            accel: Accel::Tcg,
            boot: Boot::Kernel(boot),
            from: None,
            disks: vec![disk(dir, "inn-root", true), disk(dir, "inn-rw", false)],
            nic: None,
            screen: false,
            generation_id: false,
            reboots_within: true,
            console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
            channel: self.channel,
            run_dir: dir.join("run"),
            lifetime: Lifetime::Detached,
            isolation: inn_vmm::Isolation::default(),
        }
    }

    /// The real agent as PID 1.
    pub(crate) fn agent(&self, dir: &Path) -> MachineConfig {
        let kernels = KernelStore::open(&dir.join("kernels")).unwrap();
        let kernel = kernels.resolve(Some(&self.kernel), dir).unwrap();
        let set = match self.runtime.machine_type() {
            MachineType::Microvm => ModuleSet::Mmio,
            MachineType::Q35 => ModuleSet::Pci,
        };
        let initramfs = kernels.initramfs(&kernel, GuestBinary::new(&self.guest), set).unwrap();
        self.config(dir, initramfs)
    }
}

/// An empty file system: the agent makes of it what it needs.
fn disk(dir: &Path, serial: &str, read_only: bool) -> Disk {
    let path = dir.join(serial);
    File::create(&path).unwrap().set_len(16 << 20).unwrap();
    let args = ["-q", "-F", "-O", "^has_journal", path.to_str().unwrap()];
    run_blocking(Program::MKFS_EXT4, args, PATIENCE).unwrap();
    Disk { source: DiskSource::Raw(path), read_only, serial: serial.to_owned() }
}

/// INN_TEST_GUEST, or where the build script of the package inn makes it.
fn guest_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("INN_TEST_GUEST") {
        return Some(path.into());
    }
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .map(|dir| dir.join("guest-build/x86_64-unknown-linux-gnu/guest/inn-guest"))
        .find(|path| path.exists())
}
