//! What can be changed inside a guest.

use std::time::Duration;

use http::Method;
use inn_api::{
    ClockSet, DiskGrown, Freeze, Frozen, GrowDisk, MountDisk, NetworkApplied, NetworkSetup,
    SetHostname, SetPassword, SetSshKeys, SshKeys, Unmount,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::query::Target;
use crate::{Client, ClientError};

/// Beyond the usual for what writes whole disks: sync(2) before a freeze, a
/// file system that is made or grows.
const DISK_WORK: Duration = Duration::from_secs(600);

/// What the agent waits for a network to come back where nothing is said.
const CONFIRM: Duration = Duration::from_secs(30);

impl Client {
    pub async fn guest_password(&self, vm: &str, set: &SetPassword) -> Result<(), ClientError> {
        self.done(Method::POST, &guest(vm, "password"), Some(set), Duration::ZERO).await
    }

    pub async fn guest_hostname(&self, vm: &str, set: &SetHostname) -> Result<(), ClientError> {
        self.done(Method::POST, &guest(vm, "hostname"), Some(set), Duration::ZERO).await
    }

    /// Sets the guest's clock to the node's.
    pub async fn guest_clock(&self, vm: &str) -> Result<ClockSet, ClientError> {
        self.call(Method::POST, &guest(vm, "clock"), None::<&()>, Duration::ZERO).await
    }

    /// An error may mean that the guest takes the change back by itself.
    pub async fn guest_network(
        &self,
        vm: &str,
        setup: &NetworkSetup,
    ) -> Result<NetworkApplied, ClientError> {
        let confirm = setup.confirm_seconds.map_or(CONFIRM, |s| Duration::from_secs(s.into()));
        self.change(vm, "network", setup, confirm).await
    }

    pub async fn guest_freeze(&self, vm: &str, freeze: &Freeze) -> Result<Frozen, ClientError> {
        self.change(vm, "freeze", freeze, DISK_WORK).await
    }

    pub async fn guest_thaw(&self, vm: &str) -> Result<Frozen, ClientError> {
        self.call(Method::POST, &guest(vm, "thaw"), None::<&()>, DISK_WORK).await
    }

    pub async fn ssh_keys(&self, vm: &str, user: &str) -> Result<SshKeys, ClientError> {
        self.get(&guest(vm, "ssh-keys").with("user", user)).await
    }

    pub async fn set_ssh_keys(&self, vm: &str, set: &SetSshKeys) -> Result<(), ClientError> {
        self.done(Method::PUT, &guest(vm, "ssh-keys"), Some(set), Duration::ZERO).await
    }

    pub async fn grow_disk(&self, vm: &str, grow: &GrowDisk) -> Result<DiskGrown, ClientError> {
        self.change(vm, "disk", grow, DISK_WORK).await
    }

    pub async fn mount(&self, vm: &str, mount: &MountDisk) -> Result<(), ClientError> {
        self.done(Method::POST, &guest(vm, "mount"), Some(mount), DISK_WORK).await
    }

    pub async fn unmount(&self, vm: &str, unmount: &Unmount) -> Result<(), ClientError> {
        self.done(Method::POST, &guest(vm, "unmount"), Some(unmount), DISK_WORK).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        vm: &str,
        what: &str,
        body: &(impl Serialize + Sync),
        patience: Duration,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, &guest(vm, what), Some(body), patience).await
    }
}

fn guest(vm: &str, what: &str) -> Target {
    Target::api(&["vms", vm, "guest", what])
}
