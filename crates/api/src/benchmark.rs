//! What a node's disk, CPU and memory do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/node/benchmark` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BenchmarkCreate {
    /// Of the file that it makes and removes; 1 GiB unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16777216, maximum = 17179869184_u64)]
    pub size_bytes: Option<u64>,
    /// Of each of its passes; 2000 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 100, maximum = 60000)]
    pub pass_millis: Option<u32>,
}

/// The last one of a node: `GET /api/node/benchmark`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Benchmark {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// On whose file system it was.
    pub directory: String,
    /// `io_uring`, or `threads`.
    pub engine: String,
    /// Why it is not io_uring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub size_bytes: u64,
    pub written_bytes: u64,
    pub passes: Vec<BenchmarkPass>,
    /// One thread's SHA-256, bytes a second.
    pub sha256_rate: u64,
    /// Memory that one thread copies, bytes a second.
    pub copy_rate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkPass {
    pub pattern: BenchmarkPattern,
    pub direction: BenchmarkDirection,
    pub block_bytes: u64,
    /// Requests at a time.
    pub depth: u32,
    pub requests: u64,
    pub millis: u64,
    pub bytes_per_second: u64,
    pub requests_per_second: u64,
    /// In microseconds, of single requests.
    pub latency: BenchmarkLatency,
    /// It ended before its time, since it had written all that it may.
    pub cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BenchmarkPattern {
    Sequential,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BenchmarkDirection {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkLatency {
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub p999: u64,
    pub most: u64,
}
