//! The few fields that an import reads of the OCI image spec 1.1's and
//! Docker's documents. Everything else is ignored, and `null` is nothing, as
//! Go writes it.

use std::collections::BTreeMap;

use inn_units::Digest;
use serde::{Deserialize, Deserializer, Serialize};

/// `null` as the default.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// descriptor.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Platform {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) os: String,
}

/// image-index.md.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

/// manifest.md.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) schema_version: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// config.md.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) os: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) config: Execution,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Execution {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) cmd: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) working_dir: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) user: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) diff_ids: Vec<Digest>,
}

/// One image in the `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) layers: Vec<String>,
}
