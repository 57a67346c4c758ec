//! What the ledger of usage is told of a VM.

use std::sync::atomic::Ordering;

use inn_meter::{Account, Counters, Life, State};

use super::handle::{VmHandle, VmShared};
use super::publish::VmView;
use super::task::VmTask;
use super::warm::{Warm, WarmWay};
use crate::metering::cpu_of;

impl VmShared {
    fn account(&self) -> Account {
        let spec = &self.spec;
        Account {
            name: spec.name.to_string(),
            labels: spec.labels.clone(),
            vcpus: spec.vcpus.get().into(),
            memory: spec.memory.get(),
            disk: self.disk_size.load(Ordering::Relaxed),
            gpus: 0,
        }
    }
}

impl VmHandle {
    pub(crate) fn account(&self) -> Account {
        self.shared.account()
    }

    /// Of its machine, where it has one.
    pub(crate) fn life(&self) -> Option<Life> {
        life(&self.shared.view.borrow())
    }
}

fn life(view: &VmView) -> Option<Life> {
    let machine = view.machine.as_deref()?;
    Some(Life { pid: machine.pid, started: machine.start_ticks })
}

impl VmTask {
    /// How it stands now. Nothing where that is known, so that it may be told
    /// after every step.
    pub(super) fn meter(&self) {
        if self.is_draft {
            return;
        }
        let state = match self.observed.machine {
            None => State::Stopped,
            Some(_) if self.observed.is_paused() => State::Paused,
            Some(_) => State::Running,
        };
        let life = match state {
            State::Stopped => None,
            State::Running | State::Paused => life(&self.shared.view.borrow()),
        };
        // A clone has run for nobody before it was this VM's.
        let had = || match (&*self.shared.lock_warm(), life) {
            (Some(Warm { way: WarmWay::Begun, .. }), Some(life)) => {
                let cpu = cpu_of(&self.node.cgroups, self.shared.id, life.pid);
                Counters { cpu, ..Counters::default() }
            }
            _ => Counters::default(),
        };
        self.node.metering.moves(self.shared.id, state, life, had);
    }

    /// Its machine is at its end: what its group has counted goes with that.
    pub(super) async fn meter_last(&self) {
        let Some(life) = life(&self.shared.view.borrow()).filter(|_| !self.is_draft) else {
            return;
        };
        let (cgroups, vm) = (self.node.cgroups.clone(), self.shared.id);
        let counted = tokio::task::spawn_blocking(move || cpu_of(&cgroups, vm, life.pid)).await;
        if let Ok(cpu) = counted {
            self.node.metering.counts(vm, Counters { cpu, ..Counters::default() });
        }
    }
}
