//! The configuration and the certificates, read again while the agent runs.
//!
//! ```text
//!   SIGHUP ─┐      RELOADING=1 ─▶ configuration ─▶ certificates ─▶ an event ─▶ READY=1
//!           ├─▶ one at a time ┘        └ wrong: stays ┘ wrong: stay
//!   the API ┘
//! ```

use std::sync::Arc;

use inn_host::init_system::Said;
use tokio::sync::watch;

use crate::config::{ConfigError, Live, Reloaded};
use crate::error::Chain;
use crate::events::{Event, EventKind};
use crate::http::{Tls, TlsError};
use crate::logging::LogFilter;
use crate::node::Node;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("the configuration stays as it was")]
    Config(#[from] ConfigError),
    /// What was right with the configuration holds by then.
    #[error("the certificates stay as they were")]
    Certificates(#[from] TlsError),
}

/// Reads all again. What is wrong with it is logged, told as an event, and
/// stays as it was.
pub(crate) async fn reload(node: &Arc<Node>, tls: Option<&Tls>) -> Result<Reloaded, ReloadError> {
    let _alone = node.reloading.lock().await;
    node.tell_init(&[Said::Reloading, Said::Status("reading the configuration again")]);
    let done = match read_again(node).await {
        Ok(reloaded) => match tls.map_or(Ok(()), Tls::reload) {
            Ok(()) => Ok(reloaded),
            Err(error) => Err((ReloadError::from(error), reloaded)),
        },
        Err(error) => Err((ReloadError::from(error), Reloaded::default())),
    };
    match done {
        Ok(reloaded) => {
            tracing::info!(changed = ?reloaded.changed, "the configuration is read again");
            if !reloaded.waiting.is_empty() {
                let keys = reloaded.waiting.join(", ");
                tracing::warn!(keys, "these keys hold after a restart of the agent");
            }
            let message = in_words(&reloaded);
            node.events.tell(of(EventKind::ConfigReloaded, message, &reloaded));
            node.tell_init(&[Said::Ready, Said::Status(&node.status())]);
            Ok(reloaded)
        }
        Err((error, reloaded)) => {
            let chain = Chain(&error).to_string();
            tracing::error!(error = chain, "not everything was read again");
            node.events.tell(of(EventKind::ConfigRefused, chain.clone(), &reloaded));
            node.tell_init(&[Said::Ready, Said::Status(&chain)]);
            Err(error)
        }
    }
}

async fn read_again(node: &Node) -> Result<Reloaded, ConfigError> {
    let config = Arc::clone(&node.config);
    match tokio::task::spawn_blocking(move || config.reload()).await {
        Ok(reloaded) => reloaded,
        // A panic, which the log has.
        Err(error) => Err(ConfigError::NoPlace(error.to_string())),
    }
}

fn of(kind: EventKind, message: String, Reloaded { changed, waiting }: &Reloaded) -> Event {
    Event::new(kind, message).with("changed", changed.clone()).with("waiting", waiting.clone())
}

fn in_words(Reloaded { changed, waiting }: &Reloaded) -> String {
    let changed = match changed.is_empty() {
        true => "nothing has changed".to_owned(),
        false => format!("{} changed", changed.join(", ")),
    };
    let waits = match waiting.is_empty() {
        true => String::new(),
        false => format!("; {} after a restart of the agent", waiting.join(", ")),
    };
    format!("the configuration was read again: {changed}{waits}")
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
