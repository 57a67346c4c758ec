//! The way to the guest's agent.
//!
//! ```text
//!   a machine that boots:    launched ─ open, and again ─ hello
//!   one that goes on:        stands still ─ open, greet ┬ go on ──── noted ─┬ hello, confirmed
//!                                                       └ the guest answers ┘
//! ```
//!
//! A guest that goes on finds somebody there with the first thing it does, and what
//! the node notes of it meanwhile keeps neither waiting.

use std::sync::Arc;
use std::time::Duration;

use inn_vmm::Machine;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::super::failure::{Failure, StepError};
use super::identify::{Ordered, ResumeOrder};
use crate::error::Chain;
use crate::guest::{GuestError, GuestSession, Left};
use crate::runtime::AnyMachine;

/// Between two attempts to open the guest's channel, at first and at most. A
/// guest that boots is looked for often, since its start is waited for.
const CHANNEL_RETRY: Duration = Duration::from_millis(20);
const CHANNEL_RETRY_MOST: Duration = Duration::from_millis(100);

type Opened = Result<(GuestSession, Option<Ordered>), GuestError>;

/// What is known of the way to a guest's agent before it is opened for good.
#[derive(Debug, Default)]
pub(in super::super) struct Way {
    /// Somebody has begun to.
    greeting: Option<AbortOnDropHandle<Opened>>,
    /// How the channel was left until it is opened.
    pub(in super::super) between_frames: bool,
}

/// Lets a machine that stands still go on, with whoever is to talk to its guest, and
/// the order for that, on the way before.
pub(super) async fn go_on(
    machine: &AnyMachine,
    between_frames: bool,
    order: Option<ResumeOrder>,
) -> Result<Way, StepError> {
    let mut way = Way { greeting: None, between_frames };
    // One that does not open is tried again by the handshake, which says why.
    if let Ok(stream) = machine.connect_channel().await {
        let left = way.take_left(machine);
        way.greeting = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match order {
                Some(order) => order.give(stream, left).await,
                None => Ok((GuestSession::establish_as(left, stream).await?, None)),
            }
        })));
    }
    machine.resume().await.map_err(|error| {
        Failure::caused("its machine cannot go on", &error, "start the VM again")
    })?;
    Ok(way)
}

impl Way {
    /// Opens it until somebody answers on it. A guest that is to become itself has
    /// that `order` with the opening.
    pub(super) async fn open(
        mut self,
        machine: &AnyMachine,
        order: impl Fn() -> Option<ResumeOrder>,
    ) -> Opened {
        let mut pause = CHANNEL_RETRY;
        loop {
            match self.attempt(machine, &order).await {
                // The machine is about to end, somebody still has the channel, or
                // nobody listens in the guest yet.
                Err(error @ (GuestError::Io { .. } | GuestError::Closed { .. })) => {
                    tracing::debug!(error = %Chain(&error), "the guest's channel: once more");
                    sleep(pause).await;
                    pause = (pause + pause / 4).min(CHANNEL_RETRY_MOST);
                }
                done => return done,
            }
        }
    }

    async fn attempt(
        &mut self,
        machine: &AnyMachine,
        order: &impl Fn() -> Option<ResumeOrder>,
    ) -> Opened {
        if let Some(greeting) = self.greeting.take() {
            return greeting
                .await
                .unwrap_or_else(|error| Err(GuestError::closed(error.to_string())));
        }
        let stream = machine.connect_channel().await.map_err(|source| GuestError::Io {
            step: "opening the guest's channel",
            source: Arc::new(source),
        })?;
        let left = self.take_left(machine);
        match order() {
            Some(order) => order.give(stream, left).await,
            None => Ok((GuestSession::establish_as(left, stream).await?, None)),
        }
    }

    /// As it is until somebody writes into it.
    fn take_left(&mut self, machine: &AnyMachine) -> Left {
        match (machine.has_connections(), std::mem::take(&mut self.between_frames)) {
            (true, _) => Left::Unused,
            (false, true) => Left::BetweenFrames,
            (false, false) => Left::Anyhow,
        }
    }
}
