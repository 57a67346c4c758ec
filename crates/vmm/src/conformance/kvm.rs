//! Guests under the host's own KVM, for VMMs that have nothing else: with the kernel
//! that INN_TEST_GUEST_KERNEL names, a vmlinux with all built in, as it is or as
//! .xz; a file `bootargs` beside it has what it has to be told.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use inn_units::{Bytes, Vcpus, VmId};
use tempfile::TempDir;

use super::{TinyEnd, tiny_initramfs};
use crate::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot, Lifetime,
    MachineConfig, MachineEnd,
};

const KERNEL: &str = "INN_TEST_GUEST_KERNEL";

/// What such a guest boots.
#[derive(Debug)]
pub struct KvmGuest {
    kernel: PathBuf,
    bootargs: String,
    /// What was unpacked.
    _dir: TempDir,
}

impl KvmGuest {
    /// Or why there can be none here.
    pub fn find() -> Result<Self, String> {
        let given = std::env::var_os(KERNEL).ok_or_else(|| format!("{KERNEL} names no kernel"))?;
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        kvm.map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let given = PathBuf::from(given);
        let bootargs = fs::read_to_string(given.with_file_name("bootargs")).unwrap_or_default();
        let kernel = match given.extension().is_some_and(|extension| extension == "xz") {
            true => unpacked(&given, dir.path()).expect("the kernel is unpacked"),
            false => given,
        };
        Ok(Self { kernel, bootargs: bootargs.trim().to_owned(), _dir: dir })
    }

    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// A machine with it, whose files are below `dir`.
    pub fn config(&self, dir: &Path, initramfs: Option<PathBuf>) -> MachineConfig {
        let (kernel, cmdline) = (self.kernel.clone(), self.bootargs.clone());
        kvm_config(dir, KernelBoot { kernel, initramfs, cmdline })
    }

    /// As [`super::Subject::staying`].
    pub fn staying(&self, dir: &Path) -> MachineConfig {
        self.tiny(dir, TinyEnd::Never)
    }

    /// As [`super::Subject::ending`].
    pub fn ending(&self, dir: &Path, isolation: &Isolation) -> Vec<(MachineConfig, MachineEnd)> {
        let mut ending = vec![(self.tiny(dir, TinyEnd::Reset), MachineEnd::Reset)];
        // A boot may take half a minute: how ends are told apart has nothing to
        // do with whose the process is.
        if *isolation == Isolation::default() {
            // A kernel without a root panics, and resets a moment later.
            ending.push((self.config(dir, None), MachineEnd::Panicked));
        }
        ending
    }

    fn tiny(&self, dir: &Path, end: TinyEnd) -> MachineConfig {
        let initramfs = dir.join(format!("{end:?}.cpio"));
        fs::write(&initramfs, tiny_initramfs("bye\n", end)).expect("an initramfs");
        self.config(dir, Some(initramfs))
    }
}

/// Two small disks and a vsock, kept below `dir`.
pub fn kvm_config(dir: &Path, boot: KernelBoot) -> MachineConfig {
    let disk = |name: &str, read_only| {
        let path = dir.join(name);
        if !path.exists() {
            File::create(&path).and_then(|disk| disk.set_len(1 << 20)).expect("a disk");
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
        generation_id: false,
        reboots_within: true,
        console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Vsock,
        run_dir: dir.join("run"),
        lifetime: Lifetime::Detached,
        isolation: Isolation::default(),
    }
}

fn unpacked(packed: &Path, dir: &Path) -> io::Result<PathBuf> {
    let kernel = dir.join("vmlinux");
    let mut from = liblzma::read::XzDecoder::new(File::open(packed)?);
    io::copy(&mut from, &mut File::create(&kernel)?)?;
    Ok(kernel)
}
