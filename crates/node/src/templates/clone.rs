use std::sync::{Arc, Mutex, PoisonError};

use inn_units::VmId;
use tokio::sync::Notify;

use super::Kind;
use crate::vm::{Draft, HandedOver};

/// A clone that somebody has: it becomes a VM's, or goes back to those that wait.
#[derive(Debug)]
pub(crate) struct WaitingClone {
    draft: Option<Draft>,
    id: VmId,
    kind: Kind,
    desk: Arc<Desk>,
}

/// Where the keeper is told.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// What there is, or is asked for, has changed.
    pub(super) changed: Notify,
    returned: Mutex<Vec<(Kind, Draft)>>,
}

impl Desk {
    /// Those that nobody has taken after all.
    pub(super) fn returned(&self) -> Vec<(Kind, Draft)> {
        std::mem::take(&mut self.returned.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WaitingClone {
    pub(super) fn new(kind: Kind, draft: Draft, desk: Arc<Desk>) -> Self {
        Self { id: draft.id(), draft: Some(draft), kind, desk }
    }

    /// Its VM's is the same.
    pub(crate) fn id(&self) -> VmId {
        self.id
    }

    /// `None` where it has no machine.
    pub(crate) fn hand_over(mut self) -> Option<HandedOver> {
        self.draft.take()?.hand_over()
    }
}

impl Drop for WaitingClone {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.take() {
            let mut returned = self.desk.returned.lock().unwrap_or_else(PoisonError::into_inner);
            returned.push((self.kind, draft));
            drop(returned);
            self.desk.changed.notify_one();
        }
    }
}
