use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A trailer of `GET /api/vms/{vm}/files` and a member of its `PUT`'s answer:
/// the content's block sum in hex (VERSIONING.md of the guest channel).
pub const BLOCK_SUM: &str = "inn-block-sum";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// What `GET /api/vms/{vm}/files/info` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileInfo {
    /// The last part of its path.
    pub name: String,
    pub kind: FileKind,
    pub size_bytes: u64,
    /// What it takes on the guest's disk.
    pub allocated_bytes: u64,
    /// Permissions in octal, such as `0644`.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    #[schema(value_type = String, format = DateTime)]
    pub modified_at: Timestamp,
    /// Where a symlink points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Names this content: of a file that was changed it is another.
    pub etag: String,
}

/// What `GET /api/vms/{vm}/files/list` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileList {
    pub items: Vec<FileInfo>,
    /// What to give as `after` to go on, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What `PUT /api/vms/{vm}/files` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileWritten {
    /// Of the whole file, or of the tar.
    pub bytes: u64,
    /// Of a raw file, as the guest has it: see [`BLOCK_SUM`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_sum: Option<String>,
}

/// What `GET /api/vms/{vm}/files/upload` answers: from where an upload that
/// broke off goes on. `offset` 0: nothing of it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UploadState {
    pub offset: u64,
}

/// What `POST /api/vms/{vm}/files/mkdir` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MakeDir {
    pub path: String,
    /// In octal; 0755 where not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Make those above it too, and be content with one that is there.
    #[serde(default)]
    pub parents: bool,
}

/// What `POST /api/vms/{vm}/files/rename` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rename {
    pub from: String,
    pub to: String,
    #[serde(default)]
    pub replace: bool,
}

/// What `POST /api/vms/{vm}/files/symlink` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Symlink {
    pub path: String,
    pub target: String,
    #[serde(default)]
    pub replace: bool,
}

/// What `POST /api/vms/{vm}/files/attributes` takes. What is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileAttributes {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub modified_at: Option<Timestamp>,
}

/// One of the server-sent events of `GET /api/vms/{vm}/files/watch`: as
/// `event: change`. `event: overflow` says that some were lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    pub kind: FileChangeKind,
    pub path: String,
    /// Of a rename: where from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub directory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileChangeKind {
    Created,
    Modified,
    Removed,
    Renamed,
    Attributes,
    Other,
}
