//! A VM's disk grows.
//!
//! What a VM is made of never changes but for this one size, which is kept as
//! a fact of its own beside the spec ([`inn_store::VmRecord::grown_disk`]):
//! the spec stays what was asked for, and a record of an older agent needs no
//! rewriting. The size is stored first, then the file grows, then the machine
//! is told: an agent that dies in between finds the size at the next launch,
//! which completes the file.

use std::io;
use std::sync::atomic::Ordering;

use inn_domain::{CapacityDeniedReason, GrowDeniedReason, admit_growth};
use inn_fail_point::{Point, fail_point};
use inn_store::StoreError;
use inn_units::Bytes;
use inn_vmm::{Machine, Runtime};

use super::execute::grow_file;
use super::handle::VmHandle;
use crate::node::Node;

#[derive(Debug, thiserror::Error)]
pub(crate) enum GrowError {
    #[error(transparent)]
    Denied(#[from] GrowDeniedReason),
    #[error(transparent)]
    NoRoom(#[from] CapacityDeniedReason),
    #[error("the disk's size cannot be kept")]
    Store(#[from] StoreError),
    #[error("its disk cannot be made larger")]
    File(#[source] io::Error),
    /// The file has grown; the guest sees it at the VM's next start.
    #[error("its disk is larger, and its machine cannot be told; restart it to use that")]
    Machine(#[source] io::Error),
    #[error("its disk is larger, and its runtime tells no running guest; restart it to use that")]
    Untold,
}

impl VmHandle {
    /// Makes the VM's own disk as large as `size`, also while it runs. The
    /// guest's file system stays as it is: growing that is the guest's.
    pub(crate) async fn grow_disk(&self, node: &Node, size: Bytes) -> Result<(), GrowError> {
        let shared = &self.shared;
        let _order = shared.requests.lock().await;
        admit_growth(&self.view().desired, &node.limits, self.disk_size(), size)?;
        let _room = node.vms.room_to_grow(node, self, size)?;
        node.store.set_grown_disk(self.id(), size, self.durability()).await?;
        fail_point(Point::GrowStored);
        shared.disk_size.store(size.get(), Ordering::Relaxed);
        node.metering.begins(self.id(), self.account());
        let disk = shared.paths.disk();
        let grown = tokio::task::spawn_blocking(move || grow_file(&disk, size)).await;
        match grown.unwrap_or_else(|error| Err(io::Error::other(error))) {
            // It is made in this size.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            grown => grown.map_err(GrowError::File)?,
        }
        fail_point(Point::GrowFile);
        if let Some(machine) = self.machine() {
            let runtime = node.runtimes.named(&machine.identity().runtime).await;
            let tells = runtime.is_ok_and(|found| {
                found.is_some_and(|runtime| runtime.capabilities().resize_disks)
            });
            if !tells {
                return Err(GrowError::Untold);
            }
            machine.resize_disk(shared.disk_serial(), size).await.map_err(GrowError::Machine)?;
            fail_point(Point::GrowTold);
        }
        tracing::info!(vm = %shared.spec.name, %size, "its disk has grown");
        Ok(())
    }
}
