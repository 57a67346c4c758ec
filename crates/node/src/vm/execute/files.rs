//! The VM's files on the host: its disks are made, and all of it is removed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_domain::{DiskFormat, DiskPin, Removal};
use inn_fail_point::{Point, fail_point};
use inn_image::disk_image::{self, ImageFormat};
use inn_image::{ImageError, ImportProgress, ImportWatch};
use inn_units::Bytes;
use tokio_util::sync::CancellationToken;

use super::super::VmHandle;
use super::super::failure::{Failure, StepError};
use super::super::succeed::record_durability;
use super::super::task::VmTask;
use crate::image_cache::{make_room_for, with_room};
use crate::reconcile::sync_parent;

impl VmTask {
    pub(super) async fn make_disks(&self) -> Result<(), StepError> {
        let paths = &self.shared.paths;
        let logs = paths.logs();
        tokio::fs::create_dir_all(&logs).await.map_err(io_failure("make", &logs))?;
        fail_point(Point::DisksDirectory);
        if self.has_waiting_clone() {
            // It has brought its own.
            return Ok(());
        }
        let size = self.shared.disk_size();
        if let Some(held) = self.origin().await? {
            let (from, to) = (held.disk.clone(), paths.disk());
            let length = tokio::fs::metadata(&from).await.ok().map(|m| Bytes(m.blocks() * 512));
            make_room_for(&self.node, &to, "a VM's disk", length).await;
            crate::images::blocking("copy the disk", move || inn_image::copy_disk(&from, &to))
                .await?;
            fail_point(Point::DiskMade);
            if let Some(persist) = held.persist.clone() {
                self.copy_persist_disk(persist).await?;
            }
            return Ok(());
        }
        match self.shared.spec.disk_image() {
            None => self.make_disk(paths.disk(), size).await?,
            Some(image) => {
                // Copied whole, whatever it holds.
                let length = tokio::fs::metadata(&image.path).await.ok().map(|m| Bytes(m.len()));
                make_room_for(&self.node, &paths.disk(), "a VM's disk", length).await;
                self.copy_disk(image, size).await?;
            }
        }
        fail_point(Point::DiskMade);
        if self.shared.spec.persist {
            self.make_persist_disk().await?;
        }
        Ok(())
    }

    /// An empty disk. What is unused in the image cache makes room for it.
    async fn make_disk(&self, path: PathBuf, size: Bytes) -> Result<(), ImageError> {
        // It is sparse: it takes what its file system needs, and says if that
        // is too much.
        let made = with_room(&self.node, &path, ("a VM's disk", None), || {
            self.node.images.make_disk(path.clone(), size)
        });
        made.await.0
    }

    /// The VM's own copy of its disk image. A copy that nobody wants any more
    /// is given up and leaves nothing.
    async fn copy_disk(&self, image: &DiskPin, size: Bytes) -> Result<(), StepError> {
        let _turn = self.copy_turn().await?;
        let (image, target) = (image.clone(), self.shared.paths.disk());
        let given_up = CancellationToken::new();
        let watch = Cancelled(given_up.clone());
        let source = image.path.display().to_string();
        let copying = tokio::task::spawn_blocking(move || {
            let format = match image.format {
                DiskFormat::Raw => ImageFormat::Raw,
                DiskFormat::Qcow2 => ImageFormat::Qcow2,
            };
            if image.cached {
                // Its digest is that of what was fetched, and was looked at then.
                return disk_image::clone_to(&image.path, &target, size, &watch);
            }
            let digest = image.digest.as_ref();
            disk_image::copy_to(&image.path, format, digest, &target, size, &watch)
        });
        let mut copying = std::pin::pin!(copying);
        let copied = tokio::select! {
            // The copy is told to end, and awaited, so that nothing of it is
            // written after this step.
            copied = &mut copying => copied,
            () = self.superseded() => {
                given_up.cancel();
                copying.await
            }
        };
        if given_up.is_cancelled() {
            return Err(StepError::Superseded);
        }
        match copied {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => {
                let next = "put that right, then start the VM again";
                Err(Failure::new(format!("copying {source}: {error}"), next).into())
            }
        }
    }

    async fn make_persist_disk(&self) -> Result<(), StepError> {
        let disk = self.persist_disk();
        if tokio::fs::try_exists(&disk).await.map_err(io_failure("find", &disk))? {
            return Ok(());
        }
        let fresh = self.fresh_persist_disk().await?;
        self.make_disk(fresh.clone(), self.shared.spec.disk).await?;
        self.name_persist_disk(fresh, disk).await
    }

    /// What a saved machine had mounted there, for one that goes on from it: whatever
    /// an attempt before has left is another's.
    async fn copy_persist_disk(&self, from: PathBuf) -> Result<(), StepError> {
        let fresh = self.fresh_persist_disk().await?;
        let length = tokio::fs::metadata(&from).await.ok().map(|m| Bytes(m.blocks() * 512));
        make_room_for(&self.node, &fresh, "a VM's disk at /persist", length).await;
        let to = fresh.clone();
        crate::images::blocking("copy the disk", move || inn_image::copy_disk(&from, &to)).await?;
        self.name_persist_disk(fresh, self.persist_disk()).await
    }

    /// Under its own name only once it is whole.
    async fn fresh_persist_disk(&self) -> Result<PathBuf, StepError> {
        let dir = self.node.config.paths.persist();
        tokio::fs::create_dir_all(&dir).await.map_err(io_failure("make", &dir))?;
        Ok(dir.join(format!(".{}.new", self.shared.id)))
    }

    async fn name_persist_disk(&self, fresh: PathBuf, disk: PathBuf) -> Result<(), StepError> {
        fail_point(Point::PersistMade);
        // It outlives its VM, and what a crash of the host has emptied nobody
        // would make again.
        let (target, failed) = (disk.clone(), io_failure("make", &disk));
        let named = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&fresh)?.sync_all()?;
            std::fs::rename(&fresh, &target)?;
            sync_parent(&target)
        });
        named.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)?;
        fail_point(Point::PersistNamed);
        Ok(())
    }

    /// The disk is as large as the VM's record says: an agent may have died
    /// between the two.
    pub(super) async fn complete_disk(&self) -> Result<(), StepError> {
        let (disk, size) = (self.shared.paths.disk(), self.shared.disk_size());
        let grown = {
            let disk = disk.clone();
            tokio::task::spawn_blocking(move || grow_file(&disk, size)).await
        };
        match grown.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
                format!("its disk {} is gone", disk.display()),
                "put it back, from a backup or by a mount, then start the VM again",
            )
            .into()),
            grown => grown.map_err(io_failure("grow", &disk)),
        }
    }

    pub(super) async fn remove_files(&self, removal: Removal) -> Result<(), StepError> {
        // A launch that failed leaves its groups for the next one.
        self.leave_groups().await;
        let paths = self.shared.paths.clone();
        let keep = removal.keep_disk.then(|| {
            let name = format!("{}-{}.img", self.shared.spec.name, self.shared.id);
            (self.node.config.paths.kept(), name)
        });
        let purge =
            (removal.purge_persist && self.shared.spec.persist).then(|| self.persist_disk());
        // Whoever has run a command in a VM of its own does not wait until the
        // file system has found all that its disk had: names go at once, the
        // rest with the last descriptor, and with this process if that ends.
        let lingers = self.shared.spec.lease.then(|| std::fs::File::open(paths.disk()).ok());
        let removed = tokio::task::spawn_blocking(move || {
            if let Some((dir, name)) = keep
                && paths.disk().exists()
            {
                std::fs::create_dir_all(&dir).map_err(io_failure("make", &dir))?;
                let kept = dir.join(name);
                std::fs::rename(paths.disk(), &kept)
                    // Before the record goes: without it the disk is nobody's.
                    .and_then(|()| sync_parent(&kept))
                    .map_err(io_failure("set aside", &kept))?;
                tracing::info!(disk = %kept.display(), "kept the disk");
                fail_point(Point::DeleteKept);
            }
            for (dir, done) in
                [(&paths.run_dir, Point::DeleteRunDirectory), (&paths.dir, Point::DeleteDirectory)]
            {
                absent(std::fs::remove_dir_all(dir)).map_err(io_failure("remove", dir))?;
                fail_point(done);
            }
            if let Some(disk) = purge {
                absent(std::fs::remove_file(&disk)).map_err(io_failure("remove", &disk))?;
                fail_point(Point::DeletePurged);
            }
            Ok(())
        });
        let removed = removed.await.unwrap_or_else(|error| {
            Err(Failure::new(format!("removing its files: {error}"), "it is tried again").into())
        });
        // Nobody waits for it.
        drop(tokio::task::spawn_blocking(move || drop(lingers)));
        removed
    }

    pub(super) async fn forget(&self) -> Result<(), StepError> {
        let vm = VmHandle { shared: Arc::clone(&self.shared) };
        // Nobody promises it a successor, or withdraws one, meanwhile.
        let _order = self.shared.requests.lock().await;
        let successor = vm.successor();
        // What the new one's client was promised outlives the host.
        let durability = successor.as_deref().map_or(vm.durability(), record_durability);
        self.node
            .store
            .forget_vm(self.shared.id, durability)
            .await
            .map_err(|error| Failure::of(&error, "it is tried again"))?;
        self.node.networks.vm_is_gone(self.shared.id);
        if successor.is_some() {
            fail_point(Point::ReplaceCleared);
        }
        self.node.vmm_users.give_back(self.shared.id);
        fail_point(Point::DeleteForgotten);
        Ok(())
    }

    pub(in super::super) fn persist_disk(&self) -> PathBuf {
        self.node.config.paths.persist_disk(&self.shared.spec.name)
    }
}

/// Ends a copy from elsewhere.
struct Cancelled(CancellationToken);

impl ImportWatch for Cancelled {
    fn progress(&self, _: ImportProgress) {}

    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Makes a file at least so long. What is added takes no space until it is
/// written. Blocks.
pub(in super::super) fn grow_file(path: &Path, size: Bytes) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() < size.get() {
        file.set_len(size.get())?;
    }
    Ok(())
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

pub(super) fn io_failure(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StepError {
    let path = path.to_owned();
    move |error| Failure::of_file(what, &path, &error).into()
}
