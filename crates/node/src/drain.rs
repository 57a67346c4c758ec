//! A node that is drained takes no VMs and starts none; what runs, runs on,
//! unless it is asked for that its VMs stop, too.
//!
//! ```text
//!   serves ──drain──▶ drained ──(stop)──▶ its VMs stop, newest first
//!      ▲                 │ kept over restarts of the agent and of the host
//!      └────undrain──────┘
//! ```
//!
//! Requests are refused by name. What was accepted before, a restart policy, a
//! guest's own reset and a boot of the host included, waits at the launch
//! until the drain is over: no VM loses what is desired of it.

use std::sync::Arc;
use std::time::Duration;

use inn_domain::{Power, Request, StopKind};
use inn_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::error::Chain;
use crate::hold;
use crate::node::Node;
use crate::vm::VmHandle;

/// The node's fact in the store.
const KEY: &str = "drained";

#[derive(Debug)]
pub(crate) struct Drain {
    on: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is drained: it takes and starts no VMs until `inn node undrain`")]
pub(crate) struct Drained;

impl Drain {
    pub(crate) async fn open(store: &Store) -> Result<Self, StoreError> {
        let on = store.node_value(KEY).await?.is_some_and(|value| value == "true");
        Ok(Self { on: watch::channel(on).0 })
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.on.borrow()
    }

    pub(crate) fn admit(&self) -> Result<(), Drained> {
        if self.is_on() { Err(Drained) } else { Ok(()) }
    }

    /// Durable before it counts.
    pub(crate) async fn set(&self, store: &Store, on: bool) -> Result<(), StoreError> {
        store.set_node_value(KEY, on.to_string()).await?;
        if self.on.send_replace(on) != on {
            tracing::info!(on, "the node's drain");
        }
        Ok(())
    }

    pub(crate) async fn begun(&self) {
        self.until(true).await;
    }

    pub(crate) async fn ended(&self) {
        self.until(false).await;
    }

    async fn until(&self, wanted: bool) {
        if self.on.subscribe().wait_for(|on| *on == wanted).await.is_err() {
            // We hold the sender ourselves.
            std::future::pending().await
        }
    }
}

/// Stops every VM, in the order in which a host that goes down does and among
/// equals the newest first, each once the one before is down: who came later
/// may lean on who came earlier. What is left at the deadline is
/// ended at once. An undrain ends this, and lets what is left run on.
pub(crate) fn stop_vms(node: &Arc<Node>, within: Duration) {
    let deadline = Instant::now() + within;
    let stopping = Arc::clone(node);
    node.tasks.spawn(async move {
        tokio::select! {
            // A stop that was asked for is carried out whatever becomes of this.
            () = stop_in_order(&stopping, deadline) => {}
            () = stopping.drain.ended() => {}
            () = stopping.closing.cancelled() => {}
        }
    });
}

async fn stop_in_order(node: &Node, deadline: Instant) {
    let groups = hold::groups(node.vms.all()).into_values();
    for vm in groups.flat_map(|group| group.into_iter().rev()) {
        if !runs(&vm) {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let stop = match left {
            Duration::ZERO => StopKind::Force,
            left => StopKind::Graceful { grace: left.min(node.config.live().stop_timeout) },
        };
        if let Err(error) = vm.request(&node.store, Request::Stop(stop)).await {
            tracing::warn!(vm = %vm.spec().name, error = %Chain(&error), "not stopped");
            continue;
        }
        let mut views = vm.watch();
        let down = views.wait_for(|view| view.gone || view.observed.machine.is_none());
        // The time is over: the next one is not asked any more.
        let _ = timeout_at(deadline, down).await;
    }
}

/// Whether it has a machine, or waits for one.
fn runs(vm: &VmHandle) -> bool {
    let view = vm.view();
    view.observed.machine.is_some() || view.desired.power == Power::Running
}
