//! The loop that owns a VM: read, plan, apply, publish.

use std::sync::Arc;
use std::time::Duration;

use inn_domain::{
    Backoff, Desired, DownReason, Guest, Moment, Observed, Power, VmPlan, VmStep, phase, plan,
};
use inn_store::{MachineRecord, WorkloadRecord};
use inn_units::Generation;
use inn_vmm::{Machine, MachineEnd, bound_log};
use tokio::time::Instant;

use super::failure::{Failure, StepError, console_tail, of_end};
use super::handle::{VmHandle, VmShared};
use super::publish::{Link, Live};
use super::workload::Follower;
use crate::error::Chain;
use crate::guest::{GuestError, GuestSession};
use crate::node::Node;
use crate::runtime::AnyMachine;

/// How often the logs that a guest fills are looked at.
const LOG_ROUND: Duration = Duration::from_secs(5);

/// How long a machine may take to tell its end after its guest's session has
/// broken off: then the end is the better explanation.
const END_FOLLOWS: Duration = Duration::from_secs(2);

pub(super) struct VmTask {
    pub(super) node: Arc<Node>,
    pub(super) shared: Arc<VmShared>,
    pub(super) observed: Observed,
    pub(super) machine: Option<Arc<AnyMachine>>,
    pub(super) session: Option<GuestSession>,
    pub(super) follower: Option<Follower>,
    /// Until when the guest has to be configured.
    pub(super) boot_deadline: Instant,
    pub(super) launched_at: Instant,
    pub(super) up_since: Option<Instant>,
    /// How long the console's log was when this boot began.
    pub(super) console_from: u64,
    /// When a step that is tried until it succeeds is tried next.
    pub(super) retry: Backoff,
    /// The generation that `retry` is about.
    pub(super) seen: Generation,
}

/// What ends an idle wait.
enum Event {
    Poked,
    Closing,
    MachineEnded(MachineEnd),
    SessionLost(GuestError),
    Workload(WorkloadRecord),
    LogRound,
    TimeIsUp,
}

impl VmTask {
    pub(super) fn new(node: Arc<Node>, vm: &VmHandle, observed: Observed) -> Self {
        let now = Instant::now();
        Self {
            node,
            shared: Arc::clone(&vm.shared),
            observed,
            machine: None,
            session: None,
            follower: None,
            boot_deadline: now,
            launched_at: now,
            up_since: None,
            console_from: 0,
            retry: Backoff::default(),
            seen: Generation::NONE,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let desired = self.desired();
            if desired.generation != self.seen {
                self.seen = desired.generation;
                self.retry = Backoff::default();
                // What it failed at stays known over a restart of the agent.
                let failed_before = self.observed.down.map(|down| down.generation);
                if desired.power == Power::Running
                    && self.observed.machine.is_none()
                    && failed_before != Some(desired.generation)
                {
                    self.shared.modify(|view| view.failure = None);
                }
            }
            if self.observed.forgotten {
                self.vanish();
                return;
            }
            let plan = self.plan(&desired);
            let waits_until = match plan.next() {
                None => None,
                Some(VmStep::WaitUntil(then)) => Some(*then),
                Some(step) if !step.is_up() && self.node.now() < self.retry.not_before() => {
                    Some(self.retry.not_before())
                }
                Some(step) => {
                    tracing::debug!(vm = %self.shared.spec.name, %plan, "acts");
                    self.perform(step, &desired).await;
                    if self.node.closing.is_cancelled() {
                        return self.leave().await;
                    }
                    continue;
                }
            };
            self.settle(&desired, plan.next()).await;
            if self.idle(waits_until).await.is_break() {
                return self.leave().await;
            }
        }
    }

    pub(super) fn desired(&self) -> Desired {
        self.shared.view.borrow().desired.clone()
    }

    fn plan(&self, desired: &Desired) -> VmPlan {
        plan(desired, &self.observed, self.shared.spec.rules(), self.node.now())
    }

    async fn perform(&mut self, step: &VmStep, desired: &Desired) {
        self.publish(desired, Some(step));
        let done = match self.execute(step).await {
            Err(StepError::Failed(failure)) if step.is_up() => {
                self.explained_by_an_end(failure).await
            }
            done => done,
        };
        match done {
            Ok(()) => {
                self.observed = std::mem::take(&mut self.observed).after(step);
                self.retry = Backoff::default();
                self.after(step).await;
            }
            Err(StepError::Superseded) => {
                tracing::debug!(vm = %self.shared.spec.name, %step, "superseded");
            }
            Err(StepError::Ended(end)) => self.machine_ended(end).await,
            Err(StepError::Failed(failure)) => self.step_failed(step, failure, desired).await,
        }
    }

    /// A guest that falls silent because its machine has ended: the end says
    /// more than the silence.
    async fn explained_by_an_end(&self, failure: Failure) -> Result<(), StepError> {
        if failure.console
            && let Some(machine) = &self.machine
            && let Ok(end) = tokio::time::timeout(END_FOLLOWS, machine.wait()).await
        {
            return Err(StepError::Ended(end));
        }
        Err(StepError::Failed(failure))
    }

    /// What is worth to be known at once, and to the next life of the agent.
    async fn after(&mut self, step: &VmStep) {
        match step {
            VmStep::StartWorkload => {
                self.up_since = Some(Instant::now());
                self.shared.modify(|view| view.failure = None);
                let boot = self.shared.view.borrow().boot.unwrap_or_default();
                tracing::info!(
                    vm = %self.shared.spec.name,
                    boot_ms = u64::try_from(boot.as_millis()).unwrap_or(u64::MAX),
                    "running"
                );
                self.persist().await;
            }
            VmStep::Shutdown { .. } | VmStep::Kill => self.machine_is_gone().await,
            VmStep::Launch { .. } => self.persist().await,
            _ => {}
        }
    }

    async fn step_failed(&mut self, step: &VmStep, failure: Failure, desired: &Desired) {
        let name = &self.shared.spec.name;
        tracing::warn!(vm = %name, step = step.name(), cause = failure.cause, "failed");
        self.observed = std::mem::take(&mut self.observed).failed(step, desired);
        if step.is_up() {
            self.went_down();
        } else {
            self.retry = self.retry.failed(self.node.now(), Duration::ZERO);
        }
        if *step == VmStep::Reconnect {
            // The VM runs on; its link says that nobody is heard.
            return;
        }
        self.explain(step.name(), failure).await;
    }

    pub(super) async fn machine_ended(&mut self, end: MachineEnd) {
        let desired = self.desired();
        let was_up = matches!(
            self.observed.machine.map(|machine| machine.guest),
            Some(Guest::Up | Guest::Lost)
        );
        let reason = match end {
            MachineEnd::PoweredOff => DownReason::PoweredOff,
            MachineEnd::Reset => DownReason::Reset,
            MachineEnd::Panicked | MachineEnd::Killed | MachineEnd::Died(_) => DownReason::Crashed,
        };
        let name = self.shared.spec.name.clone();
        tracing::info!(vm = %name, ?end, "the machine has ended by itself");
        self.observed = std::mem::take(&mut self.observed).ended(reason, &desired);
        self.went_down();
        let step = if was_up { "run" } else { "boot" };
        if !was_up || reason == DownReason::Crashed {
            self.explain(step, of_end(&end, &name, !was_up)).await;
        }
        self.machine_is_gone().await;
    }

    fn went_down(&mut self) {
        let up = self.up_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.observed.backoff = self.observed.backoff.failed(self.node.now(), up);
    }

    async fn explain(&self, step: &str, failure: Failure) {
        let console = if failure.console {
            let (log, from) = (self.shared.paths.console_log(), self.console_from);
            let tail = tokio::task::spawn_blocking(move || console_tail(&log, from)).await;
            tail.unwrap_or_default()
        } else {
            Vec::new()
        };
        let record = failure.record(step, console, jiff::Timestamp::now());
        self.shared.modify(|view| view.failure = Some(Arc::new(record)));
    }

    /// After the machine's end, however it came about.
    async fn machine_is_gone(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
        self.drain_workload().await;
        self.machine = None;
        self.up_since = None;
        self.shared.live.send_replace(Live::default());
        self.shared.modify(|view| {
            view.machine = None;
            view.hello = None;
            view.link = Link::Absent;
            view.started_at = None;
            if let Some(workload) = &mut view.workload
                && workload.running
            {
                let workload = Arc::make_mut(workload);
                workload.running = false;
                workload.reason = Some("ended with its VM".to_owned());
            }
        });
        self.bound_logs().await;
        self.persist().await;
    }

    pub(super) async fn drain_workload(&mut self) {
        if let Some(follower) = self.follower.take()
            && let Some(record) = follower.drain().await
        {
            self.shared.modify(|view| view.workload = Some(Arc::new(record)));
        }
    }

    pub(super) fn publish(&self, desired: &Desired, step: Option<&VmStep>) {
        let link = match self.observed.machine.map(|machine| machine.guest) {
            None => Link::Absent,
            Some(Guest::Booting) => Link::Connecting,
            Some(Guest::Lost) => Link::Lost,
            Some(Guest::Absent) => Link::Absent,
            Some(Guest::Answered | Guest::Configured | Guest::Up) => Link::Ready,
        };
        let phase = phase(desired, &self.observed, step);
        self.shared.modify(|view| {
            view.observed = self.observed.clone();
            view.phase = phase;
            view.link = link;
        });
    }

    /// What is desired has been reached, or will not be without a request.
    async fn settle(&self, desired: &Desired, next: Option<&VmStep>) {
        // A step that waits for its next attempt is not at work.
        let at_work = next.filter(|step| matches!(step, VmStep::Reconnect));
        self.publish(desired, at_work);
        let stopped = desired.power == Power::Stopped && self.observed.machine.is_none();
        let changed = self.shared.view.borrow().observed_generation != desired.generation;
        self.shared.modify(|view| {
            view.observed_generation = desired.generation;
            if stopped {
                view.failure = None;
            }
        });
        if changed || self.observed.down.is_some() {
            self.persist().await;
        }
    }

    pub(super) async fn persist(&self) {
        let mut record = self.shared.view.borrow().to_record();
        record.observed = self.observed.clone();
        if let Err(error) = self.node.store.set_observed(self.shared.id, record).await {
            tracing::error!(vm = %self.shared.spec.name, error = %Chain(&error), "not stored");
        }
    }

    async fn idle(&mut self, until: Option<Moment>) -> std::ops::ControlFlow<()> {
        match self.next_event(until).await {
            Event::Closing => return std::ops::ControlFlow::Break(()),
            Event::Poked | Event::TimeIsUp => {}
            Event::MachineEnded(end) => self.machine_ended(end).await,
            Event::SessionLost(error) => self.session_lost(&error),
            Event::Workload(record) => {
                tracing::debug!(vm = %self.shared.spec.name, ?record, "the workload");
                self.shared.modify(|view| view.workload = Some(Arc::new(record)));
                self.persist().await;
            }
            Event::LogRound => self.bound_logs().await,
        }
        std::ops::ControlFlow::Continue(())
    }

    async fn next_event(&mut self, until: Option<Moment>) -> Event {
        let machine = self.machine.clone();
        let session = self.session.clone();
        let time = until.map(|moment| self.node.instant(moment));
        tokio::select! {
            // All but the follower's news only look at what stays to be seen;
            // receiving is cancel safe.
            () = self.shared.poke.notified() => Event::Poked,
            () = self.node.closing.cancelled() => Event::Closing,
            end = async {
                match &machine {
                    Some(machine) => machine.wait().await,
                    None => std::future::pending().await,
                }
            } => Event::MachineEnded(end),
            error = async {
                match &session {
                    Some(session) => session.closed().await,
                    None => std::future::pending().await,
                }
            } => Event::SessionLost(error),
            Some(record) = async {
                match &mut self.follower {
                    Some(follower) => follower.news.recv().await,
                    None => std::future::pending().await,
                }
            } => Event::Workload(record),
            () = tokio::time::sleep(LOG_ROUND), if machine.is_some() => Event::LogRound,
            () = async {
                match time {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => std::future::pending().await,
                }
            } => Event::TimeIsUp,
        }
    }

    fn session_lost(&mut self, error: &GuestError) {
        tracing::info!(vm = %self.shared.spec.name, error = %Chain(error), "session lost");
        self.session = None;
        self.shared.live.send_modify(|live| live.session = None);
        self.observed.session_lost();
    }

    async fn bound_logs(&self) {
        let logs = [self.shared.paths.console_log(), self.shared.paths.vmm_log()];
        let limit = self.node.config.log_limit;
        let name = self.shared.spec.name.clone();
        let bounded = tokio::task::spawn_blocking(move || {
            for log in logs {
                if let Err(error) = bound_log(&log, limit) {
                    tracing::warn!(vm = %name, log = %log.display(), %error, "a log is not cut");
                }
            }
        });
        // It only fails by a panic, which the log has.
        let _ = bounded.await;
    }

    /// The agent ends; the VM does not.
    async fn leave(mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
        self.drain_workload().await;
        self.persist().await;
    }

    fn vanish(self) {
        tracing::info!(vm = %self.shared.spec.name, id = %self.shared.id, "deleted");
        self.node.vms.forget(self.shared.id, &self.shared.spec.name);
        self.shared.modify(|view| {
            view.gone = true;
            view.observed_generation = view.desired.generation;
        });
    }

    pub(super) fn machine_record(machine: &AnyMachine, kvm: bool) -> MachineRecord {
        let identity = machine.identity().clone();
        MachineRecord {
            runtime: identity.runtime,
            pid: identity.pid,
            start_ticks: identity.start_ticks,
            host_boot_id: identity.host_boot_id,
            kvm,
        }
    }
}
