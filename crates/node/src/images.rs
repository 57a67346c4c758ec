//! The node's images: the store of `inn-image`, asked where blocking is allowed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inn_domain::{ImagePin, RunDefaults};
use inn_image::commit::CommitRequest;
use inn_image::{ImageError, ImageRecord, ImageStore, ImportRequest, ImportWatch, PullRequest};
use inn_units::{Bytes, Digest, ImageName};

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    store: ImageStore,
    /// What `find` said, until an import or a deletion.
    found: Arc<Mutex<HashMap<String, ImageRecord>>>,
}

/// Names that are remembered: more than anybody uses at a time.
const REMEMBERED: usize = 256;

impl Images {
    pub(crate) fn new(store: ImageStore) -> Self {
        Self { store, found: Arc::default() }
    }

    pub(crate) async fn find(&self, name: &str) -> Result<Option<ImageRecord>, ImageError> {
        let known = self.found().get(name).cloned();
        if let Some(known) = known
            && self.store.renew(&known.manifest)?
        {
            return Ok(Some(known));
        }
        let (store, wanted) = (self.store.clone(), name.to_owned());
        let found = blocking("find the image", move || {
            let found = store.find(&wanted)?;
            // Whoever looks for it is about to use it.
            if let Some(record) = &found {
                store.renew(&record.manifest)?;
            }
            Ok(found)
        })
        .await?;
        if let Some(record) = &found {
            let mut remembered = self.found();
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(name.to_owned(), record.clone());
        }
        Ok(found)
    }

    /// The store itself, for whoever is where blocking is allowed.
    pub(crate) fn store(&self) -> &ImageStore {
        &self.store
    }

    /// Has all names looked for anew.
    pub(crate) fn forget_found(&self) {
        self.found().clear();
    }

    pub(crate) async fn list(&self) -> Result<Vec<ImageRecord>, ImageError> {
        let store = self.store.clone();
        blocking("list the images", move || store.list()).await
    }

    /// Blocks, for as long as the import takes.
    pub(crate) fn import(
        &self,
        request: &ImportRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let imported = self.store.import(request, watch);
        self.found().clear();
        imported
    }

    /// Blocks, for as long as the layers take to come.
    pub(crate) fn pull(
        &self,
        request: PullRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let pulled = self.store.pull(request, watch);
        self.found().clear();
        pulled
    }

    /// Blocks, for as long as the import takes.
    pub(crate) fn commit(
        &self,
        request: CommitRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let made = self.store.commit(request, watch);
        self.found().clear();
        made
    }

    pub(crate) async fn delete(
        &self,
        name: ImageName,
        in_use: Vec<Digest>,
    ) -> Result<(), ImageError> {
        let store = self.store.clone();
        let deleted = blocking("delete the image", move || store.delete(&name, &in_use)).await;
        self.found().clear();
        deleted
    }

    /// Removes what a crash has left in the cache; `in_use` are the images that
    /// VMs run from.
    pub(crate) async fn sweep(&self, in_use: Vec<Digest>) -> Result<(), ImageError> {
        let store = self.store.clone();
        blocking("sweep the image cache", move || store.sweep_after_crash(&in_use)).await
    }

    pub(crate) async fn make_disk(
        &self,
        path: std::path::PathBuf,
        size: Bytes,
    ) -> Result<(), ImageError> {
        let store = self.store.clone();
        blocking("make the disk", move || store.make_scratch_disk(&path, size)).await
    }

    fn found(&self) -> MutexGuard<'_, HashMap<String, ImageRecord>> {
        // Whole entries only: a panic elsewhere spoils none.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An image as a VM remembers it.
pub(crate) fn pin(name: &str, record: ImageRecord) -> ImagePin {
    ImagePin {
        name: name.to_owned(),
        digest: record.manifest,
        root_disk: record.root_disk,
        run: RunDefaults {
            entrypoint: record.config.entrypoint,
            cmd: record.config.cmd,
            env: record.config.env,
            working_dir: record.config.working_dir,
            user: record.config.user,
        },
    }
}

/// Does it where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    body: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(body).await.unwrap_or_else(|error| {
        Err(ImageError::Io {
            step,
            path: std::path::PathBuf::new(),
            source: std::io::Error::other(error),
        })
    })
}
