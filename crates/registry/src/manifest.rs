//! Manifests, indexes and configurations: which image an index has for a
//! platform, and whether a manifest is one that can be pulled. Pure.
//!
//! OCI image spec 1.1 (image-index.md, manifest.md, config.md) and docker's
//! image manifest version 2, schema 2, which differ in the media types alone.

use std::fmt;

use inn_units::{Bytes as Size, Digest, MIB};
use serde::Deserialize;

/// More than any manifest, index or configuration that registries take.
pub const LARGEST_DOCUMENT: u64 = 4 * MIB;
/// Indexes of indexes: the specification allows them, nobody nests deeper.
pub(crate) const DEEPEST_INDEX: usize = 3;
/// Docker itself stops at 127.
const MOST_LAYERS: usize = 1024;

/// What a registry is asked for.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What a machine runs, in the words of images: `linux/amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        // Go's names of architectures (GOARCH), which images use.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// How well an image of `self` runs on `host`, the lowest best; none where
    /// it doesn't.
    fn fitness(&self, host: &Self) -> Option<u8> {
        if self.os != host.os || self.architecture != host.architecture {
            return None;
        }
        match (self.architecture.as_str(), self.variant.as_deref()) {
            (_, variant) if variant == host.variant.as_deref() => Some(0),
            // The baselines: every CPU of the architecture runs them.
            (_, None) | ("amd64", Some("v1")) | ("arm64", Some("v8")) => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// A blob that is a layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    pub digest: Digest,
    /// As it is transferred, compressed as a rule.
    pub size: Size,
    pub media_type: String,
    pub compression: Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A reference to another document, of a size that is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What a document turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// An index, and the image that it has for the platform.
    Index(Pointer),
    Image {
        config: Pointer,
        layers: Vec<LayerDescriptor>,
    },
}

/// Why a document is of no use, and whether the registry is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// An image that can't be used here; what to do, as a clause.
    Unsupported(String, &'static str),
    /// No document that makes sense.
    Broken(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: RawPlatform,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

const ANOTHER: &str = "choose an image of this platform";
const NO_IMAGE: &str = "name an image in its place";
const PUSH_AGAIN: &str = "push it again with a current docker, podman or skopeo";

/// Reads a document; `content_type` is what the registry calls it.
pub(crate) fn read(
    text: &[u8],
    content_type: Option<&str>,
    platform: &Platform,
) -> Result<Document, Unusable> {
    let raw: Raw = parse(text, "manifest")?;
    let media_type = raw.media_type.as_deref().or(content_type).unwrap_or_default();
    if raw.schema_version == Some(1)
        || raw.fs_layers.is_some()
        || media_type.contains("manifest.v1+pretty")
        || media_type.ends_with("manifest.v1+json") && media_type.contains("docker")
    {
        return Err(Unusable::Unsupported(
            "it is of docker's schema 1, which nothing writes since 2017".to_owned(),
            PUSH_AGAIN,
        ));
    }
    if raw.schema_version != Some(2) {
        return Err(Unusable::Broken("the manifest has no schema version".to_owned()));
    }
    match (raw.manifests, raw.config, raw.layers) {
        // Never both: what is an index for one client and an image for
        // another hides one from the other (CVE-2021-41190).
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            Err(Unusable::Broken("the manifest is an index and an image at once".to_owned()))
        }
        (Some(manifests), None, None) => choose(manifests, platform).map(Document::Index),
        (None, Some(config), Some(layers)) => image(raw.artifact_type, config, layers),
        _ => Err(Unusable::Broken("the manifest is neither an index nor an image".to_owned())),
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T, Unusable> {
    serde_json::from_slice(text).map_err(|e| {
        Unusable::Broken(format!(
            "the {what} cannot be read (line {}, column {})",
            e.line(),
            e.column()
        ))
    })
}

fn choose(manifests: Vec<RawDescriptor>, platform: &Platform) -> Result<Pointer, Unusable> {
    let mut others = Vec::new();
    let mut best: Option<(u8, &RawDescriptor)> = None;
    for entry in &manifests {
        let Some(raw) = &entry.platform else { continue };
        let its = Platform {
            os: raw.os.clone(),
            architecture: raw.architecture.clone(),
            variant: raw.variant.clone().filter(|v| !v.is_empty()),
        };
        match its.fitness(platform) {
            Some(fitness) if best.is_none_or(|(least, _)| fitness < least) => {
                best = Some((fitness, entry));
            }
            Some(_) => {}
            // What is of no platform at all is about another entry.
            None if its.os == "unknown" => {}
            None => others.push(its.to_string()),
        }
    }
    // An index may leave platforms out where there is no choice.
    if best.is_none()
        && let [only] = manifests.as_slice()
        && only.platform.is_none()
    {
        best = Some((0, only));
    }
    match best {
        Some((_, entry)) => pointer(entry, "manifest"),
        None => {
            others.dedup();
            const SHOWN: usize = 12;
            let more = if others.len() > SHOWN { ", …" } else { "" };
            others.truncate(SHOWN);
            let has = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
            Err(Unusable::Unsupported(
                printable(&format!("it has no image for {platform}, but {has}{more}")),
                ANOTHER,
            ))
        }
    }
}

fn image(
    artifact_type: Option<String>,
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
) -> Result<Document, Unusable> {
    const CONFIGS: [&str; 2] = [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    ];
    let kind = artifact_type.filter(|kind| !kind.is_empty()).or_else(|| {
        let image = CONFIGS.contains(&config.media_type.as_str());
        (!image).then(|| config.media_type.clone())
    });
    if let Some(kind) = kind {
        return Err(Unusable::Unsupported(
            printable(&format!("it is no image but an artifact of the type `{kind}`")),
            NO_IMAGE,
        ));
    }
    if layers.len() > MOST_LAYERS {
        return Err(Unusable::Broken(format!("it has {} layers", layers.len())));
    }
    let config = pointer(&config, "configuration")?;
    let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Document::Image { config, layers })
}

fn layer(raw: &RawDescriptor) -> Result<LayerDescriptor, Unusable> {
    let kind = raw.media_type.as_str();
    if !raw.urls.is_empty() || kind.contains("foreign") || kind.contains("nondistributable") {
        return Err(Unusable::Unsupported(
            "a layer of it is not in the registry but at an address of its own, which is not followed".to_owned(),
            "push the image with all of its layers",
        ));
    }
    let compression = match kind {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => {
            return Err(Unusable::Unsupported(
                printable(&format!("a layer of it is of the unknown type `{kind}`")),
                "build it with plain, gzip or zstd layers",
            ));
        }
    };
    Ok(LayerDescriptor {
        digest: digest(&raw.digest, "layer")?,
        size: Size(raw.size),
        media_type: raw.media_type.clone(),
        compression,
    })
}

fn pointer(raw: &RawDescriptor, what: &str) -> Result<Pointer, Unusable> {
    if raw.size > LARGEST_DOCUMENT {
        return Err(Unusable::Broken(format!("a {what} of it has {}", Size(raw.size))));
    }
    Ok(Pointer { digest: digest(&raw.digest, what)?, size: raw.size })
}

fn digest(text: &str, what: &str) -> Result<Digest, Unusable> {
    text.parse().map_err(|_| match text.starts_with("sha512:") {
        true => Unusable::Unsupported(
            format!("a {what} of it is named by sha512, where only sha256 is supported"),
            "choose another image",
        ),
        false => Unusable::Broken(format!("a {what} of it has no digest")),
    })
}

/// Looks whether the configuration is one, of that platform, for so many layers.
pub(crate) fn check_config(
    text: &[u8],
    layers: usize,
    platform: &Platform,
) -> Result<(), Unusable> {
    let raw: RawConfig = parse(text, "configuration")?;
    let its = Platform {
        os: raw.platform.os,
        architecture: raw.platform.architecture,
        variant: raw.platform.variant.filter(|v| !v.is_empty()),
    };
    // Old images leave them out, and then say nothing.
    let named = !its.os.is_empty() && !its.architecture.is_empty();
    if named && its.fitness(platform).is_none() {
        return Err(Unusable::Unsupported(
            printable(&format!("it is for {its}, and this host is {platform}")),
            ANOTHER,
        ));
    }
    let diff_ids = raw.rootfs.map_or(0, |rootfs| rootfs.diff_ids.len());
    if diff_ids != layers {
        return Err(Unusable::Broken(format!(
            "its configuration speaks of {diff_ids} layers, and its manifest of {layers}"
        )));
    }
    Ok(())
}

/// As it may stand in a message: bounded, on one line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn platform(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let variant = variant.map(str::to_owned);
        Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant }
    }

    #[test]
    fn the_best_variant_is_taken_and_none_that_may_not_run() {
        let entry = |architecture: &str, variant: Value, byte: u8| {
            json!({
                "digest": Digest::from_sha256([byte; 32]).to_string(), "size": 1,
                "platform": { "os": "linux", "architecture": architecture, "variant": variant },
            })
        };
        let choose = |entries: Vec<Value>, host: &Platform| {
            let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
            match read(index.as_bytes(), None, host)? {
                Document::Index(pointer) => Ok::<_, Unusable>(pointer.digest.as_bytes()[0]),
                other => panic!("{other:?}"),
            }
        };
        let amd64 = platform("linux", "amd64", None);
        let levels =
            ["v3", "v2", "v1"].map(|level| entry("amd64", json!(level), level.as_bytes()[1]));
        assert_eq!(choose(levels.to_vec(), &amd64), Ok(b'1'));
        assert!(choose(levels[..2].to_vec(), &amd64).is_err());
        let arm64 = platform("linux", "arm64", None);
        let arms = vec![entry("arm", json!("v7"), 1), entry("arm64", json!("v8"), 2)];
        assert_eq!(choose(arms.clone(), &arm64), Ok(2));
        assert_eq!(choose(arms, &platform("linux", "arm", Some("v7"))), Ok(1));
        let plain = vec![entry("amd64", json!("v1"), 1), entry("amd64", Value::Null, 2)];
        assert_eq!(choose(plain, &amd64), Ok(2));
        // Only one, and nothing is said of it.
        let only = json!({ "digest": Digest::from_sha256([7; 32]).to_string(), "size": 1 });
        assert_eq!(choose(vec![only.clone()], &amd64), Ok(7));
        assert!(choose(vec![only.clone(), only], &amd64).is_err());
        assert!(choose(vec![], &amd64).is_err());
    }

    #[test]
    fn names_in_messages_are_bounded_and_on_one_line() {
        let manifest = json!({
            "schemaVersion": 2, "artifactType": format!("a\n{}", "x".repeat(100_000)),
            "config": { "digest": "", "size": 0 }, "layers": [],
        });
        match read(manifest.to_string().as_bytes(), None, &Platform::host()) {
            Err(Unusable::Unsupported(what, _)) => {
                assert!(what.len() < 400 && !what.contains('\n'), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Documents that are nearly right.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<u64>().prop_map(|n| json!(n)),
            Just(json!(2)),
            Just(json!("linux")),
            Just(json!("application/vnd.oci.image.config.v1+json")),
            Just(json!("application/vnd.oci.image.layer.v1.tar+gzip")),
            Just(json!(Digest::from_sha256([1; 32]).to_string())),
            "[a-z:/+.]{0,12}".prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let key = proptest::sample::select(vec![
                "schemaVersion",
                "mediaType",
                "artifactType",
                "config",
                "layers",
                "manifests",
                "fsLayers",
                "digest",
                "size",
                "urls",
                "platform",
                "os",
                "architecture",
                "variant",
                "rootfs",
                "diff_ids",
            ]);
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map(key, inner, 0..6).prop_map(|map| {
                    Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_read_or_refused(mut value in value(), version in any::<bool>()) {
            if let (Value::Object(map), true) = (&mut value, version) {
                map.insert("schemaVersion".to_owned(), json!(2));
            }
            let text = value.to_string();
            if let Ok(Document::Image { layers, config }) = read(text.as_bytes(), None, &Platform::host()) {
                prop_assert!(layers.len() <= MOST_LAYERS && config.size <= LARGEST_DOCUMENT);
            }
            let _ = check_config(text.as_bytes(), 1, &Platform::host());
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&text, None, &Platform::host()).is_err());
        }
    }
}
