use std::time::Duration;

use http::Method;
use inn_api::{
    HostNetwork, HostNetworkList, NetworkCreate, Policy, PortMap, PortMapCreate, PortMapList,
    PortMapsCreate, PortsRestored, VmAddress, VmAddressChange, VmPolicyState,
};

use crate::query::{Target, duration};
use crate::{Client, ClientError};

/// `network` and `vm` are an id or a name everywhere.
impl Client {
    pub async fn networks(&self) -> Result<HostNetworkList, ClientError> {
        self.get(&Target::api(&["networks"])).await
    }

    pub async fn network(&self, network: &str) -> Result<HostNetwork, ClientError> {
        self.get(&Target::api(&["networks", network])).await
    }

    pub async fn create_network(&self, create: &NetworkCreate) -> Result<HostNetwork, ClientError> {
        self.call(Method::POST, &Target::api(&["networks"]), Some(create), Duration::ZERO).await
    }

    pub async fn delete_network(&self, network: &str) -> Result<HostNetwork, ClientError> {
        let target = Target::api(&["networks", network]);
        self.call(Method::DELETE, &target, None::<&()>, Duration::ZERO).await
    }

    /// What the node does to its host's network, as a script for nft.
    pub async fn network_plan(&self) -> Result<inn_api::NetworkPlan, ClientError> {
        self.get(&Target::api(&["node", "network-plan"])).await
    }

    pub async fn ports(&self) -> Result<PortMapList, ClientError> {
        self.get(&Target::api(&["ports"])).await
    }

    /// All of them, or none.
    pub async fn create_ports(&self, maps: Vec<PortMapCreate>) -> Result<PortMapList, ClientError> {
        let maps = PortMapsCreate::Many { ports: maps };
        self.call(Method::POST, &Target::api(&["ports"]), Some(&maps), Duration::ZERO).await
    }

    /// By id.
    pub async fn delete_port(&self, port: &str) -> Result<PortMap, ClientError> {
        let target = Target::api(&["ports", port]);
        self.call(Method::DELETE, &target, None::<&()>, Duration::ZERO).await
    }

    pub async fn restore_ports(&self) -> Result<PortsRestored, ClientError> {
        let target = Target::api(&["ports", "restore"]);
        self.call(Method::POST, &target, None::<&()>, Duration::ZERO).await
    }

    pub async fn set_policy(
        &self,
        vm: &str,
        policy: &Policy,
    ) -> Result<VmPolicyState, ClientError> {
        let target = Target::api(&["vms", vm, "policy"]);
        self.call(Method::PUT, &target, Some(policy), Duration::ZERO).await
    }

    /// A VM's addresses, once there are some, within `wait`.
    pub async fn vm_address(&self, vm: &str, wait: Duration) -> Result<VmAddress, ClientError> {
        let target = Target::api(&["vms", vm, "ip"]).with("timeout", duration(wait));
        self.call(Method::GET, &target, None::<&()>, wait).await
    }

    /// Gives a VM other addresses.
    pub async fn set_address(
        &self,
        vm: &str,
        change: &VmAddressChange,
    ) -> Result<VmAddress, ClientError> {
        let target = Target::api(&["vms", vm, "ip"]);
        self.call(Method::PATCH, &target, Some(change), Duration::ZERO).await
    }
}
