//! What a VM waits for before its machine starts: an end of the node's drain,
//! and its turn.
//!
//! ```text
//!   Launch ─▶ drained? ──▶ wait ──┐
//!      │         ▲─────────undrain┘
//!      ├─▶ in line for a start ──▶ Turn: held until the guest is up, or failed
//!      └── a simulated machine takes none
//! ```
//!
//! Another desire, a stop or a delete, ends each of these waits at once.

use std::time::Duration;

use inn_domain::{Desired, VmStep};

use super::super::failure::StepError;
use super::super::room::is_free;
use super::super::task::VmTask;
use crate::drain::Drained;
use crate::turns::{Place, Turn};

/// On top of the start's deadline, which begins when the machine runs.
const LAUNCH: Duration = Duration::from_secs(60);

/// A full VM is up once it runs: how long its boot keeps others waiting.
const FULL_BOOT: Duration = Duration::from_secs(20);

/// A disk that is still being copied after so long is so slow that another
/// copy beside it does no harm.
const COPY: Duration = Duration::from_secs(600);

/// Why nothing is done on a VM though something is to be.
#[derive(Debug, Clone)]
pub(crate) enum Waits {
    Drained,
    InLine(Place),
}

impl Waits {
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Drained => format!("waits: {Drained}"),
            Self::InLine(place) => place.sentence(),
        }
    }
}

impl VmTask {
    /// Returns once `step` may be begun.
    pub(in super::super) async fn await_turn(
        &mut self,
        step: &VmStep,
        desired: &Desired,
    ) -> Result<(), StepError> {
        if !matches!(step, VmStep::Launch { .. }) {
            return Ok(());
        }
        // A clone that has waited needs no more than to go on; a draft has its
        // turn from whoever makes it.
        let takes_none =
            is_free(&self.shared.spec, self.node.config.sim_reserves) || self.has_waiting_clone();
        if takes_none && !self.node.drain.is_on() {
            return Ok(());
        }
        // Nothing is being done on it.
        self.publish(desired, None);
        let waited = self.wait_turn(takes_none).await;
        self.shared.modify(|view| view.waits = None);
        self.turn = waited?;
        Ok(())
    }

    async fn wait_turn(&self, takes_none: bool) -> Result<Option<Turn>, StepError> {
        let longest = match self.shared.spec.is_full() {
            true => FULL_BOOT,
            false => self.node.config.live().start_deadline + LAUNCH,
        };
        loop {
            if self.node.drain.is_on() {
                self.shared.modify(|view| view.waits = Some(Waits::Drained));
                tokio::select! {
                    // Both only look at values.
                    () = self.node.drain.ended() => {}
                    () = self.superseded() => return Err(StepError::Superseded),
                }
            }
            let turn = if takes_none {
                None
            } else {
                Some(tokio::select! {
                    // Dropped, it leaves the line.
                    turn = self.node.starts.take(longest, |place| self.in_line(place)) => turn,
                    () = self.node.drain.begun() => continue,
                    () = self.superseded() => return Err(StepError::Superseded),
                })
            };
            if !self.node.drain.is_on() {
                return Ok(turn);
            }
        }
    }

    /// The right to copy a disk.
    pub(super) async fn copy_turn(&self) -> Result<Turn, StepError> {
        let turn = tokio::select! {
            // Dropped, it leaves the line.
            turn = self.node.copies.take(COPY, |place| self.in_line(place)) => Ok(turn),
            () = self.superseded() => Err(StepError::Superseded),
        };
        self.shared.modify(|view| view.waits = None);
        turn
    }

    fn in_line(&self, place: Place) {
        self.shared.modify(|view| view.waits = Some(Waits::InLine(place)));
    }
}
