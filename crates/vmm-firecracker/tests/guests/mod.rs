//! Machines under the host's own KVM. Needs Firecracker, which INN_FIRECRACKER
//! names or PATH has, and in INN_TEST_GUEST_KERNEL a vmlinux with all built in, as
//! it is or as .xz; a file `bootargs` beside it has what it has to be told.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]
#![allow(dead_code, reason = "each of the tests has a part of it")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Subject, TinyEnd, tiny_initramfs};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot, Lifetime,
    MachineConfig, MachineEnd,
};
use inn_vmm_firecracker::FirecrackerRuntime;
use tempfile::TempDir;

/// Keeper, log writer and stand-in.
pub(crate) const OWN: &str = env!("CARGO_BIN_EXE_inn-test-firecracker");

pub(crate) struct Firecracker {
    pub(crate) runtime: FirecrackerRuntime,
    pub(crate) kernel: PathBuf,
    pub(crate) bootargs: String,
    pub(crate) isolation: Isolation,
    /// What was unpacked.
    pub(crate) _dir: TempDir,
}

impl Firecracker {
    /// Says aloud why a test cannot run here.
    pub(crate) async fn for_test(name: &str) -> Option<Self> {
        let skip = |why: &str| println!("SKIPPED {name}: {why}");
        let binary = std::env::var_os("INN_FIRECRACKER").map(PathBuf::from);
        let runtime = match FirecrackerRuntime::discover(binary).await {
            Ok(runtime) => runtime.with_own_program(OWN.into()),
            Err(error) => {
                skip(&format!("{error} (INN_FIRECRACKER names it)"));
                return None;
            }
        };
        let Some(kernel) = std::env::var_os("INN_TEST_GUEST_KERNEL") else {
            skip("INN_TEST_GUEST_KERNEL names no kernel");
            return None;
        };
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            skip(&format!("/dev/kvm cannot be opened: {error}"));
            return None;
        }
        println!("Firecracker {}", runtime.version());
        let dir = tempfile::tempdir().unwrap();
        let given = PathBuf::from(kernel);
        let bootargs = fs::read_to_string(given.with_file_name("bootargs")).unwrap_or_default();
        let kernel = match given.extension().is_some_and(|extension| extension == "xz") {
            true => unpacked(&given, dir.path()),
            false => given,
        };
        let bootargs = bootargs.trim().to_owned();
        Some(Self { runtime, kernel, bootargs, isolation: Isolation::default(), _dir: dir })
    }

    pub(crate) fn config(&self, dir: &Path, initramfs: Option<PathBuf>) -> MachineConfig {
        let boot =
            KernelBoot { kernel: self.kernel.clone(), initramfs, cmdline: self.bootargs.clone() };
        MachineConfig { isolation: self.isolation.clone(), ..config(dir, boot) }
    }

    fn tiny(&self, dir: &Path, end: TinyEnd) -> MachineConfig {
        let initramfs = dir.join(format!("{end:?}.cpio"));
        fs::write(&initramfs, tiny_initramfs("bye\n", end)).unwrap();
        self.config(dir, Some(initramfs))
    }
}

pub(crate) fn config(dir: &Path, boot: KernelBoot) -> MachineConfig {
    let disk = |name: &str, read_only| {
        let path = dir.join(name);
        if !path.exists() {
            File::create(&path).unwrap().set_len(1 << 20).unwrap();
        }
        Disk { source: DiskSource::Raw(path), read_only, serial: name.to_owned() }
    };
    MachineConfig {
        id: VmId::from_bytes([1; 5]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        accel: Accel::Kvm,
        boot: Boot::Kernel(boot),
        from: None,
        disks: vec![disk("inn-root", true), disk("inn-rw", false)],
        nic: None,
        screen: false,
        console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Vsock,
        run_dir: dir.join("run"),
        lifetime: Lifetime::Detached,
        isolation: Isolation::default(),
    }
}

impl Subject for Firecracker {
    type Runtime = FirecrackerRuntime;

    fn runtime(&self) -> &FirecrackerRuntime {
        &self.runtime
    }

    /// Nobody listens in these; the agent's own tests have guests that do.
    fn channel_answers(&self) -> bool {
        false
    }

    fn staying(&self, dir: &Path) -> MachineConfig {
        self.tiny(dir, TinyEnd::Never)
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        let mut ending = vec![(self.tiny(dir, TinyEnd::Reset), MachineEnd::Reset)];
        // A boot may take half a minute: how ends are told apart has nothing to
        // do with whose the process is.
        if self.isolation == Isolation::default() {
            // A kernel without a root panics, and resets a moment later.
            ending.push((self.config(dir, None), MachineEnd::Panicked));
        }
        ending
    }
}

fn unpacked(packed: &Path, dir: &Path) -> PathBuf {
    let kernel = dir.join("vmlinux");
    let mut from = liblzma::read::XzDecoder::new(File::open(packed).unwrap());
    io::copy(&mut from, &mut File::create(&kernel).unwrap()).unwrap();
    kernel
}
