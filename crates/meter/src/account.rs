use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// On whose account usage goes, and of how much. An entry is about one of
/// these: where any of it changes, another entry begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub vcpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes that its disk may grow to.
    pub disk: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
