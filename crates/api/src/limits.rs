use inn_units::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// What a VM's machine may use of its host. What is absent has its default:
/// no limit but for memory (the guest's, and what its VMM needs) and for the
/// VMM's threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmLimits {
    /// Percent of one CPU: 150 is one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 5, example = 150)]
    pub cpu_quota_percent: Option<u32>,
    /// Beside others that want the CPU; 100 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub cpu_weight: Option<u32>,
    /// Of the VMM's process, the guest's memory included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory_bytes: Option<Bytes>,
    /// Threads of the VMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes a second that are read from the host's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub io_read_bps: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub io_write_bps: Option<Bytes>,
    /// Operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_iops: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_write_iops: Option<u64>,
}

/// What `PATCH /api/vms/{vm}/limits` takes: what is absent stays, what is
/// null gets its default (RFC 7396).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmLimitsChange {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 5)]
    pub cpu_quota_percent: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10000)]
    pub cpu_weight: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub memory_bytes: Option<Option<Bytes>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    pub pids: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub io_read_bps: Option<Option<Bytes>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub io_write_bps: Option<Option<Bytes>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub io_read_iops: Option<Option<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub io_write_iops: Option<Option<u64>>,
}

/// What is asked for of a VM's machine, and what of it holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmLimitsState {
    /// As asked for; what is absent has its default.
    #[serde(flatten)]
    pub asked: VmLimits,
    /// How the node's control groups are mounted.
    pub layout: CgroupLayout,
    /// What holds for the machine that runs: `cpuQuota`, `cpuWeight`,
    /// `memory`, `pids`, `ioRead`, `ioWrite`, and of its confinement `user`
    /// and `seccomp`.
    pub applied: Vec<String>,
    pub not_applied: Vec<LimitNotApplied>,
    /// The user that the VMM runs as, where that is one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupLayout {
    /// One tree.
    V2,
    /// A tree for each controller.
    V1,
    /// Both, each with some controllers.
    Hybrid,
    /// None in sight.
    None,
}

/// What is asked for and does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitNotApplied {
    #[schema(example = "ioWrite")]
    pub what: String,
    /// A clause.
    pub why: String,
}

/// A null that is there is not a field that is absent.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let read = |text: &str| serde_json::from_str::<VmLimitsChange>(text).unwrap();
        assert_eq!(read("{}"), VmLimitsChange::default());
        assert_eq!(read(r#"{"pids":null}"#).pids, Some(None));
        let change = read(r#"{"pids":64}"#);
        assert_eq!(change.pids, Some(Some(64)));
        assert_eq!(serde_json::to_string(&change).unwrap(), r#"{"pids":64}"#);
        serde_json::from_str::<VmLimitsChange>(r#"{"pid":64}"#).unwrap_err();
    }
}
