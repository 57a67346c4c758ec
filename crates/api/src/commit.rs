use std::collections::BTreeMap;

use inn_units::ImageName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/vms/{vm}/commit` takes; answered by an operation, whose
/// result is the image's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmCommit {
    /// What the image is called.
    #[schema(value_type = String, example = "web:1")]
    pub name: ImageName,
    /// What it runs, in place of what the VM's image does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Variables beside those of the VM's image, or in their place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
