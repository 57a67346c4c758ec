//! Ends a machine, and says how it came to its end.
//!
//! ```text
//!   Shutdown ─ asked ─┬─ powered off in time ──▶ graceful
//!       │             ├─ ended in another way ─▶ by itself
//!       │             └─ still there ──┐
//!       └─ cannot be asked ────────────┼──kill──▶ forced, and why
//!   Kill ──────────────────────────────┘
//! ```
//!
//! Asked is the guest agent, and where it does not answer a full VM by its
//! power button. After a restart of the agent the session with it is got back
//! first. All of it has the one grace that was asked for.

use std::time::Duration;

use inn_domain::{EndKind, Guest, Power, StopKind};
use inn_fail_point::{Point, fail_point};
use inn_store::EndRecord;
use inn_units::format_duration;
use inn_vmm::{Machine, MachineEnd, Runtime};
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::failure::{Failure, StepError, end_in_words};
use super::super::task::VmTask;
use super::{RECONNECT, StepOutcome, Way};
use crate::error::Chain;
use crate::guest::{GuestError, ShutdownKind};
use crate::runtime::AnyMachine;

/// Of a stop's grace, what is left for the machine to end after the guest has
/// ended its processes.
const POWER_OFF: Duration = Duration::from_secs(5);

/// How long a guest agent has to say that it will end the guest, where the
/// grace is not shorter.
const ASK: Duration = Duration::from_secs(5);

/// Somebody wants it gone without waiting for its guest.
const ASKED_TO: &str = "asked to end it at once";

/// Who was told that the machine is to end.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Agent,
    PowerButton,
}

impl Asked {
    /// What of a graceful end is worth a word.
    fn in_words(self) -> Option<String> {
        match self {
            Self::Agent => None,
            Self::PowerButton => Some("by its power button: no guest agent answers".to_owned()),
        }
    }
}

impl VmTask {
    pub(super) async fn shutdown(&self, grace: Duration) -> Result<StepOutcome, StepError> {
        let machine = self.machine()?;
        let name = &self.shared.spec.name;
        let start = Instant::now();
        let mut told = None;
        let ending = async {
            let asked = self.ask_to_shut_down(&machine, start, grace).await?;
            told = Some(asked);
            fail_point(Point::StopAsked);
            Ok::<_, String>((asked, machine.wait().await))
        };
        let why = tokio::select! {
            // The machine's end stays to be seen.
            ended = timeout(grace, ending) => match ended {
                Ok(Ok((asked, end))) => {
                    let (how, reason) = match end {
                        MachineEnd::PoweredOff => (EndKind::Graceful, asked.in_words()),
                        end => {
                            let end = end_in_words(&end);
                            (EndKind::ByItself, Some(format!("{end} while it shut down")))
                        }
                    };
                    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(vm = %name, ?how, reason, took_ms, "the guest has shut down");
                    return Ok(ended_so(how, reason, start));
                }
                Ok(Err(why)) => {
                    tracing::warn!(vm = %name, why, "cannot be asked to shut down");
                    format!("its guest could not be asked: {why}")
                }
                Err(_) => {
                    let grace = format_duration(grace);
                    tracing::warn!(
                        vm = %name, %grace,
                        "the guest did not shut down in time: its machine is ended"
                    );
                    match told {
                        Some(Asked::Agent) | None => {
                            format!("its guest did not shut down within {grace}")
                        }
                        Some(Asked::PowerButton) => format!(
                            "no guest agent answers, and within {grace} it did not heed its power button"
                        ),
                    }
                }
            },
            // Impatience: a later request wants it gone at once.
            () = self.wants(|desired| desired.stop == StopKind::Force) => ASKED_TO.to_owned(),
            () = self.node.closing.cancelled() => return Err(StepError::Superseded),
        };
        self.end_machine(why, start).await
    }

    async fn ask_to_shut_down(
        &self,
        machine: &AnyMachine,
        start: Instant,
        grace: Duration,
    ) -> Result<Asked, String> {
        let full = self.observed.machine.is_some_and(|machine| machine.full);
        // The power button is to be of use yet.
        let patience = start + if full { grace / 2 } else { grace };
        let end = start + grace;
        let deaf = match self.ask_agent_to_shut_down(machine, patience, end).await {
            Ok(()) => return Ok(Asked::Agent),
            Err(error) => Chain(&error).to_string(),
        };
        if !full {
            return Err(deaf);
        }
        self.press_power_button(machine).await.map_err(|why| format!("{deaf}, and {why}"))?;
        Ok(Asked::PowerButton)
    }

    async fn press_power_button(&self, machine: &AnyMachine) -> Result<(), String> {
        let runtime = self.node.runtimes.named(&machine.identity().runtime).await;
        let can = runtime.ok().flatten().is_some_and(|r| r.capabilities().power_button);
        if !can {
            return Err("its runtime gives it no power button".to_owned());
        }
        let press = machine.press_power_button().await;
        press.map_err(|error| format!("its power button cannot be pressed: {error}"))
    }

    async fn ask_agent_to_shut_down(
        &self,
        machine: &AnyMachine,
        patience: Instant,
        end: Instant,
    ) -> Result<(), GuestError> {
        let session = match &self.session {
            Some(session) => session.clone(),
            None if self.was_adopted() => {
                let from = Instant::now();
                let until = patience.min(from + RECONNECT);
                let back = timeout_at(until, Way::default().open(machine, || None)).await;
                let (session, _) = back.map_err(|_| GuestError::Timeout {
                    what: "getting its session back after the node's restart".to_owned(),
                    after: until.saturating_duration_since(from),
                })??;
                session
            }
            None => return Err(GuestError::closed("it is not there")),
        };
        let from = Instant::now();
        let until = patience.min(from + ASK);
        let left = end.saturating_duration_since(from);
        let for_guest = left.saturating_sub(POWER_OFF.min(left / 4));
        let asked = timeout_at(until, session.shutdown(ShutdownKind::PowerOff, for_guest)).await;
        asked.unwrap_or_else(|_| {
            let after = until.saturating_duration_since(from);
            Err(GuestError::Timeout { what: "the shutdown".to_owned(), after })
        })
    }

    /// Whether nobody has looked for its guest agent yet since the node's
    /// restart, or not for long enough.
    fn was_adopted(&self) -> bool {
        self.observed.machine.is_some_and(|machine| machine.guest == Guest::Adopted)
    }

    pub(super) async fn kill(&self) -> Result<StepOutcome, StepError> {
        let why = self.why_unasked();
        self.end_machine(why, Instant::now()).await
    }

    /// Why a plan ends a machine without asking its guest.
    fn why_unasked(&self) -> String {
        let desired = self.desired();
        let guest = self.observed.machine.map(|machine| machine.guest);
        let replaced = self.observed.machine.is_some_and(|machine| machine.run < desired.run);
        match guest {
            _ if self.observed.asleep.is_some() => "its memory is saved".to_owned(),
            _ if desired.power == Power::Running && !replaced => "it did not come up".to_owned(),
            _ if desired.stop == StopKind::Force => ASKED_TO.to_owned(),
            Some(Guest::Lost) => "its guest agent does not answer".to_owned(),
            _ => "its guest agent had not answered yet".to_owned(),
        }
    }

    async fn end_machine(&self, why: String, start: Instant) -> Result<StepOutcome, StepError> {
        if let Some(machine) = &self.machine {
            machine.kill().await.map_err(|error| {
                let next = "end its process by hand; it is tried again until it is gone";
                let pid = machine.identity().pid;
                Failure::caused("its machine cannot be ended", &error, next)
                    .try_this(format!("kill -9 {pid}"))
            })?;
            tracing::info!(vm = %self.shared.spec.name, why, "its machine was ended");
        }
        Ok(ended_so(EndKind::Forced, Some(why), start))
    }
}

fn ended_so(how: EndKind, reason: Option<String>, start: Instant) -> StepOutcome {
    let took = Some(start.elapsed());
    StepOutcome::Ended(EndRecord { how, reason, took, at: Timestamp::now() })
}
