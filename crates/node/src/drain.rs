//! A node that is drained takes no VMs and starts none; what runs, runs on,
//! unless it is asked for that its VMs stop, too.
//!
//! ```text
//!   Off ──drain──▶ On ◀──all are down── Stopping { until } ◀─┐
//!    ▲             │ └──────────drain, with its VMs─────▲    │ the agent's next life
//!    └──undrain────┴────────────────────────────────────┘    │ goes on with it
//!                        kept over restarts of the agent and of the host
//! ```
//!
//! Requests are refused by name. What was accepted before, a restart policy, a
//! guest's own reset and a boot of the host included, waits at the launch
//! until the drain is over: no VM loses what is desired of it.

use std::sync::Arc;
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_store::{Store, StoreError};
use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::error::Chain;
use crate::go_down::{Way, go_down};
use crate::node::Node;

/// The node's fact in the store: `true`, `false`, or `until` and a time.
const KEY: &str = "drained";

/// The longest time for VMs to stop in a drain: a day.
pub(crate) const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Off,
    On,
    /// Drained, and its VMs are on their way down.
    Stopping {
        until: Timestamp,
    },
}

#[derive(Debug)]
pub(crate) struct Drain {
    mark: watch::Sender<Mark>,
    /// Held over a change's write, so that memory and store agree.
    changes: Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is drained: it takes and starts no VMs until `inn node undrain`")]
pub(crate) struct Drained;

impl Drain {
    pub(crate) async fn open(store: &Store) -> Result<Self, StoreError> {
        let mark = store.node_value(KEY).await?.map_or(Mark::Off, |text| Mark::read(&text));
        Ok(Self { mark: watch::channel(mark).0, changes: Mutex::default() })
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.mark.borrow() != Mark::Off
    }

    pub(crate) fn admit(&self) -> Result<(), Drained> {
        if self.is_on() { Err(Drained) } else { Ok(()) }
    }

    /// What is drained already, and stopping, goes on so.
    async fn begin(&self, store: &Store) -> Result<(), StoreError> {
        let _alone = self.changes.lock().await;
        if self.is_on() { Ok(()) } else { self.set(store, Mark::On).await }
    }

    async fn change(&self, store: &Store, to: Mark) -> Result<(), StoreError> {
        let _alone = self.changes.lock().await;
        self.set(store, to).await
    }

    /// All VMs are down, unless something else was asked for meanwhile.
    async fn stopped(&self, store: &Store, mine: Mark) -> Result<(), StoreError> {
        let _alone = self.changes.lock().await;
        if *self.mark.borrow() == mine { self.set(store, Mark::On).await } else { Ok(()) }
    }

    /// Durable before it counts.
    async fn set(&self, store: &Store, to: Mark) -> Result<(), StoreError> {
        store.set_node_value(KEY, to.written()).await?;
        fail_point(match to {
            Mark::Off => Point::UndrainStored,
            Mark::On | Mark::Stopping { .. } => Point::DrainStored,
        });
        if self.mark.send_replace(to) != to {
            tracing::info!(?to, "the node's drain");
        }
        Ok(())
    }

    pub(crate) async fn begun(&self) {
        self.until(|mark| mark != Mark::Off).await;
    }

    pub(crate) async fn ended(&self) {
        self.until(|mark| mark == Mark::Off).await;
    }

    /// No VM is on its way down for it any more, or after so long.
    pub(crate) async fn wait_stopped(&self, wait: Duration) {
        let stopped = self.until(|mark| !matches!(mark, Mark::Stopping { .. }));
        // The time is over: it goes on by itself.
        let _ = tokio::time::timeout(wait, stopped).await;
    }

    async fn until(&self, wanted: impl Fn(Mark) -> bool) {
        if self.mark.subscribe().wait_for(|mark| wanted(*mark)).await.is_err() {
            // We hold the sender ourselves.
            std::future::pending().await
        }
    }
}

impl Mark {
    fn written(self) -> String {
        match self {
            Self::Off => "false".to_owned(),
            Self::On => "true".to_owned(),
            Self::Stopping { until } => format!("until {until}"),
        }
    }

    fn read(text: &str) -> Self {
        match text.strip_prefix("until ").map(str::parse) {
            Some(Ok(until)) => Self::Stopping { until },
            // What nobody can read drains rather than not.
            Some(Err(_)) => Self::On,
            None if text == "true" => Self::On,
            None => Self::Off,
        }
    }
}

/// Takes and starts no VMs from now on. Where there is a time, the VMs stop
/// within it, and what is left of them then is ended.
pub(crate) async fn drain(
    node: &Arc<Node>,
    stop_within: Option<Duration>,
) -> Result<(), StoreError> {
    let Some(within) = stop_within else { return node.drain.begin(&node.store).await };
    let until = Timestamp::now().checked_add(within).unwrap_or(Timestamp::MAX);
    let mark = Mark::Stopping { until };
    node.drain.change(&node.store, mark).await?;
    stop_vms(node, mark, within);
    Ok(())
}

pub(crate) async fn undrain(node: &Node) -> Result<(), StoreError> {
    node.drain.change(&node.store, Mark::Off).await
}

/// Goes on with what another life of the agent has begun. Guests that nobody
/// could ask meanwhile get a stop's time yet.
pub(crate) fn go_on(node: &Arc<Node>) {
    let mark = *node.drain.mark.borrow();
    if let Mark::Stopping { until } = mark {
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        // A clock that jumps makes no day longer.
        let left = left.clamp(node.config.live().stop_timeout, LONGEST);
        tracing::info!(?left, "going on with a drain: its VMs stop");
        stop_vms(node, mark, left);
    }
}

/// An undrain, or another drain, ends this, and lets what is left run on.
fn stop_vms(node: &Arc<Node>, mine: Mark, within: Duration) {
    let deadline = Instant::now() + within;
    let stopping = Arc::clone(node);
    node.tasks.spawn(async move {
        let drain = &stopping.drain;
        let is_mine = || *drain.mark.borrow() == mine;
        tokio::select! {
            // A stop that was asked for is carried out whatever becomes of this.
            _ = go_down(&stopping, Way::Stop, deadline, is_mine) => {}
            () = drain.until(|mark| mark != mine) => return,
            () = stopping.closing.cancelled() => return,
        }
        if let Err(error) = drain.stopped(&stopping.store, mine).await {
            // Then the next life looks once more, and finds them down.
            tracing::warn!(error = %Chain(&error), "that all VMs are down is not kept");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        let until = Timestamp::from_second(1_000_000).unwrap();
        for mark in [Mark::Off, Mark::On, Mark::Stopping { until }] {
            assert_eq!(Mark::read(&mark.written()), mark);
        }
        assert_eq!(Mark::read("until the end of time"), Mark::On);
    }
}
