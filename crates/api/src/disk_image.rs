use inn_units::{Bytes, Digest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/disk-images` takes: where a disk image is, and what proves
/// that it is that one. Raw or qcow2, as it is or packed by gzip, xz or zstd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskImagePull {
    /// `https://…`, `http://…`, or `file:///…` on the node.
    #[schema(
        example = "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2"
    )]
    pub url: String,
    /// The SHA-256 or SHA-512 of the file as it is published, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// The URL of a list that has it, such as SHA256SUMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS")]
    pub checksums: Option<String>,
}

/// A disk image in the node's cache, unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachedDiskImage {
    /// Of the file as it was published; VMs are made from it by this.
    pub sha256: String,
    #[schema(value_type = String)]
    pub id: Digest,
    /// Where it came from first.
    pub url: String,
    /// What a guest sees of it.
    #[schema(value_type = u64)]
    pub disk_bytes: Bytes,
    /// What it takes of the node's disk.
    #[schema(value_type = u64)]
    pub allocated_bytes: Bytes,
    #[schema(value_type = String, format = DateTime)]
    pub fetched_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedDiskImageList {
    pub items: Vec<CachedDiskImage>,
}
