//! What of a VM's life is told as events.

use inn_domain::{EndKind, VmPhase};
use inn_store::{EndRecord, FailureRecord};
use inn_units::Generation;

use super::task::VmTask;
use crate::events::{Event, EventKind};

impl VmTask {
    pub(super) fn tell_phase(&self, before: VmPhase, phase: VmPhase, generation: Generation) {
        let name = &self.shared.spec.name;
        let event = self.event(EventKind::VmPhase, format!("VM {name} is {phase}"));
        let view = self.shared.view.borrow();
        let reason = match phase {
            VmPhase::Failed => view.failure.as_ref().map(|failure| failure.cause.clone()),
            VmPhase::Stopped => view.last_end.as_ref().and_then(|end| end.reason.clone()),
            _ => None,
        };
        let boot = view.boot.filter(|_| phase == VmPhase::Running);
        drop(view);
        let mut event = event
            .with("from", before.to_string())
            .with("to", phase.to_string())
            .with("generation", generation.0);
        if let Some(reason) = reason {
            event = event.with("reason", reason);
        }
        if let Some(boot) = boot {
            event = event.with("bootMs", u64::try_from(boot.as_millis()).unwrap_or(u64::MAX));
        }
        self.node.events.tell(event);
    }

    pub(super) fn tell_failure(&self, failure: &FailureRecord) {
        let name = &self.shared.spec.name;
        let message = format!("VM {name} failed at {}: {}", failure.step, failure.cause);
        self.node.events.tell(
            self.event(EventKind::VmFailed, message)
                .with("step", failure.step.as_str())
                .with("cause", failure.cause.as_str())
                .with("next", failure.next.as_str()),
        );
    }

    pub(super) fn tell_end(&self, end: &EndRecord) {
        let name = &self.shared.spec.name;
        let how = match end.how {
            EndKind::Graceful => "graceful",
            EndKind::Forced => "forced",
            EndKind::ByItself => "by-itself",
        };
        let message = match (&end.reason, end.how) {
            (Some(reason), _) => format!("the machine of VM {name} has ended: {reason}"),
            (None, EndKind::Graceful) => format!("the guest of VM {name} has shut down"),
            (None, _) => format!("the machine of VM {name} has ended"),
        };
        let mut event = self.event(EventKind::VmEnded, message).with("how", how);
        if let Some(reason) = &end.reason {
            event = event.with("reason", reason.as_str());
        }
        if let Some(took) = end.took {
            event = event.with("tookMs", u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        self.node.events.tell(event);
    }

    pub(super) fn tell_adopted(&self, pid: u32) {
        let message = format!("VM {} runs on under this agent", self.shared.spec.name);
        self.node.events.tell(self.event(EventKind::VmAdopted, message).with("pid", pid));
    }

    pub(super) fn tell_deleted(&self) {
        let message = format!("VM {} is deleted", self.shared.spec.name);
        self.node.events.tell(self.event(EventKind::VmDeleted, message));
    }

    fn event(&self, kind: EventKind, message: String) -> Event {
        Event::new(kind, message).of_vm(self.shared.id, &self.shared.spec.name)
    }
}
