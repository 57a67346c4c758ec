use std::collections::BTreeMap;

use inn_units::{Bytes, Digest, ImageName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/images/import` takes; answered by an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageImport {
    /// Absolute path on the node: an OCI layout directory, or a tar of
    /// `docker save`'s or of an OCI layout.
    pub path: String,
    #[schema(value_type = String, example = "base")]
    pub name: ImageName,
    /// Which image of several, by its reference or digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Refuses the image unless its manifest has this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
}

/// What `POST /api/images/pull` takes; answered by an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePull {
    /// As docker writes it: `debian:12`, `registry.example:5000/team/base`,
    /// `debian@sha256:…`.
    #[schema(max_length = 4096, example = "debian:12")]
    pub reference: String,
    /// What it is called from now on; the reference in its short form unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "base")]
    pub name: Option<ImageName>,
    /// Ask this registry without TLS.
    #[serde(default)]
    pub plain_http: bool,
}

/// What the image says of how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The manifest's digest.
    #[schema(value_type = String)]
    pub id: Digest,
    #[schema(value_type = String)]
    pub name: ImageName,
    /// Size of the bootable root disk.
    #[schema(value_type = u64)]
    pub disk_bytes: Bytes,
    /// Size of what was imported, compressed as it came.
    #[schema(value_type = u64)]
    pub blob_bytes: Bytes,
    pub architecture: String,
    pub config: ImageConfig,
    /// Names of the VMs made from it.
    pub used_by: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageList {
    pub items: Vec<Image>,
    /// What to give as `after` to go on, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
