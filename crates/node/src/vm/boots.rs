//! Records how a VM comes up, phase by phase, for `inn vm why`.
//!
//! ```text
//!   a step of a way up ──▶ phase_begins ──▶ … ──▶ phase_ends
//!                              │ another way up: the last one that failed is kept
//!                              ▼
//!                     VmView::boots ──with every record of what is observed──▶ store
//! ```
//!
//! Nobody waits for these news, so writing them wakes nobody.

use std::sync::Arc;
use std::time::Duration;

use inn_domain::{BootPhase, BootTimeline, PhasePart, PhaseResult, VmStep};
use inn_store::{BootRecord, BootRecords};
use jiff::Timestamp;
use tokio::time::Instant;

use super::publish::VmView;
use super::task::VmTask;

/// When the last way up began, on the clock that does not jump.
pub(super) fn began(boots: &BootRecords) -> Instant {
    let now = Instant::now();
    let age = boots.last.as_ref().map(|boot| Timestamp::now().duration_since(boot.at));
    let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
    now.checked_sub(age).unwrap_or(now)
}

impl VmTask {
    pub(super) fn phase_begins(&mut self, step: &VmStep) {
        let Some(phase) = BootPhase::of(step) else { return };
        let run = self.desired().run;
        let goes_on = {
            let view = self.shared.view.borrow();
            view.boots.last.as_ref().is_some_and(|boot| boot.timeline.goes_on_with(phase, run))
        };
        if !goes_on {
            self.boot_began = Instant::now();
        }
        let at = self.since_boot_began();
        let log = self.shared.paths.console_log();
        let console_from = std::fs::metadata(log).map_or(0, |log| log.len());
        self.write_boots(|boots| {
            if !goes_on {
                let fresh = BootRecord {
                    at: Timestamp::now(),
                    console_from,
                    emulated: false,
                    timeline: BootTimeline { run, phases: Vec::new() },
                };
                let before = boots.last.replace(fresh);
                boots.failed =
                    before.filter(|boot| boot.timeline.has_failed()).or(boots.failed.take());
            }
            if let Some(boot) = &mut boots.last {
                boot.timeline.open(phase, at);
            }
        });
    }

    pub(super) fn phase_ends(&self, step: &VmStep, result: PhaseResult) {
        if BootPhase::of(step).is_some() {
            let at = self.since_boot_began();
            self.write_boot(|boot| boot.timeline.close(result, at));
        }
    }

    /// What the phase that is at work consists of, as its runtime tells.
    pub(super) fn phase_consists_of(&self, parts: Vec<(&'static str, Duration)>) {
        let part = |(name, took): (&'static str, _)| PhasePart {
            name: name.into(),
            took: whole_micros(took),
        };
        self.write_boot(|boot| boot.timeline.consists_of(parts.into_iter().map(part)));
    }

    /// What this way up boots, and where its console begins.
    pub(super) fn boots_a_machine(&self, emulated: bool, console_from: u64) {
        self.write_boot(|boot| {
            boot.emulated = emulated;
            boot.console_from = console_from;
        });
    }

    fn since_boot_began(&self) -> Duration {
        whole_micros(self.boot_began.elapsed())
    }

    fn write_boot(&self, change: impl FnOnce(&mut BootRecord)) {
        self.write_boots(|boots| {
            if let Some(boot) = &mut boots.last {
                change(boot);
            }
        });
    }

    fn write_boots(&self, change: impl FnOnce(&mut BootRecords)) {
        self.quietly(|view| change(Arc::make_mut(&mut view.boots)));
    }

    /// Changes the view without waking those that wait for it.
    pub(super) fn quietly(&self, change: impl FnOnce(&mut VmView)) {
        self.shared.view.send_if_modified(|view| {
            change(view);
            false
        });
    }
}

/// As it is stored, so that the agent's next life shows the same.
fn whole_micros(d: Duration) -> Duration {
    Duration::from_micros(u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
