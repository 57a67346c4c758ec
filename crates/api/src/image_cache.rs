use inn_units::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/images/gc` takes. With a limit of its own, the
/// configuration's count for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ImageGc {
    /// Only says what would be done.
    pub dry_run: bool,
    /// How much may be left; `images.cache_limit` unless given. 0 removes all
    /// that is unused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What was unused for longer goes; `images.max_age` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageGcResult {
    pub dry_run: bool,
    /// What the cache took of the disk before.
    #[schema(value_type = u64)]
    pub used_bytes: Bytes,
    /// What has become free, or would.
    #[schema(value_type = u64)]
    pub freed_bytes: Bytes,
    /// That held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub limit_bytes: Option<Bytes>,
    /// That held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    /// What goes, in its order, and then what stays.
    pub decisions: Vec<CacheDecision>,
}

/// One thing in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheDecision {
    pub kind: CacheKind,
    /// Its own among those of its kind; of an image the manifest's digest in
    /// hex.
    pub id: String,
    /// Of an image its names.
    pub name: String,
    /// What it takes of the disk; of what it shares with others, all.
    #[schema(value_type = u64)]
    pub bytes: Bytes,
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
    pub action: CacheAction,
    /// One sentence.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CacheKind {
    /// A root disk, its names, and the blobs that it was made from.
    Image,
    /// A disk image that was fetched.
    DiskImage,
    /// An empty file system, copied for each VM's own disk.
    EmptyDisk,
    /// A kernel that was extracted.
    Kernel,
    Initramfs,
    /// A machine that was saved for VMs to begin from.
    Template,
    /// What a download that was cut short has left, for the next try.
    Partial,
    /// What no image leads to.
    Leftover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CacheAction {
    Kept,
    /// Or would be, in a dry run.
    Removed,
    /// It is still there, against the decision.
    Failed,
}
