//! VMs that are given a time to live.
//!
//! ```text
//!   create, renew ──▶ stored (wall clock) ──▶ counted down (a clock that nobody sets)
//!                                                │ over: a stop or a delete is asked for,
//!                                                ▼       as by anybody
//!   next life of the agent ──▶ what is left by the clock, within bounds (inn_domain::ttl_left)
//! ```
//!
//! One task of the node watches all of them. A jump of the host's clock moves
//! no end; it makes the stored time wrong, which is put right within
//! [`ROUND`].

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use inn_domain::{
    Power, Removal, Request, StopKind, TtlAction, TtlDeniedReason, admit_ttl, ttl_left,
};
use inn_fail_point::{Point, fail_point};
use inn_store::{StoreError, TtlRecord};
use jiff::Timestamp;
use tokio::time::Instant;

use super::handle::VmHandle;
use crate::error::Chain;
use crate::events::{Event, EventKind};
use crate::node::Node;

/// How often stored times are held against the host's clock.
const ROUND: Duration = Duration::from_secs(60);

/// What they may be off by: clocks that are kept right are slewed.
const OFF: Duration = Duration::from_secs(2);

/// When an end that could not be asked for is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// What a VM has left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ttl {
    ends: Instant,
    granted: Duration,
    action: TtlAction,
    /// As the store has it.
    stored: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TtlError {
    #[error(transparent)]
    Denied(#[from] TtlDeniedReason),
    #[error("it is being deleted")]
    BeingDeleted,
    #[error("its time to live cannot be kept")]
    Store(#[from] StoreError),
}

impl Ttl {
    /// What is stored for a VM that is given so long from now on.
    pub(crate) fn record(granted: Duration, action: TtlAction) -> TtlRecord {
        TtlRecord { ends_at: after(granted), granted, action }
    }

    pub(super) fn fresh(record: &TtlRecord) -> Self {
        let TtlRecord { ends_at, granted, action } = *record;
        Self { ends: Instant::now() + granted, granted, action, stored: ends_at }
    }

    /// As another life of the agent has stored it.
    pub(super) fn restored(record: &TtlRecord) -> Self {
        let TtlRecord { ends_at, granted, action } = *record;
        let by_clock = Duration::try_from(ends_at.duration_since(Timestamp::now()));
        let left = ttl_left(by_clock.unwrap_or_default(), granted);
        Self { ends: Instant::now() + left, granted, action, stored: ends_at }
    }

    pub(crate) fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// By the host's clock as it is now.
    pub(crate) fn ends_at(&self) -> Timestamp {
        after(self.left())
    }

    pub(crate) fn action(&self) -> TtlAction {
        self.action
    }
}

/// No later than times go.
fn after(d: Duration) -> Timestamp {
    Timestamp::now().checked_add(d).unwrap_or(Timestamp::MAX)
}

impl VmHandle {
    pub(crate) fn ttl(&self) -> Option<Ttl> {
        *self.lock_ttl()
    }

    /// Gives the VM so long from now on, or all the time there is. What becomes
    /// of it then stays as it was unless it is said.
    pub(crate) async fn set_ttl(
        &self,
        node: &Node,
        granted: Option<Duration>,
        action: Option<TtlAction>,
    ) -> Result<(), TtlError> {
        granted.map_or(Ok(()), admit_ttl)?;
        let _order = self.shared.requests.lock().await;
        if self.view().desired.power == Power::Deleted {
            return Err(TtlError::BeingDeleted);
        }
        let action = action.or_else(|| Some(self.ttl()?.action)).unwrap_or_default();
        let record = granted.map(|granted| Ttl::record(granted, action));
        node.store.set_ttl(self.id(), record, self.durability()).await?;
        fail_point(Point::TtlStored);
        *self.lock_ttl() = record.as_ref().map(Ttl::fresh);
        node.ttl_changed.notify_one();
        tracing::info!(vm = %self.spec().name, ?granted, ?action, "its time to live");
        Ok(())
    }

    fn lock_ttl(&self) -> MutexGuard<'_, Option<Ttl>> {
        self.shared.ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn time_is_up(&self, node: &Node, ttl: Ttl) {
        let stop = StopKind::Graceful { grace: node.config.live().stop_timeout };
        let request = match ttl.action {
            TtlAction::Stop => Request::Stop(stop),
            TtlAction::Delete => Request::Delete(stop, Removal::default()),
        };
        let (name, action) = (
            &self.spec().name,
            match ttl.action {
                TtlAction::Stop => "stop",
                TtlAction::Delete => "delete",
            },
        );
        fail_point(Point::TtlOver);
        match self.end_of_time(&node.store, request).await {
            Ok(true) => {
                tracing::info!(vm = %name, action, "its time to live is over");
                let message = format!("the time of VM {name} to live is over: {action}");
                let event = Event::new(EventKind::VmTtlEnded, message).of(self);
                node.events.tell(event.with("action", action));
            }
            Ok(false) => {}
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::error!(vm = %name, error, "its end is asked for again");
                self.shift(Instant::now() + AGAIN);
            }
        }
    }

    /// After the store has.
    pub(super) fn forget_ttl(&self) {
        *self.lock_ttl() = None;
    }

    fn shift(&self, ends: Instant) {
        if let Some(ttl) = &mut *self.lock_ttl() {
            ttl.ends = ends;
        }
    }

    /// The host's clock has jumped: what the next life finds is put right.
    async fn correct_ttl(&self, node: &Node, ttl: Ttl) {
        let ends_at = ttl.ends_at();
        let off = ends_at.duration_since(ttl.stored).unsigned_abs();
        if off <= OFF {
            return;
        }
        let _order = self.shared.requests.lock().await;
        let Some(now) = self.ttl().filter(|now| now.stored == ttl.stored) else { return };
        let record = TtlRecord { ends_at, granted: now.granted, action: now.action };
        match node.store.set_ttl(self.id(), Some(record), self.durability()).await {
            Ok(()) => {
                if let Some(ttl) = &mut *self.lock_ttl() {
                    ttl.stored = ends_at;
                }
            }
            Err(error) => {
                tracing::warn!(vm = %self.spec().name, error = %Chain(&error), "not corrected");
            }
        }
    }
}

/// Ends VMs whose time is over, until the agent ends.
pub(crate) fn watch_ttls(node: &Arc<Node>) {
    let watching = Arc::clone(node);
    node.tasks.spawn(async move {
        let node = watching;
        loop {
            let next = look(&node).await;
            tokio::select! {
                // All only wait; what is due is looked up anew.
                () = node.closing.cancelled() => return,
                () = node.ttl_changed.notified() => {}
                () = async {
                    match next {
                        Some(next) => tokio::time::sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    });
}

/// When to look again; never where nobody has a time.
async fn look(node: &Node) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    for vm in node.vms.all() {
        let Some(ttl) = vm.ttl() else { continue };
        if vm.view().desired.power == Power::Deleted {
            continue;
        }
        if ttl.left().is_zero() {
            vm.time_is_up(node, ttl).await;
        } else {
            vm.correct_ttl(node, ttl).await;
        }
        if let Some(ttl) = vm.ttl() {
            let round = Instant::now() + ROUND;
            next = Some(next.unwrap_or(round).min(ttl.ends).min(round));
        }
    }
    next
}
