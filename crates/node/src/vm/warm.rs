//! What a VM begins from in place of a boot, though its spec says nothing of
//! it: a clone that has waited, or the template of its kind.
//!
//! ```text
//!   Clone     goes on ▶ handshake ▶ itself                     some milliseconds
//!   Template  from saved memory ▶ handshake ▶ itself           a process more
//!      └──────────┴── fails at any of it ─▶ nothing of it stays ▶ the VM boots
//! ```
//!
//! It is known to this life of the agent alone: in the next one a VM that has
//! not come so far boots.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use inn_domain::{Origin, Rules};
use inn_units::{SnapshotId, VmId};
use inn_vmm::Machine;

use super::execute::HandedOver;
use super::failure::{StepError, end_in_words};
use super::handle::{VmHandle, VmShared};
use super::task::VmTask;
use crate::templates::{self, WaitingClone};

#[derive(Debug)]
pub(crate) struct Warm {
    /// The template, for its receipt.
    pub(crate) origin: Origin,
    pub(crate) way: WarmWay,
}

#[derive(Debug)]
pub(crate) enum WarmWay {
    Clone(WaitingClone),
    Template,
    /// The clone has gone on.
    Begun,
}

/// Of a VM that is made: known to this life of the agent alone, like the rest.
#[derive(Debug, Default)]
pub(super) enum Beginning {
    #[default]
    Boots,
    From(Warm),
    /// From what there is of its kind when it is started first.
    Later,
}

impl Beginning {
    pub(super) fn id(&self) -> Option<VmId> {
        match self {
            Self::From(warm) => warm.way.id(),
            Self::Boots | Self::Later => None,
        }
    }
}

impl WarmWay {
    /// Of a clone, whose VM has its id.
    pub(crate) fn id(&self) -> Option<VmId> {
        match self {
            Self::Clone(clone) => Some(clone.id()),
            Self::Template | Self::Begun => None,
        }
    }
}

impl VmShared {
    pub(super) fn lock_warm(&self) -> MutexGuard<'_, Option<Warm>> {
        // One value is replaced.
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begins_warm(&self) -> bool {
        self.lock_warm().is_some()
    }

    /// Before its task is at work.
    pub(super) fn begins(&self, beginning: Beginning) {
        match beginning {
            Beginning::Boots => {}
            Beginning::From(warm) => *self.lock_warm() = Some(warm),
            Beginning::Later => self.begins_later.store(true, Ordering::Relaxed),
        }
    }
}

impl VmTask {
    pub(super) fn rules(&self) -> Rules {
        let rules = self.shared.spec.rules();
        Rules { saved: rules.saved || self.shared.begins_warm(), ..rules }
    }

    /// It is to run, and was not when it was made. The clones that wait have ids of
    /// their own, and it has one by now: it begins from the template itself.
    pub(super) async fn begin_late(&self) {
        if !self.shared.begins_later.swap(false, Ordering::Relaxed) {
            return;
        }
        // Somebody may have made it larger since.
        let as_made = self.shared.disk_size() == self.shared.spec.disk;
        if self.observed.up_run.is_none() && !self.observed.disks && as_made {
            let warm = templates::begin_as(&self.node, &self.shared.spec).await;
            *self.shared.lock_warm() = warm;
        }
    }

    /// For people, and for its receipt.
    pub(super) fn origin_told(&self) -> Option<Origin> {
        if let Some(own) = self.own_origin() {
            return Some(own);
        }
        let warm = self.shared.lock_warm();
        self.shared.spec.from.clone().or_else(|| Some(warm.as_ref()?.origin.clone()))
    }

    pub(super) fn has_waiting_clone(&self) -> bool {
        matches!(&*self.shared.lock_warm(), Some(Warm { way: WarmWay::Clone(_), .. }))
    }

    pub(super) fn take_clone(&self) -> Option<WaitingClone> {
        let mut warm = self.shared.lock_warm();
        let warm = warm.as_mut()?;
        match std::mem::replace(&mut warm.way, WarmWay::Begun) {
            WarmWay::Clone(clone) => Some(clone),
            other => {
                warm.way = other;
                None
            }
        }
    }

    /// Its id, where it goes on from the template itself.
    pub(super) fn template(&self) -> Option<SnapshotId> {
        match &*self.shared.lock_warm() {
            Some(Warm { origin, way: WarmWay::Template }) => Some(origin.snapshot),
            _ => None,
        }
    }

    /// It is not to run: a clone that has waited for it ends.
    pub(super) async fn give_up_warm(&self) {
        if let Some(clone) = self.take_clone() {
            self.end_clone(clone).await;
            self.leave_groups().await;
        }
        self.shared.lock_warm().take();
    }

    /// The agent ends: who is to take its place boots, under the next one.
    pub(super) async fn give_up_successors_clone(&self) {
        let vm = VmHandle { shared: Arc::clone(&self.shared) };
        if let Beginning::From(Warm { way: WarmWay::Clone(clone), .. }) = vm.successor_boots() {
            self.end_clone(clone).await;
        }
    }

    async fn end_clone(&self, clone: WaitingClone) {
        if let Some(HandedOver { machine, .. }) = clone.hand_over()
            && let Err(error) = machine.kill().await
        {
            // The next look for strays ends it.
            tracing::warn!(vm = %self.shared.spec.name, %error, "its clone lives on");
        }
    }

    /// Of a step that has failed: whether the VM boots instead, since it was to
    /// begin from a template, which is no fault of its owner's.
    pub(super) async fn boots_instead(&mut self, error: &StepError) -> bool {
        let adopted = self.shared.spec.from.is_none() && self.observed.goes_on_from_saved();
        if !self.shared.begins_warm() && !adopted {
            return false;
        }
        let why = match error {
            StepError::Superseded => return false,
            StepError::Ended(end) => end_in_words(end),
            StepError::Failed(failure) => failure.cause.clone(),
        };
        let vm = &self.shared.spec.name;
        tracing::warn!(%vm, why, "it cannot begin from a template, and boots instead");
        if let Some(machine) = self.machine.clone()
            && let Err(error) = machine.kill().await
        {
            tracing::error!(%vm, %error, "its machine cannot be ended");
            return false;
        }
        let template = self.shared.lock_warm().take();
        if let Some(template) = template {
            self.node.templates.did_not_do(template.origin.snapshot, &why);
        }
        self.observed.boots_instead();
        self.machine_is_gone().await;
        true
    }
}
