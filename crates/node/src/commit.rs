//! An image of a VM's disk.
//!
//! ```text
//!   copy of the disk ─┬─ of an OCI image ─▶ layer-writer, jailed ─tar─▶ a layer ─▶ image
//!                     └─ of a disk image ─▶ hashed ─▶ disk image of the cache
//! ```
//! The copy is a file without a name that outlasts the operation: it lies in
//! the cache's directory of what is being made, which the next life empties.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use inn_host::process::{Confined, Exit, Jail, Spawner, User};
use inn_image::commit::{CommitRequest, CommittedLayer, LayerScope, LayerWriter, RunChange};
use inn_image::disk_image::checksum::Hasher;
use inn_image::disk_image::{DiskImageError, Fetched};
use inn_image::{Aside, ImageError, ImportWatch, RunConfig};
use inn_units::{Bytes, Digest, ImageName};

use crate::image_cache::with_room;
use crate::images::blocking;
use crate::node::Node;
use crate::operations::Operation;
use crate::vm::{CopyError, VmHandle};

/// The agent's own program, in a root directory that has nothing else.
const SELF: &str = "/proc/self/exe";

/// What is kept of what a layer writer says.
const SAID: u64 = 2048;

/// What the image is called, and how it runs.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: ImageName,
    pub(crate) change: RunChange,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("its disk cannot be copied")]
    Copy(#[from] CopyError),
    #[error("the image cannot be made")]
    Image(#[from] ImageError),
    #[error("the disk image cannot be made")]
    Disk(#[from] DiskImageError),
    #[error("{0}")]
    Unreadable(String),
    #[error("the process that reads the VM's disk cannot be started")]
    Process(#[source] std::io::Error),
    #[error("it was cancelled")]
    Cancelled,
}

/// Makes the image; its digest, and what was removed to make room.
pub(crate) async fn commit(
    node: &Arc<Node>,
    vm: &VmHandle,
    wanted: &Wanted,
    work: &Arc<Operation>,
) -> (Result<Digest, CommitError>, Option<String>) {
    let cache = node.config.paths.image_cache_dir.clone();
    let needed = allocated(&vm.paths().disk());
    with_room(node, &cache, ("an image of a VM's disk", needed), || async {
        let copy = node.images.store().aside()?;
        vm.copy_disk(copy.path()).await?;
        if work.cancelled() {
            return Err(CommitError::Cancelled);
        }
        match vm.spec().image() {
            Some(_) => of_image(node, vm, wanted, work, copy).await,
            None => of_disk(node, wanted, work, copy).await,
        }
    })
    .await
}

async fn of_image(
    node: &Arc<Node>,
    vm: &VmHandle,
    wanted: &Wanted,
    work: &Arc<Operation>,
    copy: Aside,
) -> Result<Digest, CommitError> {
    let pin = vm.spec().image().cloned().ok_or(CommitError::Cancelled)?;
    let store = node.images.store().clone();
    let manifest = pin.digest;
    let base = blocking("look for the layers", move || Ok(store.base(&manifest))).await?;
    let scope = if base.is_some() { LayerScope::Changes } else { LayerScope::Whole };
    let root = pin.root_disk.clone();
    let layer = layer(node, scope, (copy, &root)).await?;
    if work.cancelled() {
        return Err(CommitError::Cancelled);
    }
    let run = RunConfig {
        entrypoint: pin.run.entrypoint.clone(),
        cmd: pin.run.cmd.clone(),
        env: pin.run.env.clone(),
        working_dir: pin.run.working_dir.clone(),
        user: pin.run.user,
        ..RunConfig::default()
    };
    let Wanted { name, change } = wanted.clone();
    let request = CommitRequest { name, base: base.ok_or(run), change, layer };
    let (images, watch) = (node.images.clone(), Arc::clone(work));
    let made = blocking("make the image", move || images.commit(request, &*watch)).await;
    match made {
        Ok(record) => Ok(record.manifest),
        Err(ImageError::Cancelled) => Err(CommitError::Cancelled),
        Err(error) => Err(error.into()),
    }
}

/// Reads the guest's file system in a process that has nothing to lose.
async fn layer(
    node: &Arc<Node>,
    scope: LayerScope,
    (copy, root): (Aside, &Path),
) -> Result<CommittedLayer, CommitError> {
    let said = node.images.store().aside()?;
    let writer = LayerWriter {
        scope,
        writable: copy.open()?,
        root: File::open(root).map_err(CommitError::Process)?,
    };
    let confined = confined(node).await;
    let (spec, tar) =
        writer.spec(Path::new(SELF), said.open()?, confined).map_err(CommitError::Process)?;
    let spawner = Spawner::start().map_err(CommitError::Process)?;
    let process = spawner.spawn(spec).await.map_err(CommitError::Process)?;
    let store = node.images.store().clone();
    let mut tar: File = tar;
    let packed = blocking("pack the layer", move || store.pack_layer(&mut tar)).await;
    // Its pipe is closed, and it ends, or has ended.
    let exit = process.wait().await.map_err(CommitError::Process)?;
    drop(copy);
    match exit {
        Exit::Status(status) if status.success() => Ok(packed?),
        _ => {
            // Where the layer could not be kept, it was told so by its pipe.
            packed?;
            Err(CommitError::Unreadable(last_words(said.open()?)))
        }
    }
}

/// Nobody's rights, and nothing of the host, as far as the agent may give that.
async fn confined(node: &Arc<Node>) -> Confined {
    let uid = node.vmm_users.log_writers();
    let jail = match uid {
        Some(_) => tokio::task::spawn_blocking(|| Jail::make(&[])).await.ok(),
        None => None,
    };
    let jail = jail.and_then(|made| {
        made.inspect_err(|error| tracing::info!(%error, "a layer is read without a jail")).ok()
    });
    Confined {
        user: uid.map(|uid| User { uid, groups: Vec::new() }),
        jail: jail.map(Arc::new),
        no_new_privileges: true,
        ..Confined::default()
    }
}

/// One line, of what a process that reads hostile bytes has to say.
fn last_words(said: File) -> String {
    let mut text = Vec::new();
    let read = said.take(SAID).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    match read {
        Ok(_) if !text.is_empty() => text,
        _ => "the process that reads the VM's disk ended before it was done".to_owned(),
    }
}

/// The whole disk, as an image that full VMs are made from.
async fn of_disk(
    node: &Arc<Node>,
    wanted: &Wanted,
    work: &Arc<Operation>,
    copy: Aside,
) -> Result<Digest, CommitError> {
    let (store, watch) = (node.disk_images.store().clone(), Arc::clone(work));
    let url = format!("vm-commit:{}", wanted.name);
    let kept = tokio::task::spawn_blocking(move || -> Result<Digest, CommitError> {
        let mut hasher = Hasher::for_expected(None);
        let mut file = copy.open()?;
        let mut chunk = vec![0; 256 << 10];
        loop {
            if watch.cancelled() {
                return Err(CommitError::Cancelled);
            }
            match file.read(&mut chunk).map_err(CommitError::Process)? {
                0 => break,
                n => hasher.update(&chunk[..n]),
            }
        }
        let (digest, checksum) = hasher.finish();
        let fetched = Fetched { path: copy.path().to_owned(), url, digest, checksum };
        match store.keep(&fetched, &*watch) {
            Ok(disk) => Ok(disk.digest),
            Err(DiskImageError::Cancelled) => Err(CommitError::Cancelled),
            Err(error) => Err(error.into()),
        }
    });
    kept.await.unwrap_or_else(|error| Err(CommitError::Process(std::io::Error::other(error))))
}

/// What the copy takes, and the image as much again.
fn allocated(disk: &Path) -> Option<Bytes> {
    use std::os::unix::fs::MetadataExt;
    let blocks = std::fs::metadata(disk).ok()?.blocks();
    Some(Bytes(blocks.saturating_mul(512).saturating_mul(2)))
}
