use std::time::Duration;

use http::Method;
use inn_api::{NodeDrain, NodeInfo, NodeSnapshot, ReapedList};

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

    pub async fn undrain_node(&self) -> Result<NodeInfo, ClientError> {
        let target = Target::api(&["node", "undrain"]);
        self.call(Method::POST, &target, None::<&()>, Duration::ZERO).await
    }
}
