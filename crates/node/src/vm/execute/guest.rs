//! What a booting guest is asked, and how a lost one is found again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use inn_domain::begins_from_saved;
use inn_units::{VmId, format_duration};
use inn_vmm::Machine;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::failure::{Failure, StepError};
use super::super::publish::Live;
use super::super::task::VmTask;
use super::{RECONNECT, StepOutcome};
use crate::error::Chain;
use crate::guest::{DiskMount, GuestError, GuestMount, GuestSession, GuestSetup, RefusedKind};

impl VmTask {
    /// Whether nobody is waited for: there is no guest agent for its CPUs. One that
    /// somebody else has made is found as one that comes late.
    pub(in super::super) fn has_no_agent_to_come(&self) -> bool {
        self.shared.view.borrow().foreign_architecture().is_some()
    }

    pub(super) async fn handshake(&mut self) -> Result<StepOutcome, StepError> {
        let machine = self.machine()?;
        if self.has_no_agent_to_come() {
            // Nobody would tell of it.
            self.observed.was_set_up();
            return Ok(StepOutcome::NoAgent);
        }
        let deadline = self.boot_deadline;
        let way = std::mem::take(&mut self.way);
        let order = || {
            let emulated = self.shared.view.borrow().is_emulated();
            self.begins_as_another().then(|| self.order_to_resume(emulated)).flatten()
        };
        let (session, took) = tokio::select! {
            // Both are cancel safe: a stream that is dropped is closed.
            session = timeout_at(deadline, way.open(&machine, order)) => {
                (session, self.launched_at.elapsed())
            }
            end = machine.wait() => return Err(StepError::Ended(end)),
            () = self.superseded() => return Err(StepError::Superseded),
        };
        let Ok(session) = session else {
            // One that goes on from saved memory has to confirm that.
            let runs_alone = self.observed.machine.is_some_and(|m| m.is_up_as_it_runs());
            return if runs_alone { Ok(StepOutcome::NoAgent) } else { Err(self.no_answer()) };
        };
        let (session, ordered) = session?;
        self.ordered = ordered;
        self.greeted(session, Some(took));
        self.boot_deadline = deadline.max(Instant::now() + RECONNECT);
        Ok(StepOutcome::Done)
    }

    fn no_answer(&self) -> StepError {
        let limit = format_duration(self.node.config.live().start_deadline);
        Failure::new(
            format!("the guest agent did not answer within {limit}"),
            "see how far the console has come; a slow host wants a longer start_deadline, \
             then `inn vm start {vm}`",
        )
        .try_this("inn vm logs {vm} --source console")
        .with_console()
        .into()
    }

    fn greeted(&mut self, session: GuestSession, took: Option<Duration>) {
        let hello = Arc::new(session.hello().clone());
        tracing::debug!(vm = %self.shared.spec.name, ?took, ?hello, "the guest has answered");
        self.listen_to(session);
        self.shared.modify(|view| {
            view.hello = Some(hello);
            view.boot = view.boot.or(took);
        });
    }

    pub(super) async fn configure(&mut self) -> Result<(), StepError> {
        let session = self.session()?;
        // Only what is PID 1 takes its identity from the node.
        // Before it is told of them: there may be others when it was.
        let lease = self.node.networks.lease(self.shared.id);
        let mut told = None;
        if self.begins_as_another() {
            self.identify(&session).await?;
            told = lease;
        } else if session.hello().is_init && !session.hello().configured {
            told = lease;
            let setup = self.setup(self.shared.view.borrow().is_emulated());
            let report = self.while_booting(session.configure(setup)).await?;
            for problem in report.problems {
                tracing::warn!(vm = %self.shared.spec.name, problem, "not all could be set up");
            }
        } else if !session.hello().is_init && self.shared.spec.persist {
            self.mount_persist(&session).await;
        }
        if !self.is_draft {
            self.shared.catch_up_with_addresses(&self.node, &session, told).await;
        }
        self.shared.live.send_modify(|live| live.session = Some(session));
        Ok(())
    }

    /// Whether it goes on from the memory of a machine that was saved, and has yet
    /// to become itself.
    fn begins_as_another(&self) -> bool {
        let observed = &self.observed;
        begins_from_saved(observed, self.rules())
            || observed.goes_on_from_saved()
            || observed.is_woken()
    }

    /// In a full VM: one that has the disk in its fstab, or cannot mount it, is
    /// none the worse.
    async fn mount_persist(&self, session: &GuestSession) {
        let mount = DiskMount {
            serial: "inn-persist".to_owned(),
            target: "/persist".to_owned(),
            kind: Some("ext4".to_owned()),
            ..DiskMount::default()
        };
        let mounted = timeout(RECONNECT, session.mount_disk(mount)).await;
        let why = match mounted {
            Ok(Ok(()) | Err(GuestError::Refused { kind: RefusedKind::AlreadyExists, .. })) => {
                return;
            }
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        tracing::warn!(vm = %self.shared.spec.name, why, "its guest does not mount /persist");
    }

    pub(super) fn setup(&self, emulated: bool) -> GuestSetup {
        let spec = &self.shared.spec;
        let mounts = if spec.persist {
            vec![GuestMount {
                serial: "inn-persist".to_owned(),
                target: "/persist".to_owned(),
                read_only: false,
            }]
        } else {
            Vec::new()
        };
        let network = self.guest_network();
        GuestSetup {
            hostname: spec.name.to_string(),
            machine_id: machine_id(self.shared.id),
            network,
            clock: Some(SystemTime::now()),
            mounts,
            stable_addresses: spec.has_stable_addresses(emulated),
        }
    }

    /// Gets the session of a VM that is up back, or finds the agent of a full
    /// VM that came late, and with it the workload: its output, or its start.
    pub(super) async fn reconnect(&mut self) -> Result<(), StepError> {
        let machine = self.machine()?;
        let again = "it is tried again";
        let way = std::mem::take(&mut self.way);
        let session = tokio::select! {
            // Both are cancel safe: a stream that is dropped is closed.
            session = timeout(RECONNECT, way.open(&machine, || None)) => session,
            end = machine.wait() => return Err(StepError::Ended(end)),
            () = self.superseded() => return Err(StepError::Superseded),
        };
        let session = match session {
            Ok(Ok((session, _))) => session,
            // There is one, and it cannot be talked to.
            Ok(Err(error)) => {
                self.observed.session_lost();
                return Err(Failure::new(Chain(&error).to_string(), again).into());
            }
            Err(_) => {
                let limit = format_duration(RECONNECT);
                let cause = format!("the guest agent did not answer within {limit}");
                return Err(Failure::new(cause, again).into());
            }
        };
        // Of an agent that came late; an earlier boot's time stays.
        let started_at = self.shared.view.borrow().started_at;
        let took = started_at.and_then(|at| Timestamp::now().duration_since(at).try_into().ok());
        // What the follower before has to tell comes first.
        self.drain_workload().await;
        self.greeted(session.clone(), took);
        self.boot_deadline = Instant::now() + RECONNECT;
        self.catch_up_with_time(&session).await;
        self.configure().await?;
        self.resume_workload(&session).await?;
        self.shared.live.send_replace(Live { machine: Some(machine), session: Some(session) });
        self.up_since.get_or_insert_with(Instant::now);
        Ok(())
    }
}

/// machine-id(5): 32 hex digits, the VM's for ever and nobody else's.
fn machine_id(id: VmId) -> String {
    let hash = Sha256::digest(format!("innkeeper machine-id {id}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
