//! A leased VM lives as long as one client's connection.
//!
//! ```text
//!   Waiting ──take──▶ Held ──dropped──▶ Over ──▶ the VM is deleted
//!      └── nobody came in time ────────▶ Over ──┘
//! ```

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use inn_domain::{Removal, Request, StopKind};
use inn_fail_point::{Point, fail_point};

use super::handle::VmHandle;
use crate::events::{Event, EventKind};
use crate::node::Node;

/// How long a leased VM waits for its lease to be taken up.
const TAKE_UP: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseState {
    None,
    Waiting,
    Held,
    Over,
}

/// Somebody's hold on a leased VM. Dropping it deletes the VM.
#[derive(Debug)]
pub(crate) struct Lease {
    node: Arc<Node>,
    vm: VmHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseDeniedReason {
    #[error("it was not created with a lease")]
    NotLeased,
    #[error("its lease is held by another connection")]
    Held,
    #[error("its lease is over")]
    Over,
}

impl Lease {
    pub(crate) fn take(node: &Arc<Node>, vm: &VmHandle) -> Result<Self, LeaseDeniedReason> {
        let mut state = lock(vm);
        match *state {
            LeaseState::None => Err(LeaseDeniedReason::NotLeased),
            LeaseState::Held => Err(LeaseDeniedReason::Held),
            LeaseState::Over => Err(LeaseDeniedReason::Over),
            LeaseState::Waiting => {
                *state = LeaseState::Held;
                fail_point(Point::LeaseTaken);
                Ok(Self { node: Arc::clone(node), vm: vm.clone() })
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.vm) = LeaseState::Over;
        fail_point(Point::LeaseOver);
        let (node, vm) = (Arc::clone(&self.node), self.vm.clone());
        tell(&node, &vm, "the connection that held it has closed");
        self.node.tasks.spawn(async move { delete(&node, &vm).await });
    }
}

/// Deletes the VM unless its lease is taken up in time.
pub(super) fn expect_taker(node: &Arc<Node>, vm: &VmHandle) {
    let (node, vm) = (Arc::clone(node), vm.clone());
    let tasks = node.tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            // Both only wait; nothing is lost with either.
            () = tokio::time::sleep(TAKE_UP) => {}
            () = node.closing.cancelled() => return,
        }
        let forsaken = {
            let mut state = lock(&vm);
            let waiting = *state == LeaseState::Waiting;
            if waiting {
                *state = LeaseState::Over;
            }
            waiting
        };
        if forsaken {
            tracing::info!(vm = %vm.spec().name, "nobody took up its lease");
            tell(&node, &vm, "nobody took it up");
            delete(&node, &vm).await;
        }
    });
}

fn tell(node: &Node, vm: &VmHandle, why: &str) {
    let message = format!("the lease of VM {} is over: {why}", vm.spec().name);
    node.events.tell(Event::new(EventKind::VmLeaseEnded, message).of(vm));
}

pub(crate) async fn delete(node: &Node, vm: &VmHandle) {
    let request = Request::Delete(StopKind::Force, Removal::default());
    if let Err(error) = vm.request(&node.store, request).await {
        // The next life of the agent deletes it.
        tracing::error!(vm = %vm.spec().name, error = %crate::error::Chain(&error), "not deleted");
    }
}

fn lock(vm: &VmHandle) -> MutexGuard<'_, LeaseState> {
    vm.shared.lease.lock().unwrap_or_else(PoisonError::into_inner)
}
