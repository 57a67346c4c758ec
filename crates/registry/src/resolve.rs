use bytes::Bytes;
use inn_units::Digest;
use sha2::{Digest as _, Sha256};

use crate::RegistryError;
use crate::fetch::{FailureClass, FetchError};
use crate::manifest::{self, DEEPEST_INDEX, Document, LayerDescriptor, Platform, Unusable};
use crate::registry::Repository;
use crate::source::{Fetched, Source};

/// Tries of a place while others remain.
const TRIES_OF_A_MIRROR: u32 = 2;

/// An image, found and checked; only its layers are still to come.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the tag named: of an index where there is one, else of the
    /// manifest.
    pub digest: Digest,
    /// The image's manifest, as it came.
    pub manifest: Bytes,
    pub manifest_digest: Digest,
    pub config: Bytes,
    pub config_digest: Digest,
    /// The lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// Where the layers are.
    pub repository: Repository,
}

/// Asks each place in turn; a mirror's failure, of whatever kind, is no
/// answer as long as somebody else can be asked.
pub(crate) async fn resolve(
    repository: Repository,
    platform: &Platform,
) -> Result<Resolved, RegistryError> {
    let mut sources = repository.sources().iter().peekable();
    while let Some(source) = sources.next() {
        let tries = match sources.peek() {
            Some(_) => TRIES_OF_A_MIRROR,
            None => repository.fetch.tries,
        };
        let one = OnePlace { source, repository: &repository, platform, tries };
        match one.resolve().await {
            Ok(resolved) => return Ok(resolved),
            Err(error) if sources.peek().is_some() => {
                tracing::info!(%error, "a mirror failed, the next place is asked");
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("a registry is always one of its own places")
}

struct OnePlace<'a> {
    source: &'a Source,
    repository: &'a Repository,
    platform: &'a Platform,
    tries: u32,
}

impl OnePlace<'_> {
    async fn resolve(&self) -> Result<Resolved, RegistryError> {
        let reference = &self.repository.reference;
        let step = format!("get the manifest of {}", reference.familiar());
        let mut wanted = reference.digest();
        let mut name = reference.identifier();
        let mut top = None;
        for _ in 0..DEEPEST_INDEX {
            let fetched = self.source.document(&step, "manifests", &name, self.tries).await?;
            let digest = self.verified(&step, &fetched, wanted)?;
            let top = *top.get_or_insert(digest);
            let content_type = fetched.content_type.as_deref();
            let document = manifest::read(&fetched.bytes, content_type, self.platform)
                .map_err(|why| self.unusable(&fetched.host, why))?;
            match document {
                Document::Index(pointer) => {
                    wanted = Some(pointer.digest);
                    name = pointer.digest.to_string();
                }
                Document::Image { config, layers } => {
                    let manifest = (digest, fetched.bytes);
                    return self.with_config(top, manifest, config, layers).await;
                }
            }
        }
        let why =
            Unusable::Broken("its index points to another, and that one on and on".to_owned());
        Err(self.unusable(reference.registry(), why))
    }

    async fn with_config(
        &self,
        digest: Digest,
        (manifest_digest, manifest): (Digest, Bytes),
        config: manifest::Pointer,
        layers: Vec<LayerDescriptor>,
    ) -> Result<Resolved, RegistryError> {
        let step = format!("get the configuration of {}", self.repository.reference.familiar());
        let name = config.digest.to_string();
        let fetched = self.source.document(&step, "blobs", &name, self.tries).await?;
        // A blob's digest is its name: what the registry says of it counts for
        // nothing.
        let fetched = Fetched { digest: None, ..fetched };
        self.verified(&step, &fetched, Some(config.digest))?;
        if fetched.bytes.len() as u64 != config.size {
            let what = format!(
                "it has {} bytes where the manifest says {}",
                fetched.bytes.len(),
                config.size
            );
            return Err(FetchError::new(step, fetched.host, FailureClass::Broken, what));
        }
        manifest::check_config(&fetched.bytes, layers.len(), self.platform)
            .map_err(|why| self.unusable(&fetched.host, why))?;
        Ok(Resolved {
            digest,
            manifest,
            manifest_digest,
            config: fetched.bytes,
            config_digest: config.digest,
            layers,
            repository: self.repository.clone(),
        })
    }

    /// The digest of what came, which must be the one that was asked for and
    /// the one that the registry announces.
    fn verified(
        &self,
        step: &str,
        fetched: &Fetched,
        wanted: Option<Digest>,
    ) -> Result<Digest, FetchError> {
        let got = Digest::from_sha256(Sha256::digest(&fetched.bytes).into());
        let refuse = |what: String| {
            Err(FetchError::new(step.to_owned(), fetched.host.clone(), FailureClass::Broken, what))
        };
        if let Some(wanted) = wanted
            && wanted != got
        {
            return refuse(format!(
                "it sent {} where {} was asked for",
                got.short(),
                wanted.short()
            ));
        }
        match fetched.digest.as_deref() {
            Some(said) if said.starts_with("sha256:") && said != got.to_string() => refuse(
                format!("it announces another digest than that of what it sent, {}", got.short()),
            ),
            _ => Ok(got),
        }
    }

    fn unusable(&self, host: &str, why: Unusable) -> FetchError {
        let step = format!("use {}", self.repository.reference.familiar());
        match why {
            Unusable::Unsupported(what, next) => {
                FetchError::new(step, host, FailureClass::Unsupported, what).next(next)
            }
            Unusable::Broken(what) => FetchError::new(step, host, FailureClass::Broken, what),
        }
    }
}
