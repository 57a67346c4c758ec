use std::time::Duration;

use http::Method;
use inn_api::{
    CachedDiskImageList, DiskImagePull, Health, HostKernelList, Image, ImageGc, ImageGcResult,
    ImageImport, ImageList, ImagePull, KernelDefault, NodeInfo, Operation,
};
use inn_units::OperationId;

use crate::query::{Target, duration};
use crate::{ByteStream, Client, ClientError};

impl Client {
    pub async fn images(&self) -> Result<ImageList, ClientError> {
        self.get(&Target::api(&["images"])).await
    }

    /// By name or id.
    pub async fn image(&self, name: &str) -> Result<Image, ClientError> {
        self.get(&Target::api(&["images", name])).await
    }

    /// Starts an import; [`Client::wait_operation`] tells how it goes on.
    pub async fn import_image(&self, import: &ImageImport) -> Result<Operation, ClientError> {
        let target = Target::api(&["images", "import"]);
        self.call(Method::POST, &target, Some(import), Duration::ZERO).await
    }

    /// The image as a tar of an OCI layout.
    pub async fn export_image(&self, name: &str) -> Result<ByteStream, ClientError> {
        self.stream(&Target::api(&["images", name, "export"])).await
    }

    /// Brings the image cache within its limits, or says what that would do.
    pub async fn collect_images(&self, gc: &ImageGc) -> Result<ImageGcResult, ClientError> {
        let target = Target::api(&["images", "gc"]);
        self.call(Method::POST, &target, Some(gc), Duration::ZERO).await
    }

    pub async fn kernels(&self) -> Result<HostKernelList, ClientError> {
        self.get(&Target::api(&["kernels"])).await
    }

    /// Has VMs boot this kernel from their next start on.
    pub async fn set_default_kernel(
        &self,
        default: &KernelDefault,
    ) -> Result<HostKernelList, ClientError> {
        let target = Target::api(&["kernels", "default"]);
        self.call(Method::PUT, &target, Some(default), Duration::ZERO).await
    }

    /// Starts a pull; [`Client::wait_operation`] tells how it goes on.
    pub async fn pull_image(&self, pull: &ImagePull) -> Result<Operation, ClientError> {
        let target = Target::api(&["images", "pull"]);
        self.call(Method::POST, &target, Some(pull), Duration::ZERO).await
    }

    /// Starts to fetch a disk image; [`Client::wait_operation`] tells how it
    /// goes on, and its result is the image's id.
    pub async fn pull_disk_image(&self, pull: &DiskImagePull) -> Result<Operation, ClientError> {
        let target = Target::api(&["disk-images"]);
        self.call(Method::POST, &target, Some(pull), Duration::ZERO).await
    }

    pub async fn disk_images(&self) -> Result<CachedDiskImageList, ClientError> {
        self.get(&Target::api(&["disk-images"])).await
    }

    pub async fn delete_disk_image(&self, id: &str) -> Result<(), ClientError> {
        let target = Target::api(&["disk-images", id]);
        self.send(Method::DELETE, &target, None, Some(Duration::ZERO)).await.map(drop)
    }

    pub async fn delete_image(&self, name: &str) -> Result<(), ClientError> {
        let target = Target::api(&["images", name]);
        self.send(Method::DELETE, &target, None, Some(Duration::ZERO)).await.map(drop)
    }

    pub async fn operation(&self, id: OperationId) -> Result<Operation, ClientError> {
        self.get(&Target::api(&["operations", &id.to_string()])).await
    }

    /// The operation once its version is past `version`, or as it is when
    /// `wait` is over.
    pub async fn wait_operation(
        &self,
        id: OperationId,
        version: u64,
        wait: Duration,
    ) -> Result<Operation, ClientError> {
        let target = Target::api(&["operations", &id.to_string()])
            .with("wait", duration(wait))
            .with("version", version);
        self.call(Method::GET, &target, None::<&()>, wait).await
    }

    pub async fn cancel_operation(&self, id: OperationId) -> Result<(), ClientError> {
        let target = Target::api(&["operations", &id.to_string()]);
        self.send(Method::DELETE, &target, None, Some(Duration::ZERO)).await.map(drop)
    }

    pub async fn node(&self) -> Result<NodeInfo, ClientError> {
        self.get(&Target::api(&["node"])).await
    }

    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get(&Target::plain("/health")).await
    }
}
