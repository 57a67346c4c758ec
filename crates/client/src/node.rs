use std::time::Duration;

use http::Method;
use inn_api::{
    Benchmark, BenchmarkCreate, Examination, NodeDrain, NodeFacts, NodeInfo, NodeSnapshot,
    Operation, ReapedList, UsageCheck, UsageReport,
};
use jiff::Timestamp;

use crate::query::Target;
use crate::{Client, ClientError};

impl Client {
    /// From now on the node takes and starts no VMs. The answer comes before
    /// those that were to stop have.
    pub async fn drain_node(&self, drain: &NodeDrain) -> Result<NodeInfo, ClientError> {
        let target = Target::api(&["node", "drain"]);
        self.call(Method::POST, &target, Some(drain), Duration::ZERO).await
    }

    /// Removes what VMs have left behind.
    pub async fn reap(&self) -> Result<ReapedList, ClientError> {
        let target = Target::api(&["node", "reap"]);
        self.call(Method::POST, &target, None::<&()>, Duration::from_secs(60)).await
    }

    /// What the node is at now.
    pub async fn node_snapshot(&self) -> Result<NodeSnapshot, ClientError> {
        self.get(&Target::api(&["node", "snapshot"])).await
    }

    /// What the node's host is, and what of it VMs may have.
    pub async fn node_resources(&self) -> Result<NodeFacts, ClientError> {
        self.get(&Target::api(&["node", "resources"])).await
    }

    /// Starts a benchmark; [`Client::wait_operation`] tells how it goes on.
    pub async fn benchmark_node(&self, asked: &BenchmarkCreate) -> Result<Operation, ClientError> {
        let target = Target::api(&["node", "benchmark"]);
        self.call(Method::POST, &target, Some(asked), Duration::ZERO).await
    }

    /// The last one's report.
    pub async fn benchmark(&self) -> Result<Benchmark, ClientError> {
        self.get(&Target::api(&["node", "benchmark"])).await
    }

    /// What features need, and whether it is there.
    pub async fn examine_node(&self) -> Result<Examination, ClientError> {
        self.get(&Target::api(&["node", "doctor"])).await
    }

    /// What VMs have used: `from` the beginning `to` now where nothing is said,
    /// `by` `vm`, `all`, or `label:` and a label's name.
    pub async fn usage(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        by: &str,
    ) -> Result<UsageReport, ClientError> {
        let target = Target::api(&["node", "usage"]).with("by", by);
        self.get(&target.with_some("from", from).with_some("to", to)).await
    }

    /// What the node and its VMs are at, in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.text(&Target::plain("/metrics")).await
    }

    /// Goes through the whole ledger of usage.
    /// `head` is a block that is known from an earlier time.
    pub async fn verify_usage(&self, head: Option<&str>) -> Result<UsageCheck, ClientError> {
        let target = Target::api(&["node", "usage", "verify"]).with_some("head", head);
        self.get(&target).await
    }

    pub async fn undrain_node(&self) -> Result<NodeInfo, ClientError> {
        let target = Target::api(&["node", "undrain"]);
        self.call(Method::POST, &target, None::<&()>, Duration::ZERO).await
    }
}
