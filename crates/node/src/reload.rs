//! The configuration, read again while the agent runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{ConfigError, Live, Reloaded};
use crate::error::Chain;
use crate::logging::LogFilter;
use crate::node::Node;

/// Reads the configuration again. What is wrong with it is logged, and nothing
/// of it holds.
pub(crate) async fn reload(node: &Arc<Node>) -> Result<Reloaded, ConfigError> {
    let config = Arc::clone(&node.config);
    let reloaded = match tokio::task::spawn_blocking(move || config.reload()).await {
        Ok(reloaded) => reloaded,
        // A panic, which the log has.
        Err(error) => Err(ConfigError::NoPlace(error.to_string())),
    };
    match &reloaded {
        Ok(Reloaded { changed, waiting }) => {
            tracing::info!(?changed, "the configuration is read again");
            if !waiting.is_empty() {
                let keys = waiting.join(", ");
                tracing::warn!(keys, "these keys hold after a restart of the agent");
            }
        }
        Err(error) => {
            tracing::error!(error = %Chain(error), "the configuration stays as it was");
        }
    }
    reloaded
}

/// Has the log follow the configuration, until its sender is gone.
pub(crate) async fn follow_log(filter: LogFilter, mut config: watch::Receiver<Arc<Live>>) {
    let mut set = config.borrow_and_update().log.clone();
    while config.changed().await.is_ok() {
        let log = config.borrow_and_update().log.clone();
        if log == set {
            continue;
        }
        filter.set(&log);
        set = log;
    }
}
