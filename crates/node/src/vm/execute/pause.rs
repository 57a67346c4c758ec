//! A VM that stands still, and goes on.
//!
//! ```text
//!   running ─ session let go of ─▶ CPUs stopped ──▶ paused
//!      ▲                                              │
//!      └─ session back, clock set ◀── CPUs run ◀──────┘
//! ```
//!
//! Its machine keeps its memory. Whoever asks for its guest is told that it is
//! paused, and by whom.

use std::time::SystemTime;

use inn_domain::Motion;
use inn_fail_point::{Point, fail_point};
use inn_vmm::Machine;
use tokio::time::timeout;

use super::super::failure::{Failure, StepError};
use super::super::task::VmTask;
use super::RECONNECT;
use crate::error::Chain;
use crate::guest::GuestSession;

impl VmTask {
    pub(super) async fn pause(&mut self) -> Result<(), StepError> {
        let machine = self.machine()?;
        self.hang_up_between_frames().await;
        self.drain_workload().await;
        fail_point(Point::PauseHungUp);
        machine.pause().await.map_err(|error| {
            Failure::caused("its machine cannot be paused", &error, "it is tried again")
        })?;
        fail_point(Point::PauseStands);
        Ok(())
    }

    pub(super) async fn resume(&mut self) -> Result<(), StepError> {
        let machine = self.machine()?;
        machine.resume().await.map_err(|error| {
            Failure::caused("its machine cannot go on", &error, "it is tried again")
        })?;
        fail_point(Point::ResumeGoesOn);
        self.lost = Some("it was paused".into());
        Ok(())
    }

    /// Of a guest that has stood still, and does not know for how long. One
    /// that cannot be told has its time by itself, or is late.
    pub(super) async fn catch_up_with_time(&self, session: &GuestSession) {
        let behind = self.observed.machine.is_some_and(|m| m.motion == Motion::Behind);
        if !behind {
            return;
        }
        let told = timeout(RECONNECT, session.set_clock(SystemTime::now())).await;
        let why = match told {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        tracing::warn!(vm = %self.shared.spec.name, why, "its guest's clock is behind");
    }
}
