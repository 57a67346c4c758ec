use std::time::Duration;

use http::Method;
use inn_api::{
    ForkRequest, Operation, SignedReceipt, Snapshot, SnapshotCreate, SnapshotImport, SnapshotList,
    VmList,
};

use crate::query::Target;
use crate::{ByteStream, Client, ClientError};

/// `snapshot` and `vm` are an id or a name everywhere.
impl Client {
    /// Starts to save the VM; [`Client::wait_operation`] tells how it goes on.
    pub async fn snapshot_vm(
        &self,
        vm: &str,
        create: &SnapshotCreate,
    ) -> Result<Operation, ClientError> {
        let target = Target::api(&["vms", vm, "snapshot"]);
        self.call(Method::POST, &target, Some(create), Duration::ZERO).await
    }

    pub async fn snapshots(&self) -> Result<SnapshotList, ClientError> {
        self.get(&Target::api(&["snapshots"])).await
    }

    pub async fn snapshot(&self, snapshot: &str) -> Result<Snapshot, ClientError> {
        self.get(&Target::api(&["snapshots", snapshot])).await
    }

    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ClientError> {
        let target = Target::api(&["snapshots", snapshot]);
        self.send(Method::DELETE, &target, None, Some(Duration::ZERO)).await.map(drop)
    }

    /// All of it, for another node.
    pub async fn export_snapshot(&self, snapshot: &str) -> Result<ByteStream, ClientError> {
        self.stream(&Target::api(&["snapshots", snapshot, "export"])).await
    }

    pub async fn import_snapshot(&self, import: &SnapshotImport) -> Result<Operation, ClientError> {
        let target = Target::api(&["snapshots", "import"]);
        self.call(Method::POST, &target, Some(import), Duration::ZERO).await
    }

    /// VMs that begin from the snapshot; each is to be waited for.
    pub async fn fork_snapshot(
        &self,
        snapshot: &str,
        fork: &ForkRequest,
    ) -> Result<VmList, ClientError> {
        let target = Target::api(&["snapshots", snapshot, "fork"]);
        self.call(Method::POST, &target, Some(fork), Duration::ZERO).await
    }

    /// VMs that begin from this one as it is now; each is to be waited for.
    pub async fn fork_vm(&self, vm: &str, fork: &ForkRequest) -> Result<VmList, ClientError> {
        let target = Target::api(&["vms", vm, "fork"]);
        self.call(Method::POST, &target, Some(fork), Duration::ZERO).await
    }

    pub async fn receipt(&self, vm: &str) -> Result<SignedReceipt, ClientError> {
        self.get(&Target::api(&["vms", vm, "receipt"])).await
    }
}
