use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Config, ConfigError, Fixed, Key, Live};

/// The agent's configuration while it runs. What is fixed reads as its fields
/// do; what is live is asked for each time.
#[derive(Debug)]
pub(crate) struct SharedConfig {
    /// What this life began with: a key that is not live waits as long as it
    /// differs from this, however often the file is read.
    started: Config,
    live: watch::Sender<Arc<Live>>,
    /// As it was last accepted; held during a reload, so that there is one.
    latest: Mutex<Config>,
}

/// What a reload has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// Keys with new values.
    pub(crate) changed: Vec<&'static str>,
    /// Keys whose new values wait for a restart.
    pub(crate) waiting: Vec<&'static str>,
}

impl SharedConfig {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            live: watch::Sender::new(Arc::new(config.live.clone())),
            latest: Mutex::new(config.clone()),
            started: config,
        }
    }

    /// What counts now. Not to be kept: the next reload replaces it.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }

    /// For who must act on a change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Live>> {
        self.live.subscribe()
    }

    #[cfg(test)]
    pub(crate) fn latest(&self) -> Config {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keys that were changed and need a restart.
    pub(crate) fn waiting_for_restart(&self) -> Vec<&'static str> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        waiting(&self.started, &latest)
    }

    /// Reads all sources again. An error leaves everything as it was. Blocks.
    pub(crate) fn reload(&self) -> Result<Reloaded, ConfigError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let new = latest.read_again()?;
        let changed = differences(&latest, &new).filter(|key| key.is_live());
        let reloaded = Reloaded {
            changed: changed.map(|key| key.name).collect(),
            waiting: waiting(&self.started, &new),
        };
        self.live.send_replace(Arc::new(new.live.clone()));
        *latest = new;
        Ok(reloaded)
    }
}

fn waiting(started: &Config, new: &Config) -> Vec<&'static str> {
    let keys = differences(started, new).filter(|key| !key.is_live());
    keys.map(|key| key.name).collect()
}

fn differences(old: &Config, new: &Config) -> impl Iterator<Item = &'static Key> {
    let pairs = old.effective().zip(new.effective());
    pairs.filter(|(old, new)| old.value != new.value).map(|(old, _)| old.key)
}

impl Deref for SharedConfig {
    type Target = Fixed;

    fn deref(&self) -> &Fixed {
        &self.started.fixed
    }
}
