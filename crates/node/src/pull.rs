//! Images from registries: `inn-registry` brings the documents and the bytes,
//! `inn-image` makes a disk of them.
//!
//! ```text
//!   reference ─resolve─▶ manifest, configuration ─▶ ImageStore::pull ─▶ record
//!                                                     ▲ its threads read
//!                                    layers ──────────┘ (RegistryLayers)
//! ```

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use inn_image::{ImageError, ImageRecord, LayerSource, PullRequest};
use inn_registry::{
    BlobStream, LayerDescriptor, Platform, Reference, RegistryError, Repository, Resolved,
};
use inn_units::ImageName;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::image_cache::with_room;
use crate::images::blocking;
use crate::node::Node;
use crate::operations::Operation;

/// Digits of a digest that stand in an image's name.
const DIGITS: usize = 12;

/// What to pull, and what it is called then.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) reference: Reference,
    pub(crate) name: ImageName,
    pub(crate) plain_http: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the pull was cancelled")]
    Cancelled,
}

/// What is unused in the cache makes room first, where there is too little;
/// what was removed to that end, in vain or not, is the second result.
pub(crate) async fn pull(
    node: &Arc<Node>,
    wanted: Wanted,
    operation: Arc<Operation>,
) -> (Result<ImageRecord, PullError>, Option<String>) {
    operation.step("resolving");
    let resolved = tokio::select! {
        resolved = resolve(node, &wanted) => resolved,
        // Nothing is kept of an image before it is known which it is.
        () = operation.until_cancelled() => return (Err(PullError::Cancelled), None),
    };
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return (Err(error), None),
    };
    // The disk is at least as large as its layers.
    let layers: u64 = resolved.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size.0));
    let needed = inn_units::Bytes(layers.saturating_mul(2));
    let cache = &node.config.paths.image_cache_dir;
    let (pulled, room) = with_room(node, cache, ("a pull", Some(needed)), || {
        let source = RegistryLayers {
            layers: resolved.layers.clone(),
            runtime: Handle::current(),
            from: Mutex::new(Asked {
                repository: resolved.repository.clone(),
                stopped: CancellationToken::new(),
            }),
            others: Arc::default(),
        };
        let request = PullRequest {
            name: wanted.name.clone(),
            what: wanted.reference.familiar(),
            manifest: resolved.manifest.to_vec(),
            config: resolved.config.to_vec(),
            source: Arc::new(source),
        };
        let (images, watch) = (node.images.clone(), Arc::clone(&operation));
        blocking("pull the image", move || images.pull(request, &*watch))
    })
    .await;
    let pulled = pulled.map_err(|error| match error {
        ImageError::Cancelled => PullError::Cancelled,
        error => error.into(),
    });
    (pulled, room)
}

async fn resolve(node: &Node, wanted: &Wanted) -> Result<Resolved, PullError> {
    let registries = node.config.live().registries.clone();
    let opened = tokio::task::spawn_blocking(move || registries.open()).await;
    let mut registry = opened.map_err(|error| ImageError::Io {
        step: "read the certificates and keys of",
        path: "registries".into(),
        source: io::Error::other(error),
    })??;
    if wanted.plain_http {
        registry = registry.with_plain_http(&wanted.reference);
    }
    Ok(registry.resolve(&wanted.reference, &Platform::host()).await?)
}

/// What an image of that reference is called, unless somebody says otherwise:
/// as people write it, with the digest, where it has one, in place of the tag.
pub(crate) fn name_of(reference: &Reference) -> Result<ImageName, inn_units::ParseError> {
    let familiar = reference.familiar();
    let Some((name, _)) = familiar.split_once('@') else { return familiar.parse() };
    let bare = match name.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => name,
    };
    let hex = reference.digest().map(|digest| digest.hex()).unwrap_or_default();
    format!("{bare}:sha256-{}", &hex[..hex.len().min(DIGITS)]).parse()
}

/// The same of a text, if it is a reference that has another one.
pub(crate) fn local_name(text: &str) -> Option<ImageName> {
    let name = name_of(&text.parse().ok()?).ok()?;
    (name.as_str() != text).then_some(name)
}

/// An image's layers, for threads that may block.
#[derive(Debug)]
struct RegistryLayers {
    layers: Vec<LayerDescriptor>,
    runtime: Handle,
    from: Mutex<Asked>,
    others: Arc<Mutex<HashMap<usize, Repository>>>,
}

/// Whom they are asked of, until that was wrong.
#[derive(Debug, Clone)]
struct Asked {
    repository: Repository,
    stopped: CancellationToken,
}

impl LayerSource for RegistryLayers {
    fn open(&self, layer: usize, from: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let Asked { repository, stopped } = lock(&self.from).clone();
        let stream = repository.blob(&self.layers[layer], from);
        let (runtime, others) = (self.runtime.clone(), Arc::clone(&self.others));
        Ok(Box::new(LayerReader { layer, stream, rest: Bytes::new(), runtime, stopped, others }))
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn elsewhere(&self, layer: usize) -> bool {
        let Some(repository) = lock(&self.others).remove(&layer) else { return false };
        *lock(&self.from) = Asked { repository, stopped: CancellationToken::new() };
        true
    }

    fn stop(&self) {
        lock(&self.from).stopped.cancel();
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment: a panic elsewhere spoils none.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

struct LayerReader {
    layer: usize,
    stream: BlobStream,
    /// What came and was not read yet.
    rest: Bytes,
    runtime: Handle,
    stopped: CancellationToken,
    /// Where each layer was not asked for yet.
    others: Arc<Mutex<HashMap<usize, Repository>>>,
}

impl Drop for LayerReader {
    fn drop(&mut self) {
        let mut others = lock(&self.others);
        match self.stream.elsewhere() {
            Some(other) => others.insert(self.layer, other),
            None => others.remove(&self.layer),
        };
    }
}

impl Read for LayerReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let (stream, stopped) = (&mut self.stream, &self.stopped);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    // May be dropped: it goes on where it was.
                    next = stream.next() => next,
                    // Cancel safe: it stays cancelled.
                    () = stopped.cancelled() => None,
                }
            });
            match next {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None if self.stopped.is_cancelled() => {
                    return Err(io::Error::other(ImageError::Cancelled));
                }
                None => return Ok(0),
            }
        }
        let n = self.rest.len().min(into.len());
        into[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_called_as_people_write_them() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (reference, name) in [
            ("debian", "debian:latest"),
            ("docker.io/library/debian:12", "debian:12"),
            ("team/app", "team/app:latest"),
            ("127.0.0.1:5000/team/app:1", "127.0.0.1:5000/team/app:1"),
            (&format!("debian@{digest}"), "debian:sha256-abababababab"),
            (&format!("r.example:5000/a/b:1@{digest}"), "r.example:5000/a/b:sha256-abababababab"),
        ] {
            assert_eq!(name_of(&reference.parse().unwrap()).unwrap().as_str(), name);
        }
        assert_eq!(local_name("debian:12"), None);
        assert_eq!(local_name("docker.io/debian:12").unwrap().as_str(), "debian:12");
        assert_eq!(local_name("../x"), None);
    }
}
