//! The workload: started once in each boot of the guest, kept up by the guest
//! where the restart policy says so, and found again by the agent's next life.
//!
//! ```text
//!   found in the guest ──────────────────────────▶ attached
//!   not there ─┬─ never started in this boot ────▶ started
//!              ├─ it ran, and a policy keeps it up ▶ started again (the guest
//!              │                                    rebooted in its machine)
//!              └─ it ran ────────────────────────▶ told to have ended
//! ```

use std::sync::Arc;
use std::time::Duration;

use inn_domain::RestartPolicy;
use inn_guest_proto::capability;
use inn_store::WorkloadRecord;

use super::super::failure::StepError;
use super::super::task::VmTask;
use super::super::workload::{Follower, RETAINED, WORKLOAD, WorkloadLog};
use super::files::io_failure;
use crate::guest::{self, Exec, ExecSpec, ExecSummary, GuestSession, Supervision};

/// Between the end of a run and the next: doubles from the first to the
/// second.
const MIN_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(60);

impl VmTask {
    pub(super) async fn start_workload(&mut self) -> Result<(), StepError> {
        let session = self.session()?;
        if self.observed.is_woken() {
            return self.resume_workload(&session).await;
        }
        let argv = self.shared.spec.workload_argv();
        if argv.is_empty() {
            return Ok(());
        }
        let running = match self.may_have_workload(&session) {
            true => self.find_workload(&session).await?,
            false => None,
        };
        match running {
            Some(summary) => self.attach_workload(&session, argv, &summary).await,
            None => self.begin_workload(&session, argv).await,
        }
    }

    /// An earlier life may have got so far, and perhaps further. What is PID 1 and
    /// was configured just now runs nothing.
    pub(super) fn may_have_workload(&self, session: &GuestSession) -> bool {
        let hello = session.hello();
        (hello.configured || !hello.is_init) && !self.shared.spec.workload_argv().is_empty()
    }

    /// After a session was found again.
    pub(super) async fn resume_workload(
        &mut self,
        session: &GuestSession,
    ) -> Result<(), StepError> {
        let argv = self.shared.spec.workload_argv();
        let known = self.shared.view.borrow().workload.clone();
        let over = known.as_ref().is_some_and(|record| !record.running);
        if argv.is_empty() || over {
            return Ok(());
        }
        if let Some(summary) = self.find_workload(session).await? {
            return self.attach_workload(session, argv, &summary).await;
        }
        if known.is_none() || self.shared.spec.restart != RestartPolicy::No {
            return self.begin_workload(session, argv).await;
        }
        self.shared.modify(|view| {
            if let Some(workload) = &mut view.workload {
                let workload = Arc::make_mut(workload);
                workload.running = false;
                workload.reason = Some("ended with its guest agent".to_owned());
            }
        });
        self.persist().await;
        Ok(())
    }

    async fn find_workload(
        &mut self,
        session: &GuestSession,
    ) -> Result<Option<ExecSummary>, StepError> {
        let execs = match self.execs.take() {
            Some(execs) => execs,
            None => self.while_booting(session.list_execs()).await?,
        };
        Ok(execs.into_iter().find(|exec| exec.id == WORKLOAD))
    }

    async fn begin_workload(
        &mut self,
        session: &GuestSession,
        argv: Vec<String>,
    ) -> Result<(), StepError> {
        let path = self.shared.paths.workload_log();
        let log = WorkloadLog::begin(&path, self.node.config.live().log_limit)
            .await
            .map_err(io_failure("open", &path))?;
        let spec = &self.shared.spec;
        let exec = ExecSpec {
            supervision: supervision(session, spec.restart),
            env: spec.environment(&[]),
            cwd: spec.run_defaults().working_dir.clone(),
            make_cwd: true,
            user: spec.run_defaults().user.clone(),
            retain: Some(RETAINED),
            stable_addresses: spec.has_stable_addresses(self.shared.view.borrow().is_emulated()),
            ..ExecSpec::new(WORKLOAD, argv.clone())
        };
        let exec = self.while_booting(session.exec(exec)).await?;
        self.follow(exec, log, running(argv));
        Ok(())
    }

    async fn attach_workload(
        &mut self,
        session: &GuestSession,
        argv: Vec<String>,
        summary: &ExecSummary,
    ) -> Result<(), StepError> {
        let known = self.shared.view.borrow().workload.clone();
        let mut record = known.as_deref().cloned().unwrap_or_else(|| running(argv));
        record.restarts = summary.restarts;
        let path = self.shared.paths.workload_log();
        let log = WorkloadLog::open(&path, self.node.config.live().log_limit, record.log_base)
            .await
            .map_err(io_failure("open", &path))?;
        let exec = self.while_booting(session.attach(WORKLOAD, log.next_offset())).await?;
        self.follow(exec, log, record);
        Ok(())
    }

    fn follow(&mut self, exec: Exec, log: WorkloadLog, record: WorkloadRecord) {
        let record = WorkloadRecord { log_base: log.base(), ..record };
        self.shared.modify(|view| view.workload = Some(Arc::new(record.clone())));
        self.follower = Some(Follower::start(exec, log, record));
    }
}

/// What keeps the workload up, where the guest can: one that cannot leaves it
/// ended.
fn supervision(session: &GuestSession, policy: RestartPolicy) -> Option<Supervision> {
    let policy = match policy {
        RestartPolicy::No => return None,
        RestartPolicy::OnFailure => guest::RestartPolicy::OnFailure,
        RestartPolicy::Always => guest::RestartPolicy::Always,
    };
    let able = session.hello().can(capability::EXEC_2);
    able.then_some(Supervision { policy, min_delay: MIN_DELAY, max_delay: MAX_DELAY })
}

fn running(command: Vec<String>) -> WorkloadRecord {
    WorkloadRecord { command, running: true, ..WorkloadRecord::default() }
}
