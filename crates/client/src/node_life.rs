use std::time::Duration;

use http::Method;
use inn_api::{GuestsDown, GuestsStarted, Reload};

use crate::query::{Target, duration};
use crate::{Client, ClientError};

impl Client {
    /// Has the agent read its configuration again.
    pub async fn reload(&self) -> Result<Reload, ClientError> {
        self.call(Method::POST, &Target::api(&["node", "reload"]), None::<&()>, Duration::ZERO)
            .await
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
