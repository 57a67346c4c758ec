//! The loop that owns a VM: read, plan, apply, publish.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::{Backoff, Desired, Moment, Observed, PhaseResult, Power, VmPlan, VmStep, plan};
use inn_fail_point::{Point, fail_point};
use inn_guest_proto::capability;
use inn_store::{MachineRecord, WorkloadRecord};
use inn_units::{Architecture, Generation};
use inn_vmm::{Machine, MachineEnd, bound_log};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::backoff_record;
use super::boots::began;
use super::capture::SETTLES;
use super::card::Card;
use super::execute::{Ordered, StepOutcome, Way, waiting};
use super::failure::{Failure, StepError};
use super::handle::{VmHandle, VmShared};
use super::telemetry::{First, Recorder};
use super::workload::Follower;
use crate::error::Chain;
use crate::guest::{ExecSummary, GuestError, GuestSession, Health, HeldBack};
use crate::node::Node;
use crate::runtime::AnyMachine;
use crate::traces;
use crate::turns::Turn;

/// The longest wait before a lost guest, or one that came late, is looked for
/// again: nobody tells when it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// A session that lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(10);

pub(super) struct VmTask {
    pub(super) node: Arc<Node>,
    pub(super) shared: Arc<VmShared>,
    /// It is nobody's yet: see [`super::Draft`].
    pub(super) is_draft: bool,
    pub(super) observed: Observed,
    pub(super) machine: Option<Arc<AnyMachine>>,
    pub(super) card: Card,
    pub(super) session: Option<GuestSession>,
    /// To its guest, where that has no session.
    pub(super) way: Way,
    /// Its guest has the order to become itself, since the handshake.
    pub(super) ordered: Option<Ordered>,
    /// What ran in its guest when that became itself, on this session.
    pub(super) execs: Option<Vec<ExecSummary>>,
    session_since: Option<Instant>,
    /// The session's, as its pings find it.
    pub(super) health: Option<watch::Receiver<Health>>,
    pub(super) recorder: Option<Recorder>,
    /// Held while its machine starts.
    pub(super) turn: Option<Turn>,
    /// What ended the session before.
    pub(super) lost: Option<Arc<str>>,
    pub(super) follower: Option<Follower>,
    /// Until when the guest has to be configured.
    pub(super) boot_deadline: Instant,
    pub(super) launched_at: Instant,
    /// The kernel that it boots next, where its machine goes on with another one.
    pub(super) next_kernel: Option<String>,
    pub(super) up_since: Option<Instant>,
    /// When the way up that is recorded last began.
    pub(super) boot_began: Instant,
    /// When a step that is tried until it succeeds is tried next.
    pub(super) retry: Backoff,
    /// The generation that `retry` is about.
    pub(super) seen: Generation,
}

/// What a machine does not tell of itself.
#[derive(Debug, Clone)]
pub(crate) struct Booted {
    pub(crate) kvm: bool,
    /// A digest of the kernel in its memory, where that is known.
    pub(crate) kernel: Option<String>,
    /// What its CPUs are, where that is not the agent's own.
    pub(crate) foreign_architecture: Option<Architecture>,
}

/// What ends an idle wait.
enum Event {
    Poked,
    Closing,
    MachineEnded(MachineEnd),
    SessionLost(GuestError),
    /// How it stands with the guest agent may have changed.
    Link,
    Workload(WorkloadRecord),
    TimeIsUp,
}

impl VmTask {
    pub(super) fn new(node: Arc<Node>, vm: &VmHandle, observed: Observed) -> Self {
        let now = Instant::now();
        Self {
            node,
            shared: Arc::clone(&vm.shared),
            is_draft: false,
            observed,
            machine: None,
            card: Card::default(),
            session: None,
            way: Way::default(),
            ordered: None,
            execs: None,
            session_since: None,
            health: None,
            recorder: None,
            turn: None,
            lost: None,
            follower: None,
            boot_deadline: now,
            launched_at: now,
            next_kernel: None,
            up_since: None,
            boot_began: began(&vm.shared.view.borrow().boots),
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
            self.hold_card().await;
            let waits_for_cloud_init = self.waits_for_cloud_init() && !self.observed.is_paused();
            if waits_for_cloud_init && self.session.is_none() && self.cloud_init_is_late() {
                self.give_up_cloud_init(Vec::new()).await;
                continue;
            }
            if desired.power != Power::Running {
                self.give_up_warm().await;
            } else {
                self.begin_late().await;
            }
            let plan = self.plan(&desired);
            if !plan.next().is_some_and(VmStep::needs_start_turn) {
                self.turn = None;
            }
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
            self.rests(plan.next(), waits_until);
            if plan.next().is_none() {
                self.shared.is_as_asked(desired.generation);
            }
            // A VM that nobody has answered for yet is on its way as long as
            // its agent is only just being installed.
            let waits_until = match waits_for_cloud_init {
                true => {
                    self.publish(&desired, None);
                    let deadline = self.node.moment(self.cloud_init_deadline());
                    Some(waits_until.map_or(deadline, |until| until.min(deadline)))
                }
                false => {
                    self.settle(&desired, plan.next()).await;
                    waits_until
                }
            };
            if let Some(request) = self.take_capture() {
                self.capture(request).await;
                continue;
            }
            let tells = self.tells_card().map(|again| self.node.moment(again));
            let until = waits_until.into_iter().chain(tells).min();
            if self.idle(until).await.is_break() {
                return self.leave().await;
            }
        }
    }

    pub(super) fn desired(&self) -> Desired {
        self.shared.view.borrow().wanted()
    }

    fn cloud_init_is_late(&self) -> bool {
        Instant::now() >= self.cloud_init_deadline()
    }

    fn plan(&self, desired: &Desired) -> VmPlan {
        plan(desired, &self.observed, self.rules(), self.node.now())
    }

    async fn perform(&mut self, step: &VmStep, desired: &Desired) {
        if self.await_turn(step, desired).await.is_err() {
            tracing::debug!(vm = %self.shared.spec.name, %step, "waits no more");
            return;
        }
        self.begins(step);
        self.phase_begins(step);
        self.publish(desired, Some(step));
        let mut span = self.shared.begin_span(&self.node, step.name());
        let done = match traces::within(span.context(), self.execute(step)).await {
            Err(StepError::Failed(failure)) if step.is_up() => {
                self.explained_by_an_end(failure).await
            }
            done => done,
        };
        if let Some(result) = self.result_of(&done) {
            self.phase_ends(step, result);
        }
        match &done {
            Err(StepError::Failed(failure)) => span.fail(failure.cause.clone()),
            Err(StepError::Ended(_)) => span.fail("the machine has ended"),
            Err(StepError::Superseded) | Ok(_) => {}
        }
        drop(span);
        match done {
            Ok(StepOutcome::NoAgent) => self.runs_without_agent().await,
            Ok(outcome) => {
                if let StepOutcome::Ended(end) = outcome {
                    self.tell_end(&end);
                    self.shared.modify(|view| view.last_end = Some(Arc::new(end)));
                }
                self.observed = std::mem::take(&mut self.observed).after(step);
                self.meter();
                // Whether a guest that is back also stays will be seen.
                if *step != VmStep::Reconnect {
                    self.retry = Backoff::default();
                }
                self.after(step).await;
            }
            Err(error) if step.is_up() && self.boots_instead(&error).await => {}
            Err(StepError::Superseded) => {
                tracing::debug!(vm = %self.shared.spec.name, %step, "superseded");
            }
            Err(StepError::Ended(end)) => self.machine_ended(end).await,
            Err(StepError::Failed(failure)) => self.step_failed(step, failure, desired).await,
        }
    }

    /// How a step went; `None` where the agent's next life goes on with it.
    fn result_of(&self, done: &Result<StepOutcome, StepError>) -> Option<PhaseResult> {
        Some(match done {
            Ok(StepOutcome::NoAgent) => PhaseResult::Unanswered,
            Ok(StepOutcome::Impaired) => PhaseResult::Failed,
            Ok(StepOutcome::Done | StepOutcome::Ended(_)) => PhaseResult::Done,
            Err(StepError::Superseded) if self.node.closing.is_cancelled() => return None,
            Err(StepError::Superseded) => PhaseResult::GivenUp,
            Err(StepError::Ended(_) | StepError::Failed(_)) => PhaseResult::Failed,
        })
    }

    /// What is worth to be known at once, and to the next life of the agent.
    async fn after(&mut self, step: &VmStep) {
        match step {
            VmStep::Handshake => fail_point(Point::BootGreeted),
            VmStep::Configure => fail_point(Point::BootConfigured),
            VmStep::StartWorkload => {
                fail_point(Point::BootWorkload);
                self.up_since.get_or_insert_with(Instant::now);
                self.let_go_of_origin();
                self.shared.modify(|view| view.failure = None);
                self.record_telemetry();
                let boot = self.shared.view.borrow().boot.unwrap_or_default();
                let from =
                    if self.shared.view.borrow().receipt.is_some() { "saved" } else { "boot" };
                self.node.metrics.started(from, boot);
                tracing::info!(
                    vm = %self.shared.spec.name,
                    boot_ms = u64::try_from(boot.as_millis()).unwrap_or(u64::MAX),
                    "running"
                );
                self.persist().await;
                fail_point(Point::BootRecorded);
            }
            VmStep::Shutdown { .. } | VmStep::Kill => {
                fail_point(Point::StopEnded);
                self.machine_is_gone().await;
                fail_point(Point::StopRecorded);
            }
            VmStep::Launch { .. } => {
                fail_point(Point::LaunchDone);
                if self.waits_for_cloud_init() && !self.has_no_agent_to_come() {
                    self.publish_cloud_init(waiting(None));
                }
                if self.observed.machine.is_some_and(|machine| machine.is_up_as_it_runs()) {
                    self.up_since = Some(Instant::now());
                    self.shared.modify(|view| view.failure = None);
                }
                self.persist().await;
                fail_point(Point::LaunchRecorded);
            }
            VmStep::Pause => {
                self.persist().await;
                fail_point(Point::PauseRecorded);
            }
            VmStep::Resume => {
                self.persist().await;
                fail_point(Point::ResumeRecorded);
            }
            VmStep::Suspend => {
                self.persist().await;
                fail_point(Point::SuspendRecorded);
            }
            VmStep::Reconnect => {
                self.record_telemetry();
                self.persist().await;
            }
            _ => {}
        }
    }

    async fn step_failed(&mut self, step: &VmStep, failure: Failure, desired: &Desired) {
        let name = &self.shared.spec.name;
        tracing::warn!(vm = %name, step = step.name(), cause = failure.cause, "failed");
        self.node.metrics.failed(step.name());
        self.observed = std::mem::take(&mut self.observed).failed(step, desired);
        let is_up = self.observed.machine.is_some_and(|machine| machine.counts_as_up());
        let runs_on = *step == VmStep::Reconnect || is_up;
        if runs_on && (step.is_up() || *step == VmStep::Reconnect) {
            // The VM runs on; its link says what it lacks.
            self.hang_up().await;
            self.lost = Some(failure.cause.into());
            self.look_again();
            return;
        }
        if *step == VmStep::Suspend {
            return self.stays_awake(failure).await;
        }
        if step.is_up() {
            self.went_down();
        } else {
            self.retry = self.retry.failed(self.node.now(), Duration::ZERO);
        }
        self.explain(step.name(), failure).await;
    }

    /// A full VM needs no agent. One that comes late is found.
    async fn runs_without_agent(&mut self) {
        tracing::info!(vm = %self.shared.spec.name, "no guest agent answers: it runs without one");
        self.observed.unanswered();
        self.look_again();
        self.persist().await;
    }

    fn look_again(&mut self) {
        self.retry = self.retry.failed_within(self.node.now(), Duration::ZERO, LOOK_AGAIN);
    }

    pub(super) async fn drain_workload(&mut self) {
        if let Some(follower) = self.follower.take()
            && let Some(record) = follower.drain().await
        {
            self.shared.modify(|view| view.workload = Some(Arc::new(record)));
        }
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
        record.backoff = backoff_record(self.observed.backoff, self.node.now());
        if let Err(error) = self.node.store.set_observed(self.shared.id, record).await {
            tracing::error!(vm = %self.shared.spec.name, error = %Chain(&error), "not stored");
        }
    }

    async fn idle(&mut self, until: Option<Moment>) -> std::ops::ControlFlow<()> {
        match self.next_event(until).await {
            Event::Closing => return std::ops::ControlFlow::Break(()),
            Event::Poked | Event::TimeIsUp => {}
            Event::MachineEnded(end) => self.machine_ended(end).await,
            Event::SessionLost(error) => self.session_lost(&error).await,
            Event::Link => self.publish_link(),
            Event::Workload(record) => {
                tracing::debug!(vm = %self.shared.spec.name, ?record, "the workload");
                self.shared.modify(|view| view.workload = Some(Arc::new(record)));
                self.persist().await;
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    async fn next_event(&mut self, until: Option<Moment>) -> Event {
        let machine = self.machine.clone();
        let session = self.session.clone();
        let (health, recorder) = (&mut self.health, &mut self.recorder);
        let time = until.map(|moment| self.node.instant(moment));
        tokio::select! {
            // All but the follower's news only look at what stays to be seen;
            // receiving is cancel safe.
            () = self.shared.poke.notified() => Event::Poked,
            () = self.node.closing.cancelled() => Event::Closing,
            end = async {
                match &machine {
                    Some(machine) => machine.wait().await,
                    None => pending().await,
                }
            } => Event::MachineEnded(end),
            error = async {
                match &session {
                    Some(session) => session.closed().await,
                    None => pending().await,
                }
            } => Event::SessionLost(error),
            () = async {
                if let Some(health) = health
                    && health.changed().await.is_ok()
                {
                    return;
                }
                // Where the session is over, that is told by itself.
                pending().await
            } => Event::Link,
            () = async {
                match recorder {
                    Some(recorder) => recorder.changed().await,
                    None => pending().await,
                }
            } => Event::Link,
            Some(record) = async {
                match &mut self.follower {
                    Some(follower) => follower.news.recv().await,
                    None => pending().await,
                }
            } => Event::Workload(record),
            () = async {
                match time {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => pending().await,
                }
            } => Event::TimeIsUp,
        }
    }

    pub(super) async fn session_lost(&mut self, error: &GuestError) {
        tracing::info!(vm = %self.shared.spec.name, error = %Chain(error), "session lost");
        self.hang_up().await;
        self.lost = Some(Chain(error).to_string().into());
        self.observed.session_lost();
        // A guest that greets and goes, again and again, is to cost nobody
        // else anything; one that was there for long is looked for at once.
        if self.session_since.is_some_and(|since| since.elapsed() >= STEADY) {
            self.retry = Backoff::default();
        } else {
            self.look_again();
        }
    }

    /// From now on this session is the guest's.
    pub(super) fn listen_to(&mut self, session: GuestSession) {
        self.session_since = Some(Instant::now());
        self.health = Some(session.health());
        self.execs = None;
        self.session = Some(session);
    }

    /// Ends the session of a guest that is to stand still, once that has read all it
    /// was told.
    pub(super) async fn hang_up_between_frames(&mut self) {
        let held = match &self.session {
            Some(session) => Some(session.hold_back(SETTLES).await),
            None => None,
        };
        let left = held.as_ref().map_or(self.way.between_frames, HeldBack::is_between_frames);
        self.hang_up().await;
        self.way.between_frames = left;
    }

    /// Ends the session, if there is one, and all that hangs on it.
    pub(super) async fn hang_up(&mut self) {
        self.way = Way::default();
        self.recorder = None;
        self.health = None;
        if let Some(session) = self.session.take() {
            session.close().await;
        }
        self.shared.live.send_modify(|live| live.session = None);
    }

    fn record_telemetry(&mut self) {
        if let Some(session) = &self.session
            && session.hello().can(capability::TELEMETRY)
        {
            let config = self.node.config.subscribe();
            let vm = Arc::clone(&self.shared);
            let went_on = self.shared.view.borrow().receipt.is_some();
            let first = if went_on { First::Later } else { First::AtOnce };
            self.recorder = Some(Recorder::start(session.clone(), vm, config, first));
        }
    }

    pub(super) async fn bound_logs(&self) {
        let logs = [self.shared.paths.console_log(), self.shared.paths.vmm_log()];
        let limit = self.node.config.live().log_limit;
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
        self.give_up_warm().await;
        self.give_up_successors_clone().await;
        drop(self.take_capture());
        self.hang_up().await;
        self.drain_workload().await;
        self.persist().await;
    }

    fn vanish(self) {
        tracing::info!(vm = %self.shared.spec.name, id = %self.shared.id, "deleted");
        self.tell_deleted();
        drop(self.take_capture());
        self.let_go_of_origin();
        self.node.metering.ends(self.shared.id);
        let vm = VmHandle { shared: Arc::clone(&self.shared) };
        if self.node.vms.succeed(&self.node, &vm).is_none() {
            self.node.vms.forget(self.shared.id, &self.shared.spec.name);
        }
        self.shared.modify(|view| {
            view.gone = true;
            view.observed_generation = view.desired.generation;
        });
    }

    pub(super) fn machine_record(machine: &AnyMachine, booted: Booted) -> MachineRecord {
        let identity = machine.identity().clone();
        MachineRecord {
            runtime: identity.runtime,
            pid: identity.pid,
            start_ticks: identity.start_ticks,
            host_boot_id: identity.host_boot_id,
            kvm: booted.kvm,
            kernel: booted.kernel,
            foreign_architecture: booted.foreign_architecture,
        }
    }
}
