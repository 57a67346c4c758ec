//! The initramfs of an OCI microVM: `inn-guest` as `/init`, the kernel modules
//! that the machine's devices need, and nothing else.
//!
//! ```text
//! /init                 inn-guest
//! /dev/console          5,1: PID 1's first output goes there
//! /dev /proc /sys /run  to mount on
//! /newroot              where the VM's root file system is put together
//! /modules/load         one module's file name per line, in the order to load
//! /modules/load-vsock   after those, where the agent's channel is a vsock
//! /modules/*.ko         unpacked
//! ```
//!
//! The archive is not compressed: an emulated CPU takes longer to unpack it
//! than the host to copy it. The same inputs give the same bytes.

mod cpio;
mod modules;
#[cfg(test)]
mod tests;

use std::path::Path;

use cpio::Archive;
pub use modules::ModuleSet;
use modules::Picked;

use crate::kernel::KernelError;

const DIRECTORIES: [&str; 6] = ["dev", "modules", "newroot", "proc", "run", "sys"];

/// Character device 5,1 (Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);

/// `modules` is a `lib/modules/VERSION`; `None` means that all is built in.
pub(crate) fn build(
    modules: Option<&Path>,
    guest: &[u8],
    set: ModuleSet,
) -> Result<Vec<u8>, KernelError> {
    let Picked { always, vsock } = match modules {
        Some(dir) => modules::pick(dir, set)?,
        None => Picked::default(),
    };
    let mut archive = Archive::default();
    for dir in DIRECTORIES {
        archive.directory(dir, 0o755);
    }
    archive.device("dev/console", 0o600, CONSOLE);
    archive.file("init", 0o755, guest);
    for (list, modules) in [("load", always), ("load-vsock", vsock)] {
        let mut load = String::new();
        for module in &modules {
            load.push_str(&format!("{}.ko\n", module.name));
            archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.bytes);
        }
        archive.file(&format!("modules/{list}"), 0o644, load.as_bytes());
    }
    Ok(archive.finish())
}
