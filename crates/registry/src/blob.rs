use futures_util::{Stream, stream};
use inn_units::Digest;
use reqwest::header::HeaderMap;
use sha2::{Digest as _, Sha256};

use bytes::Bytes;

use crate::RegistryError;
use crate::fetch::{FailureClass, FetchError, Opener, Reaction, Response, Start, Transfer};
use crate::manifest::LayerDescriptor;
use crate::registry::Repository;

/// How often one of several places may fail before the next is asked.
const TRIES_PER_PLACE: u32 = 2;

/// A layer as it comes: all of its bytes from where it was asked for, in order,
/// over as many requests and places as that takes; or one error, which is the
/// last item.
#[derive(Debug)]
pub struct BlobStream {
    transfer: Transfer<FromPlaces>,
    offset: u64,
}

impl BlobStream {
    pub(crate) fn new(repository: &Repository, layer: &LayerDescriptor, from: u64) -> Self {
        let opener = FromPlaces {
            repository: repository.clone(),
            digest: layer.digest,
            step: format!("get the layer {}", layer.digest.short()),
            place: 0,
            failed_here: 0,
            last_host: None,
        };
        let start = Start { offset: from, validator: None, total: Some(layer.size.0) };
        let settings = std::sync::Arc::clone(&repository.fetch);
        Self { transfer: Transfer::new(opener, start, settings), offset: from }
    }

    /// The next bytes; none behind the last. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Bytes, RegistryError>> {
        let next = self.transfer.next().await;
        if let Some(Ok(bytes)) = &next {
            self.offset += bytes.len() as u64;
        }
        next
    }

    /// Where the next byte stands in the blob.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Who sent the last of it.
    pub fn host(&self) -> &str {
        self.transfer.opener().last_host.as_deref().unwrap_or_default()
    }

    /// The places that have not been asked for it yet, to have it from there
    /// when what came was something else; none when there is no other.
    pub fn elsewhere(&self) -> Option<Repository> {
        let opener = self.transfer.opener();
        opener.repository.without_first(opener.place + 1)
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send {
        stream::unfold(self, |mut blob| async move { Some((blob.next().await?, blob)) })
    }
}

/// Asks the mirrors and then the registry, and stays with one that answers.
#[derive(Debug)]
struct FromPlaces {
    repository: Repository,
    digest: Digest,
    step: String,
    place: usize,
    failed_here: u32,
    last_host: Option<String>,
}

impl Opener for FromPlaces {
    async fn open(&mut self, headers: HeaderMap) -> Result<Response, FetchError> {
        let source = &self.repository.sources()[self.place];
        let response = source.get(&self.step, "blobs", &self.digest.to_string(), headers).await?;
        self.last_host = Some(response.host.clone());
        Ok(response)
    }

    fn describe(&self) -> (String, String) {
        let place = &self.repository.sources()[self.place].place;
        let host = self.last_host.clone().unwrap_or_else(|| place.registry.clone());
        (self.step.clone(), host)
    }

    fn react(&mut self, error: &FetchError) -> Reaction {
        let last = self.place + 1 == self.repository.sources().len();
        self.failed_here += 1;
        if error.transient && (last || self.failed_here < TRIES_PER_PLACE) {
            return Reaction::Wait;
        }
        if last {
            return Reaction::Stop;
        }
        tracing::info!(%error, "a mirror failed, the next place is asked");
        self.place += 1;
        self.failed_here = 0;
        Reaction::Now
    }

    /// Its digest names the content: it is the same everywhere.
    fn has_versions(&self) -> bool {
        false
    }
}

/// Holds a layer's bytes against its descriptor, as they pass by.
#[derive(Debug, Clone)]
pub struct Verifier {
    layer: LayerDescriptor,
    hasher: Sha256,
    seen: u64,
}

impl Verifier {
    pub fn new(layer: &LayerDescriptor) -> Self {
        Self { layer: layer.clone(), hasher: Sha256::new(), seen: 0 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.seen += bytes.len() as u64;
    }

    /// Whether that was the layer; `host` is whom the error accuses.
    pub fn finish(self, host: &str) -> Result<(), RegistryError> {
        let digest = &self.layer.digest;
        let got = Digest::from_sha256(self.hasher.finalize().into());
        let what = if self.seen != self.layer.size.0 {
            format!("it sent {} bytes of {}", self.seen, self.layer.size.0)
        } else if got != *digest {
            format!("it sent {} in its place: the content is damaged, or was changed", got.short())
        } else {
            return Ok(());
        };
        let step = format!("get the layer {}", digest.short());
        Err(FetchError::new(step, host, FailureClass::Broken, what))
    }
}
