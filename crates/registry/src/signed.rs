//! Looks for an image's signatures, where cosign puts them: under the tag
//! `sha256-<hex>.sig`, and among the referrers of its digest (distribution
//! specification 1.1, "Listing Referrers"), which registries without that
//! endpoint keep under the tag `sha256-<hex>`.

use inn_units::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::fetch::{FailureClass, FetchError};
use crate::manifest::LARGEST_DOCUMENT;
use crate::policy::PolicyDeniedReason;
use crate::resolve::Resolved;
use crate::signature::{PublicKey, Signed};
use crate::source::Source;

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// Whoever may push can pile them up: the rest is not looked at.
const MOST_SIGNATURES: usize = 64;
const TRIES: u32 = 3;

/// Refuses an image that none of `keys` has signed; without keys it is taken
/// as it is. A signature of the index is good for each of its images.
pub(crate) async fn check(resolved: &Resolved, keys: &[PublicKey]) -> Result<(), FetchError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut images = vec![resolved.digest, resolved.manifest_digest];
    images.dedup();
    let mut search = Search { keys, step: step(resolved), bad: None, failure: None };
    // A mirror may lack what its registry has.
    for source in resolved.repository.sources().iter() {
        for image in &images {
            if search.at(source, *image).await {
                return Ok(());
            }
        }
    }
    let reference = &resolved.repository.reference;
    Err(match (search.bad, search.failure) {
        (Some(why), _) => {
            PolicyDeniedReason::NotSignedBy { why: why.to_owned() }.into_error(reference)
        }
        (None, Some(failure)) => failure,
        (None, None) => {
            let names: Vec<&str> = keys.iter().map(PublicKey::name).collect();
            PolicyDeniedReason::Unsigned { keys: names.join(", ") }.into_error(reference)
        }
    })
}

fn step(resolved: &Resolved) -> String {
    format!("get the signatures of {}", resolved.repository.reference.familiar())
}

struct Search<'a> {
    keys: &'a [PublicKey],
    step: String,
    /// Why the last one that was found is no good.
    bad: Option<&'static str>,
    /// Why something could not be looked at.
    failure: Option<FetchError>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

impl Search<'_> {
    /// Whether a good signature of `image` is there.
    async fn at(&mut self, source: &Source, image: Digest) -> bool {
        let tag = format!("sha256-{}", image.hex());
        if let Some(manifest) =
            self.manifest(source, "manifests", &format!("{tag}.sig"), None).await
        {
            let simple =
                manifest.layers.into_iter().filter(|layer| layer.media_type == SIMPLE_SIGNING);
            for layer in simple.take(MOST_SIGNATURES) {
                let Some(signature) = layer.annotations.get(SIGNATURE).cloned() else { continue };
                let Some(payload) = self.blob(source, &layer).await else { continue };
                if self.is_good(&Signed::Simple { payload, signature }, image) {
                    return true;
                }
            }
        }
        let referrers = match self.manifest(source, "referrers", &image.to_string(), None).await {
            Some(index) => Some(index),
            None => self.manifest(source, "manifests", &tag, None).await,
        };
        let bundles = referrers.map(|index| index.manifests).unwrap_or_default();
        let bundles = bundles.into_iter().filter(|entry| entry.artifact_type.starts_with(BUNDLE));
        for entry in bundles.take(MOST_SIGNATURES) {
            let name = entry.digest.to_string();
            let manifest = self.manifest(source, "manifests", &name, Some(entry.digest)).await;
            for layer in manifest.into_iter().flat_map(|m| m.layers).take(1) {
                let Some(bundle) = self.blob(source, &layer).await else { continue };
                if self.is_good(&Signed::Bundle(bundle), image) {
                    return true;
                }
            }
        }
        false
    }

    fn is_good(&mut self, signed: &Signed, image: Digest) -> bool {
        match signed.signs(self.keys, image) {
            Ok(()) => true,
            Err(why) => {
                self.bad = Some(why);
                false
            }
        }
    }

    /// None where there is none, or none that makes sense.
    async fn manifest(
        &mut self,
        source: &Source,
        kind: &str,
        name: &str,
        digest: Option<Digest>,
    ) -> Option<Manifest> {
        let bytes = self.document(source, kind, name).await?;
        if digest.is_some_and(|digest| digest != sha256(&bytes)) {
            self.note(source, "a manifest of them is not the one that was asked for");
            return None;
        }
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Some(manifest),
            Err(_) => {
                self.note(source, "the manifest of them cannot be read");
                None
            }
        }
    }

    async fn blob(&mut self, source: &Source, layer: &Descriptor) -> Option<Vec<u8>> {
        if layer.size > LARGEST_DOCUMENT {
            self.note(source, "one of them is too large");
            return None;
        }
        let bytes = self.document(source, "blobs", &layer.digest.to_string()).await?;
        if sha256(&bytes) != layer.digest {
            self.note(source, "one of them is not what was asked for");
            return None;
        }
        Some(bytes.to_vec())
    }

    async fn document(&mut self, source: &Source, kind: &str, name: &str) -> Option<bytes::Bytes> {
        match source.document(&self.step, kind, name, TRIES).await {
            Ok(fetched) => Some(fetched.bytes),
            Err(error) if error.class == FailureClass::NotFound => None,
            // Registries without the endpoint answer what they like there.
            Err(error) if kind == "referrers" && !error.transient => None,
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    fn note(&mut self, source: &Source, what: &str) {
        let host = source.place.registry.clone();
        self.failure = Some(FetchError::new(self.step.clone(), host, FailureClass::Broken, what));
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}
