//! Where images are imported from: which image of a package is meant, and
//! what its manifest, its configuration and its layers are.
//!
//! ```text
//!   directory, tar, tar.gz, tar.zst ──Package──> index.json    ──oci──┐
//!                                            └─> manifest.json ──docker┴──> Chosen
//! ```

mod docker;
mod json;
mod oci;
mod package;

use std::collections::BTreeMap;
use std::io::Read;

use inn_units::Digest;
use serde::de::DeserializeOwned;

use crate::blob::digest_of;
use crate::error::ImageError;
use crate::fetch::LayerSource;
use crate::record::RunConfig;
use crate::watch::Tally;
pub(crate) use package::Package;

/// Manifests and configurations are small texts; distribution-spec 1.1 lets
/// registries refuse manifests over 4 MiB.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// One image of a package, its layers not read yet.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) run: RunConfig,
    pub(crate) architecture: String,
    pub(crate) layers: Vec<Layer>,
}

impl Chosen {
    /// Of all layers as they came; what a hostile manifest says.
    pub(crate) fn layer_bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size))
    }
}

/// A layer's blob, by its name in the package.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

impl Chosen {
    /// An image by its documents, however they came; `what` names it in
    /// messages. The configuration is checked against the manifest.
    pub(crate) fn of_documents(
        what: &str,
        manifest: Vec<u8>,
        config: Vec<u8>,
    ) -> Result<Self, ImageError> {
        let parsed: json::Manifest = serde_json::from_slice(&manifest).map_err(|err| {
            let why = format!("is malformed: {err}");
            ImageError::invalid(format!("the manifest of {what}"), why)
        })?;
        check_digest(&format!("the configuration of {what}"), &config, &parsed.config.digest)?;
        Self::assemble(what, (manifest, parsed), config)
    }

    fn assemble(
        what: &str,
        (bytes, manifest): (Vec<u8>, json::Manifest),
        config_bytes: Vec<u8>,
    ) -> Result<Self, ImageError> {
        let kind = &manifest.config.media_type;
        if !kind.ends_with("json") || kind.contains("empty") {
            let why = format!("is not a container image but an artifact of type {kind}");
            return Err(ImageError::invalid(what, why));
        }
        let config = configuration(what, &config_bytes, manifest.layers.len())?;
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let layers = layers.map(|(layer, diff_id)| Layer {
            name: format!("blobs/sha256/{}", layer.digest.hex()),
            digest: layer.digest,
            size: layer.size,
            diff_id: *diff_id,
        });
        Ok(Self {
            manifest_digest: digest_of(&bytes),
            manifest: bytes,
            config: config_bytes,
            config_digest: manifest.config.digest,
            layers: layers.collect(),
            architecture: config.architecture,
            run: run_config(config.config),
        })
    }

    pub(crate) fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }
}

/// A package's layers, each a file of it.
#[derive(Debug)]
pub(crate) struct PackageLayers {
    pub(crate) package: Package,
    pub(crate) layers: Vec<Layer>,
}

impl LayerSource for PackageLayers {
    fn open(&self, layer: usize, from: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let mut part = self.package.layer(&self.layers[layer])?;
        part.skip(from);
        Ok(Box::new(part))
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// Which image of several is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) reference: Option<&'a str>,
    pub(crate) digest: Option<&'a Digest>,
}

impl Package {
    pub(crate) fn choose(
        &self,
        wanted: Wanted<'_>,
        tally: &Tally<'_>,
    ) -> Result<Chosen, ImageError> {
        let chosen = if self.part("index.json")?.is_some() {
            oci::choose(self, wanted)?
        } else if !self.is_directory() && self.part("manifest.json")?.is_some() {
            docker::choose(self, wanted, tally)?
        } else {
            return Err(ImageError::invalid(
                self.path.display().to_string(),
                "is not an image: it has neither the index.json of an OCI layout nor the manifest.json of `docker save`",
            ));
        };
        Ok(chosen)
    }

    /// A layer's bytes.
    pub(crate) fn layer(&self, layer: &Layer) -> Result<package::Part, ImageError> {
        self.part(&layer.name)?.ok_or_else(|| self.missing(&layer.name))
    }

    fn missing(&self, name: &str) -> ImageError {
        ImageError::NotFound {
            what: format!("{name} of {}", self.path.display()),
            hint: "the image is incomplete, export it again".into(),
        }
    }

    /// A small file, whole.
    fn small(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let part = self.part(name)?.ok_or_else(|| self.missing(name))?;
        let what = format!("{name} of {}", self.path.display());
        if part.size() > MAX_DOCUMENT {
            return Err(ImageError::TooLarge {
                what,
                limit: "a manifest or configuration has at most 4 MiB".into(),
            });
        }
        let mut bytes = Vec::new();
        part.take(MAX_DOCUMENT)
            .read_to_end(&mut bytes)
            .map_err(|err| ImageError::io("read", &self.path, err))?;
        Ok(bytes)
    }

    fn document<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|err| {
            let what = format!("{name} of {}", self.path.display());
            ImageError::invalid(what, format!("is malformed: {err}"))
        })
    }

    /// Checks a configuration against this host and its layers' number.
    fn configuration(&self, bytes: &[u8], layers: usize) -> Result<json::Config, ImageError> {
        configuration(&format!("the image in {}", self.path.display()), bytes, layers)
    }
}

/// The same for any image; `what` names it in messages.
fn configuration(what: &str, bytes: &[u8], layers: usize) -> Result<json::Config, ImageError> {
    let config: json::Config = serde_json::from_slice(bytes).map_err(|err| {
        ImageError::invalid(format!("the configuration of {what}"), format!("is malformed: {err}"))
    })?;
    let host = host_architecture();
    if config.architecture != host || !matches!(config.os.as_str(), "linux" | "") {
        let why = format!(
            "is for {}/{} and this host runs linux/{host}; import one that was built for it",
            if config.os.is_empty() { "linux" } else { &config.os },
            if config.architecture.is_empty() {
                "an unnamed architecture"
            } else {
                &config.architecture
            },
        );
        return Err(ImageError::invalid(what, why));
    }
    if config.rootfs.diff_ids.len() != layers {
        let why = format!(
            "has {layers} layers where its configuration lists {}; it is damaged, get it again",
            config.rootfs.diff_ids.len()
        );
        return Err(ImageError::invalid(what, why));
    }
    Ok(config)
}

/// The name that Go, and so the image spec, has for this machine.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn run_config(config: json::Execution) -> RunConfig {
    let some = |text: String| (!text.is_empty()).then_some(text);
    RunConfig {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        working_dir: some(config.working_dir),
        user: some(config.user),
        labels: config.labels,
    }
}

fn check_digest(what: &str, bytes: &[u8], expected: &Digest) -> Result<(), ImageError> {
    let got = digest_of(bytes);
    if got == *expected {
        return Ok(());
    }
    Err(ImageError::DigestMismatch { what: what.to_owned(), expected: *expected, got })
}

/// The sentence for a package with several images where one has to be named.
fn which(package: &Package, wanted: Wanted<'_>, choices: &BTreeMap<String, Digest>) -> ImageError {
    let list: Vec<&str> = choices.keys().map(String::as_str).take(20).collect();
    let list = list.join(", ");
    match wanted.reference {
        Some(reference) => ImageError::NotFound {
            what: format!("the reference `{reference}` in {}", package.path.display()),
            hint: format!("it has: {list}"),
        },
        None => ImageError::invalid(
            package.path.display().to_string(),
            format!("has several images; choose one by its reference or digest: {list}"),
        ),
    }
}

/// Whether a reference names what an image is called: as it stands, with the
/// tag that is implied, or without Docker's default registry.
fn same_reference(name: &str, wanted: &str) -> bool {
    fn full(text: &str) -> String {
        let text = text.strip_prefix("docker.io/").unwrap_or(text);
        let text = text.strip_prefix("library/").unwrap_or(text);
        match text.rsplit_once(':') {
            Some((_, tag)) if !tag.contains('/') => text.to_owned(),
            _ => format!("{text}:latest"),
        }
    }
    name == wanted || full(name) == full(wanted)
}
