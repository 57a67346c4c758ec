//! What a crash of the host has taken along.
//!
//! A VM's fresh disk is not synced: a start would wait for that. What a guest
//! has synced since is on the disk, and with it all that lies below. So a disk
//! that is found empty after a crash has never held what anybody was promised,
//! and is made again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use inn_domain::VmSpec;
use inn_host::process::host_boot_id;
use inn_store::{ObservedRecord, StoreError, VmRecord};

use crate::node::Node;

/// The boot of the host that an agent last ran in.
const HOST_BOOT: &str = "host_boot";

/// Has disks made again that a crash of the host has left empty. Only once
/// after each boot of the host.
pub(super) async fn find_lost_disks(
    node: &Node,
    mut stored: Vec<(VmRecord, ObservedRecord)>,
) -> Result<Vec<(VmRecord, ObservedRecord)>, StoreError> {
    let Ok(boot) = host_boot_id() else { return Ok(stored) };
    if node.store.node_value(HOST_BOOT).await?.as_deref() == Some(boot) {
        return Ok(stored);
    }
    let paths = node.config.paths.clone();
    let looked = tokio::task::spawn_blocking(move || {
        for (record, observed) in &mut stored {
            let disk = paths.of_vm(record.id).disk();
            if observed.observed.disks && is_lost(&disk, &record.spec) {
                tracing::warn!(
                    vm = %record.spec.name, disk = %disk.display(),
                    "a crash of the host has left it empty: it is made again"
                );
                observed.observed.disks = false;
            }
        }
        stored
    });
    // It fails by a panic alone, which the log has.
    let stored = match looked.await {
        Ok(stored) => stored,
        Err(_) => node.store.vms().await?,
    };
    node.store.set_node_value(HOST_BOOT, boot.to_owned()).await?;
    Ok(stored)
}

/// A disk that is gone altogether is another matter: its directory may be
/// mounted later.
fn is_lost(disk: &Path, spec: &VmSpec) -> bool {
    let Ok(file) = File::open(disk) else { return false };
    match file.metadata() {
        Ok(metadata) if metadata.len() == 0 => true,
        // A copy of an image is synced before it gets its name.
        Ok(_) if spec.is_full() => false,
        Ok(_) => lacks_superblock(&file).unwrap_or(false),
        Err(_) => false,
    }
}

/// Documentation/filesystems/ext4/super.rst: at 1,024, with its magic number
/// at 0x38. Where that was never written there are zeros.
fn lacks_superblock(file: &File) -> io::Result<bool> {
    let mut magic = [0; 2];
    file.read_exact_at(&mut magic, 1024 + 0x38)?;
    Ok(magic == [0, 0])
}
