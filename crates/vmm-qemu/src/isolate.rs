//! What a QEMU with a user of its own gets of the host's files: by
//! descriptor, since nothing of the agent's can be reached by its path.
//!
//! ```text
//!   disks, console's pipe  /dev/fdset/N        QEMU duplicates what we opened
//!   kernel, initramfs      /proc/self/fd/N     opened again: readable by all, or a copy in memory
//!   trace's pipe           /proc/self/fd/N     opened again: the user's own
//! ```
//!
//! So nothing of the VM's files changes its owner, and a disk of another VM
//! is out of reach by name, by mode and for want of a descriptor.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_host::process::SpawnSpec;
use inn_vmm::{Boot, DiskSource, LaunchError, MachineConfig, io_error};

/// Makes the run directory its VMM's: the sockets in it stay the agent's.
pub(crate) fn give_run_dir(config: &MachineConfig) -> Result<(), LaunchError> {
    let Some(user) = &config.isolation.user else { return Ok(()) };
    let dir = &config.run_dir;
    chown(dir, Some(user.uid), Some(user.uid)).map_err(io_error("giving away", dir))?;
    fail_point(Point::JailGiven);
    Ok(())
}

/// The same machine with descriptors in place of paths: its console's pipe,
/// and all else where its VMM has a user of its own; and what QEMU has to be
/// told of them first.
pub(crate) fn by_descriptors(
    config: &MachineConfig,
    console: File,
    spec: &mut SpawnSpec,
) -> Result<(MachineConfig, Vec<String>), LaunchError> {
    let mut config = config.clone();
    let mut sets = Sets { spec, args: Vec::new() };
    config.console.log = sets.hold(console);
    if config.isolation.user.is_none() {
        return Ok((config, sets.args));
    }
    for disk in &mut config.disks {
        let DiskSource::Raw(path) = &mut disk.source;
        let mut options = OpenOptions::new();
        options.read(true).write(!disk.read_only);
        *path = sets.add(&options, path)?;
    }
    let Sets { spec, args } = sets;
    if let (Boot::Kernel(boot), None) = (&mut config.boot, &config.from) {
        boot.kernel = readable(spec, &boot.kernel)?;
        if let Some(initramfs) = &mut boot.initramfs {
            *initramfs = readable(spec, initramfs)?;
        }
    }
    fail_point(Point::JailDescriptors);
    Ok((config, args))
}

/// QEMU's sets of descriptors, one of one file each
/// (qemu-options.hx, `-add-fd`).
struct Sets<'a> {
    spec: &'a mut SpawnSpec,
    args: Vec<String>,
}

impl Sets<'_> {
    fn add(&mut self, options: &OpenOptions, path: &Path) -> Result<PathBuf, LaunchError> {
        Ok(self.hold(options.open(path).map_err(io_error("opening", path))?))
    }

    fn hold(&mut self, file: File) -> PathBuf {
        let fd = self.spec.inherit(file.into());
        // Numbers as good as any: each descriptor has its own.
        self.args.extend(["-add-fd".to_owned(), format!("fd={fd},set={fd}")]);
        format!("/dev/fdset/{fd}").into()
    }
}

/// QEMU opens kernel and initramfs by name, more than once.
fn readable(spec: &mut SpawnSpec, path: &Path) -> Result<PathBuf, LaunchError> {
    spec.inherit_readable(path).map_err(io_error("opening", path))
}
