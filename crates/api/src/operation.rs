use inn_units::{Digest, OperationId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Problem;

/// A long piece of work. `GET /api/operations/{id}?wait=10s&version=N` answers
/// once `version` is past N; `DELETE` cancels it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    #[schema(value_type = String)]
    pub id: OperationId,
    /// `image-import`, `image-pull`, `benchmark`.
    pub kind: String,
    pub state: OperationState,
    /// Goes up with every change.
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Id of what was made, once `state` is `succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Why it failed, once `state` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What it is doing: `resolving`, `downloading`, `verifying`, `unpacking`.
    pub step: String,
    pub done_bytes: u64,
    /// 0 while unknown.
    pub total_bytes: u64,
    /// An image's layers, the lowest first, once they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerProgress>,
}

/// How far one layer of an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayerProgress {
    #[schema(value_type = String)]
    pub digest: Digest,
    /// As it is stored: compressed.
    pub size_bytes: u64,
    /// Of these, how many are here.
    pub arrived_bytes: u64,
    /// Of these, how many have gone onto the disk.
    pub unpacked_bytes: u64,
    pub state: LayerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    Waiting,
    Downloading,
    /// Here and verified; its turn to be unpacked has not come.
    Downloaded,
    Unpacking,
    Done,
    /// Another image had brought it.
    Shared,
}
