use std::time::Duration;

use http::Method;
use inn_api::{GuestsDown, GuestsStarted, Reload, Upgrade, UpgradeBegun};

use crate::query::{Target, duration};
use crate::{Client, ClientError};

/// The new program is asked three things, each with a deadline of 30 s.
const UPGRADE_CHECKS: Duration = Duration::from_secs(90);

impl Client {
    /// Has the agent read its configuration again.
    pub async fn reload(&self) -> Result<Reload, ClientError> {
        self.call(Method::POST, &Target::api(&["node", "reload"]), None::<&()>, Duration::ZERO)
            .await
    }

    /// Has another program take the agent's process over. Returns when the new
    /// one has been tried, and it begins.
    pub async fn upgrade(&self, upgrade: &Upgrade) -> Result<UpgradeBegun, ClientError> {
        let target = Target::api(&["node", "upgrade"]);
        self.call(Method::POST, &target, Some(upgrade), UPGRADE_CHECKS).await
    }

    /// Shuts all guests down, and returns once they are.
    pub async fn shutdown_guests(&self, within: Duration) -> Result<GuestsDown, ClientError> {
        let target = Target::api(&["node", "guests", "shutdown"])
            .with_some("timeout", Some(duration(within)));
        self.call(Method::POST, &target, None::<&()>, within).await
    }

    /// Lets guests that were shut down for the host start again.
    pub async fn start_guests(&self) -> Result<GuestsStarted, ClientError> {
        let target = Target::api(&["node", "guests", "start"]);
        self.call(Method::POST, &target, None::<&()>, Duration::ZERO).await
    }
}
