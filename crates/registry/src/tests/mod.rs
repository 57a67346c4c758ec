//! A registry that does what it is told to, however wrong.

mod auth;
mod blobs;
mod images;
mod real;
pub(crate) mod server;
mod signatures;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use inn_units::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::server::{Reply, Request, Server};
use crate::{
    FetchSettings, LayerDescriptor, Mirrors, PlainHttp, Platform, Registry, RegistryError,
    RegistrySettings, Resolved,
};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// Bytes that repeat nowhere nearby.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2]).collect()
}

/// What a registry holds, and how it departs from serving that.
#[derive(Default)]
pub(crate) struct Shelf {
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    pub(crate) fn blob(&mut self, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        self.blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    /// Under its digest, and under `tag`.
    pub(crate) fn manifest(&mut self, tag: &str, kind: &str, manifest: &Value) -> Digest {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = digest(&bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            self.manifests.insert(name, (kind.to_owned(), bytes.clone()));
        }
        digest
    }

    pub(crate) fn config(&mut self, architecture: &str, layers: usize) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": vec![digest(b"x").to_string(); layers] },
        });
        let bytes = serde_json::to_vec(&config).unwrap();
        let digest = self.blob(&bytes);
        json!({ "mediaType": OCI_CONFIG, "digest": digest.to_string(), "size": bytes.len() })
    }

    pub(crate) fn layer(&mut self, bytes: &[u8]) -> Value {
        let digest = self.blob(bytes);
        json!({ "mediaType": OCI_LAYER, "digest": digest.to_string(), "size": bytes.len() })
    }

    /// An image of one layer for this host.
    pub(crate) fn image(&mut self, tag: &str, layer: &[u8]) -> Digest {
        let config = self.config(&Platform::host().architecture, 1);
        let layer = self.layer(layer);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer],
        });
        self.manifest(tag, OCI_MANIFEST, &manifest)
    }

    /// As a registry of good faith answers.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let name = request.path().rsplit('/').next().unwrap_or_default().to_owned();
        if request.path().contains("/manifests/") {
            let Some((kind, bytes)) = self.manifests.get(&name) else {
                return Reply::status(404).body(
                    json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "manifest unknown" }] })
                        .to_string(),
                );
            };
            return Reply::ok(bytes)
                .header("Content-Type", kind)
                .header("Docker-Content-Digest", &digest(bytes).to_string());
        }
        match self.blobs.get(&name) {
            Some(bytes) => Reply::part(request, bytes),
            None => Reply::status(404),
        }
    }
}

/// A server that answers from a shelf unless `depart` has another answer.
pub(crate) async fn registry(
    shelf: Shelf,
    depart: impl Fn(&Request, &Shelf) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| depart(request, &shelf).unwrap_or_else(|| shelf.answer(request)))
        .await
}

/// Gives up soon, so that tests are not slow; who stalls is waited for longer
/// than any host is busy.
pub(crate) fn impatient() -> FetchSettings {
    FetchSettings {
        tries: 4,
        plain_http: PlainHttp::new(["127.0.0.1"]),
        ..FetchSettings::default()
    }
}

pub(crate) fn settings() -> RegistrySettings {
    RegistrySettings { fetch: impatient(), ..RegistrySettings::default() }
}

pub(crate) fn client(settings: RegistrySettings) -> Registry {
    Registry::new(settings).unwrap()
}

pub(crate) fn mirrored(mirrors: &str) -> RegistrySettings {
    RegistrySettings { mirrors: Mirrors::parse(mirrors).unwrap(), ..settings() }
}

pub(crate) async fn resolve(server: &Server, name: &str) -> Result<Resolved, RegistryError> {
    let reference = format!("{}/{name}", server.host()).parse().unwrap();
    client(settings()).resolve(&reference, &Platform::host()).await
}

pub(crate) async fn pull(
    resolved: &Resolved,
    layer: &LayerDescriptor,
) -> Result<Vec<u8>, RegistryError> {
    let mut blob = resolved.repository.blob(layer, 0);
    let mut all = Vec::new();
    while let Some(bytes) = blob.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// Counts, for servers that change their mind.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<Mutex<u32>>);

impl Count {
    /// 1 at the first call.
    pub(crate) fn next(&self) -> u32 {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        *count
    }
}
