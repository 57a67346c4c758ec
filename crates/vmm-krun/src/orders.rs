//! What a helper is told, and the descriptors that go with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use inn_host::process::SpawnSpec;
use inn_vmm::kept::KeptLaunch;
use inn_vmm::{
    Boot, DiskSource, KernelBoot, LaunchError, MachineConfig, Nic, NicBackend, io_error,
};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::kernel_args::KERNEL_ARGS;
use crate::kind::NAME;
use crate::protocol::{CardOrder, Descriptors, DiskOrder, Orders, UserOrder, VERSION};

/// Binds the sockets, opens what the machine needs and writes it all down.
pub(crate) fn orders(
    config: &MachineConfig,
    launch: &KeptLaunch,
    console_log: OwnedFd,
    spec: &mut SpawnSpec,
) -> Result<Orders, LaunchError> {
    let Boot::Kernel(boot) = &config.boot else {
        return Err(LaunchError::Refused {
            runtime: NAME,
            asked: "to boot a disk by firmware".to_owned(),
            limit: "that to no machine: it boots kernels alone".to_owned(),
        });
    };
    let [control, console] = launch.listen(spec)?;
    let files = &launch.files;
    let run_dir = File::open(files.run_dir()).map_err(io_error("opening", files.run_dir()))?;
    let descriptors = Descriptors {
        run_dir: spec.inherit(run_dir.into()),
        control,
        console,
        console_log: spec.inherit(console_log),
    };
    let mut disks = Vec::new();
    for disk in &config.disks {
        let DiskSource::Raw(path) = &disk.source;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(!disk.read_only).open(path);
        let file = file.map_err(io_error("opening", path))?;
        let path = format!("/proc/self/fd/{}", spec.inherit(file.into()));
        disks.push(DiskOrder { path, read_only: disk.read_only, serial: disk.serial.clone() });
    }
    let card = match &config.nic {
        Some(nic) => Some(card(nic, spec)?),
        None => None,
    };
    let user = config.isolation.user.as_ref();
    Ok(Orders {
        version: VERSION,
        vm: config.id.to_string(),
        vcpus: config.vcpus.get(),
        memory_mib: u32::try_from(config.memory.whole_mib()).unwrap_or(u32::MAX),
        kernel: readable(&boot.kernel, spec)?,
        initramfs: match &boot.initramfs {
            Some(path) => Some(readable(path, spec)?),
            None => None,
        },
        cmdline: cmdline(boot),
        disks,
        card,
        user: user.map(|user| UserOrder { uid: user.uid, groups: user.groups.clone() }),
        descriptors,
    })
}

fn cmdline(boot: &KernelBoot) -> String {
    match boot.cmdline.trim() {
        "" => KERNEL_ARGS.to_owned(),
        more => format!("{KERNEL_ARGS} {more}"),
    }
}

fn card(nic: &Nic, spec: &mut SpawnSpec) -> Result<CardOrder, LaunchError> {
    let tap = match &nic.backend {
        NicBackend::Tap(tap) => {
            let tap = tap.descriptor();
            let tap = tap.map_err(io_error("duplicating", Path::new("the tap")))?;
            Some(spec.inherit(tap))
        }
        NicBackend::User | NicBackend::Nothing | NicBackend::Foreign(_) => None,
    };
    Ok(CardOrder { mac: nic.mac, tap })
}

/// libkrun opens it as the machine's user.
fn readable(path: &Path, spec: &mut SpawnSpec) -> Result<String, LaunchError> {
    let opened: PathBuf = spec.inherit_readable(path).map_err(io_error("opening", path))?;
    Ok(opened.display().to_string())
}

/// The orders in a file without a name, as a helper gets them: with a console
/// and a kernel's arguments there is nothing that another user should read.
pub(crate) fn written(orders: &Orders) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("orders", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(orders).map_err(io::Error::other)?)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_owner_says_of_the_kernel_comes_last() {
        let boot = |cmdline: &str| KernelBoot {
            kernel: "/vmlinux".into(),
            initramfs: None,
            cmdline: cmdline.to_owned(),
        };
        assert_eq!(cmdline(&boot(" ")), KERNEL_ARGS);
        assert!(cmdline(&boot("panic=5 x=y")).ends_with("inn.channel=vsock panic=5 x=y"));
        assert!(!KERNEL_ARGS.contains("  "));
    }
}
