use std::sync::Arc;

use crate::RegistryError;
use crate::auth::CredentialFiles;
use crate::blob::BlobStream;
use crate::fetch::{FetchSettings, Fetcher};
use crate::manifest::{LayerDescriptor, Platform};
use crate::mirrors::Mirrors;
use crate::policy::Policy;
use crate::reference::Reference;
use crate::resolve::{self, Resolved};
use crate::signed;
use crate::source::Source;

/// How registries are reached, and what may come from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    pub fetch: FetchSettings,
    pub credentials: CredentialFiles,
    pub mirrors: Mirrors,
    pub policy: Policy,
}

/// All registries, by one set of settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    fetcher: Fetcher,
    settings: Arc<RegistrySettings>,
}

impl Registry {
    /// Reads the certificates; asks nobody yet.
    pub fn new(settings: RegistrySettings) -> Result<Self, RegistryError> {
        Ok(Self { fetcher: Fetcher::new(&settings.fetch)?, settings: Arc::new(settings) })
    }

    /// What comes by URL, by the same settings.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// The same, with this reference's registry asked without TLS.
    pub fn with_plain_http(&self, reference: &Reference) -> Self {
        let host = reference.registry();
        // All of its ports: its tokens may come from another one.
        let bare = match host.rsplit_once(':') {
            Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
            _ => host,
        };
        Self { fetcher: self.fetcher.with_plain_http(bare), settings: Arc::clone(&self.settings) }
    }

    /// Where a reference's blobs are, if the policy lets it in.
    pub fn repository(&self, reference: &Reference) -> Result<Repository, RegistryError> {
        let settings = &self.settings;
        settings.policy.admit(reference).map_err(|reason| reason.into_error(reference))?;
        let sources = settings
            .mirrors
            .places(reference, self.fetcher.client().plain_http())
            .into_iter()
            .map(|place| Source::new(place, self.fetcher.clone(), settings.credentials.clone()))
            .collect();
        Ok(Repository {
            all: Arc::new(sources),
            first: 0,
            reference: reference.clone(),
            fetch: self.fetcher.client().settings(),
        })
    }

    /// Which image a reference is on that platform: manifest and configuration
    /// are here and verified, the layers can be had.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let resolved = resolve::resolve(self.repository(reference)?, platform).await?;
        signed::check(&resolved, &self.settings.policy.signed_by).await?;
        Ok(resolved)
    }
}

/// The places that have one repository, mirrors first, and what they have been
/// convinced with so far. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    all: Arc<Vec<Source>>,
    /// How many of them are not to be asked.
    first: usize,
    pub(crate) reference: Reference,
    pub(crate) fetch: Arc<FetchSettings>,
}

impl Repository {
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.all[self.first..]
    }

    pub(crate) fn without_first(&self, asked: usize) -> Option<Self> {
        let first = self.first + asked;
        (first < self.all.len()).then(|| Self { first, ..self.clone() })
    }

    /// A layer's bytes from `from` on. Nothing is asked before the first
    /// [`BlobStream::next`].
    pub fn blob(&self, layer: &LayerDescriptor, from: u64) -> BlobStream {
        BlobStream::new(self, layer, from)
    }
}
