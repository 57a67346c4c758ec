//! A VM that takes the place of another one of its name.
//!
//! ```text
//!   create --replace ─▶ stored in one write: the old one is to be deleted, the new one comes
//!        │              after it ──▶ the old one's task ends and removes it
//!        │                                └─ Forget, one write: its record goes, the new one's
//!        │                                   is there ──▶ the registry changes one for the other
//!        └─ waits for that                                └─▶ the new one's task is at work
//!   a delete of the old one by a client ─▶ withdrawn: no VM of the name is left
//! ```
//!
//! So at any instant one of the two is there, and the agent's next life goes
//! on with it wherever this one has died. A successor reserves its room from
//! the first write on.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use inn_domain::{Change, Observed, Power, Removal, Request, StopKind, decide};
use inn_fail_point::{Point, fail_point};
use inn_store::{KeyMark, ObservedRecord, Store, StoreError, VmRecord};
use tokio::time::Instant;
use tracing::Instrument;

use super::handle::VmHandle;
use super::lease::expect_taker;
use super::registry::{CreateError, Vms};
use super::task::VmTask;
use super::ttl::Ttl;
use super::warm::Beginning;
use crate::events::{Event, EventKind};
use crate::network::NewPortMap;
use crate::node::Node;

/// How long a VM that is replaced may take to be gone.
pub(super) const REPLACED: Duration = Duration::from_secs(120);

/// Who comes after a VM.
#[derive(Debug)]
pub(super) struct Successor {
    record: Box<VmRecord>,
    beginning: Beginning,
}

/// What has become of a promise that a VM comes after another one.
enum Promise {
    Given,
    /// The old one is gone, or another one comes after it.
    Late,
}

impl Vms {
    /// Has the VM of `record` take the place of the one that has its name, and
    /// waits for it. `None`: nobody has the name any more.
    pub(super) async fn replace(
        &self,
        node: &Arc<Node>,
        (record, beginning): (&VmRecord, &mut Beginning),
        ports: &[NewPortMap],
        mark: &Option<KeyMark>,
    ) -> Result<Option<VmHandle>, CreateError> {
        let deadline = Instant::now() + REPLACED;
        let name = &record.spec.name;
        while let Some(old) = self.named(name) {
            let successor = (record, &mut *beginning);
            let promise = self.promise(node, &old, successor, (ports, mark.clone())).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            // Cancel safe: it goes on, by the agent's next life if need be.
            let gone = node.closing.run_until_cancelled(old.wait_gone(left)).await;
            if !gone.ok_or(CreateError::Closing)?.gone {
                return Err(CreateError::NotReplaced { name: name.clone() });
            }
            if let Promise::Given = promise {
                let new = self.of_id(record.id);
                return new.map(Some).ok_or_else(|| CreateError::Withdrawn { name: name.clone() });
            }
        }
        Ok(None)
    }

    async fn promise(
        &self,
        node: &Node,
        old: &VmHandle,
        (record, beginning): (&VmRecord, &mut Beginning),
        (ports, mark): (&[NewPortMap], Option<KeyMark>),
    ) -> Result<Promise, CreateError> {
        let _order = old.shared.requests.lock().await;
        let view = old.view();
        if view.gone || view.observed.forgotten || old.successor().is_some() {
            return Ok(Promise::Late);
        }
        let start = record.desired.power == Power::Running;
        let _room = self.room_to_replace(node, record.id, (&record.spec, start), old.id())?;
        let delete = Request::Delete(StopKind::Force, Removal::default());
        let denied = |source| CreateError::Replace { name: record.spec.name.clone(), source };
        let desired = match decide(&view.desired, &view.observed, delete) {
            Ok(Change::To(desired)) => desired,
            Ok(Change::Nothing) => view.desired,
            Err(reason) => return Err(denied(reason.into())),
        };
        let networks = node.networks.in_order().await;
        let maps = self.admit_successor_network(node, record, ports, old.id())?;
        // What is promised to the new one's client outlives the host, whatever
        // the old one was.
        let durability = record_durability(record);
        let successor = (record.clone(), mark);
        node.store.replace_vm_with(old.id(), desired.clone(), successor, &maps, durability).await?;
        node.networks.ports_are_kept(&maps);
        drop(networks);
        fail_point(Point::ReplaceAsked);
        tracing::info!(vm = %record.spec.name, old = %old.id(), new = %record.id, "to be replaced");
        let beginning = std::mem::take(beginning);
        *old.lock_successor() = Some(Successor { record: Box::new(record.clone()), beginning });
        old.shared.modify(|view| {
            view.desired = desired;
            view.replaced_by = Some(record.id);
        });
        old.shared.poke.notify_one();
        Ok(Promise::Given)
    }

    /// The successor of a VM whose record is gone takes its place, in the
    /// registry as it has in the store. `None` where there is none.
    pub(super) fn succeed(&self, node: &Arc<Node>, old: &VmHandle) -> Option<VmHandle> {
        let Successor { record, beginning } = old.lock_successor().take()?;
        let ttl = record.ttl.as_ref().map(Ttl::fresh);
        let vm = self.enter(node, *record, &ObservedRecord::default(), ttl, Some(old.id()));
        vm.shared.begins(beginning);
        self.begin(node, &vm);
        Some(vm)
    }

    /// Puts an accepted VM to work.
    pub(super) fn begin(&self, node: &Arc<Node>, vm: &VmHandle) {
        node.ttl_changed.notify_one();
        node.idle_changed.notify_one();
        let message = format!("VM {} was accepted", vm.spec().name);
        node.events.tell(Event::new(EventKind::VmAccepted, message).of(vm));
        if vm.spec().lease {
            expect_taker(node, vm);
        }
        let task = VmTask::new(Arc::clone(node), vm, Observed::default());
        let span = vm.log_span();
        node.tasks.spawn(task.run().instrument(span));
    }
}

pub(super) fn record_durability(record: &VmRecord) -> inn_store::Durability {
    match record.spec.lease {
        true => inn_store::Durability::Agent,
        false => inn_store::Durability::Host,
    }
}

impl VmHandle {
    /// Who comes after it, if somebody does.
    pub(super) fn successor(&self) -> Option<Box<VmRecord>> {
        self.lock_successor().as_ref().map(|successor| successor.record.clone())
    }

    /// With what it reserves, without a copy of the rest.
    pub(super) fn with_successor<T>(&self, look: impl FnOnce(&VmRecord) -> T) -> Option<T> {
        self.lock_successor().as_ref().map(|successor| look(&successor.record))
    }

    /// In place of what it was to begin from.
    pub(super) fn successor_boots(&self) -> Beginning {
        let mut successor = self.lock_successor();
        successor
            .as_mut()
            .map_or_else(Beginning::default, |successor| std::mem::take(&mut successor.beginning))
    }

    /// As an earlier life has promised. One that hung on that life's
    /// connections never comes.
    pub(super) async fn promised(
        &self,
        store: &Store,
        successor: VmRecord,
    ) -> Result<(), StoreError> {
        if successor.spec.lease {
            store.withdraw_successor(self.id(), self.durability()).await?;
            return Ok(());
        }
        self.shared.modify(|view| view.replaced_by = Some(successor.id));
        let record = Box::new(successor);
        *self.lock_successor() = Some(Successor { record, beginning: Beginning::Boots });
        Ok(())
    }

    /// Nobody comes after it any more.
    pub(crate) async fn withdraw_successor(&self, node: &Node) -> Result<(), StoreError> {
        let _order = self.shared.requests.lock().await;
        if let Some(id) = self.with_successor(|record| record.id)
            && node.store.withdraw_successor(self.id(), self.durability()).await?
        {
            tracing::info!(vm = %self.spec().name, %id, "is not replaced after all");
            *self.lock_successor() = None;
            node.networks.vm_is_gone(id);
            self.shared.modify(|view| view.replaced_by = None);
        }
        Ok(())
    }

    fn lock_successor(&self) -> MutexGuard<'_, Option<Successor>> {
        // One value is replaced.
        self.shared.successor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
