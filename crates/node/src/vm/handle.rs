use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use inn_domain::network::Policy;
use inn_domain::{
    Change, ChangeDeniedReason, Guest, Network, Pause, Power, Request, VmPhase, VmSpec, decide,
};
use inn_fail_point::{Point, fail_point};
use inn_store::{Durability, KeyMark, ObservedRecord, Store, StoreError, VmRecord};
use inn_trace::Context;
use inn_units::{Architecture, Bytes, Generation, VmId};
use inn_vmm::MachineIdentity;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::activity::Activity;
use super::capture::CaptureRequest;
use super::idle::Usage;
use super::lease::LeaseState;
use super::publish::{Live, VmView};
use super::succeed::Successor;
use super::telemetry::TelemetryRing;
use super::ttl::Ttl;
use super::warm::Warm;
use crate::guest::GuestSession;
use crate::logging::VM_SPAN;
use crate::node::Node;
use crate::paths::VmPaths;
use crate::runtime::AnyMachine;
use crate::snapshots::Held;
use crate::traces;

/// How long a call waits for a session that was lost to come back.
pub(super) const RECONNECT: Duration = Duration::from_secs(15);

/// What the rest of the agent has of a VM. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct VmHandle {
    pub(super) shared: Arc<VmShared>,
}

#[derive(Debug)]
pub(crate) struct VmShared {
    pub(super) id: VmId,
    pub(super) spec: VmSpec,
    pub(super) created_at: Timestamp,
    /// In bytes, what its disk has grown to: never less than the spec says.
    pub(super) disk_size: AtomicU64,
    pub(super) telemetry: TelemetryRing,
    pub(super) paths: VmPaths,
    pub(super) view: watch::Sender<VmView>,
    pub(super) live: watch::Sender<Live>,
    pub(super) poke: Notify,
    /// Requests are decided and stored one after the other.
    pub(super) requests: Mutex<()>,
    /// Its guest is told of its addresses by one at a time.
    pub(super) telling: Mutex<()>,
    pub(super) lease: std::sync::Mutex<LeaseState>,
    pub(super) ttl: std::sync::Mutex<Option<Ttl>>,
    /// Who takes its place once it is gone.
    pub(super) successor: std::sync::Mutex<Option<Successor>>,
    /// What its task is asked for.
    pub(super) capture: std::sync::Mutex<Option<CaptureRequest>>,
    /// What it begins from, until it is up.
    pub(super) origin: std::sync::Mutex<Option<Arc<Held>>>,
    /// The same, where its spec says nothing of it.
    pub(super) warm: std::sync::Mutex<Option<Warm>>,
    /// The same, once it is to run.
    pub(super) begins_later: AtomicBool,
    /// Who uses it.
    pub(super) usage: Usage,
    /// Where what is desired was asked for, until it is so.
    pub(super) asked_in: std::sync::Mutex<Option<Context>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Denied(#[from] ChangeDeniedReason),
    #[error("the request cannot be kept")]
    Store(#[from] StoreError),
}

/// Why there is nobody to talk to in a VM.
#[derive(Debug)]
pub(crate) enum NotReady {
    Gone,
    /// It neither runs nor is on its way.
    Down(Box<VmView>),
    /// It runs, and its guest does not answer.
    Silent,
    /// A full VM that runs without a guest agent; there is none for CPUs of another
    /// architecture.
    NoAgent(Option<Architecture>),
    /// It stands still, or is about to.
    Paused(Pause),
}

impl VmShared {
    /// As it is stored, and was seen last.
    pub(super) fn new(
        node: &Node,
        record: VmRecord,
        observed: &ObservedRecord,
        ttl: Option<Ttl>,
    ) -> Self {
        let lease = if record.spec.lease { LeaseState::Waiting } else { LeaseState::None };
        let deadline = node.config.live().start_deadline;
        let rests = record.desired.rest.is_some();
        let mut view = VmView::new(record.desired, observed, deadline);
        view.limits = record.changed_limits.unwrap_or(record.spec.limits);
        view.policy = record.changed_policy.unwrap_or_else(|| record.spec.policy.clone());
        Self {
            id: record.id,
            paths: node.config.paths.of_vm(record.id),
            created_at: record.created_at,
            disk_size: AtomicU64::new(record.grown_disk.unwrap_or(record.spec.disk).get()),
            telemetry: TelemetryRing::default(),
            view: watch::channel(view).0,
            live: watch::channel(Live::default()).0,
            poke: Notify::new(),
            requests: Mutex::default(),
            telling: Mutex::default(),
            lease: std::sync::Mutex::new(lease),
            ttl: std::sync::Mutex::new(ttl),
            successor: std::sync::Mutex::default(),
            capture: std::sync::Mutex::default(),
            origin: std::sync::Mutex::default(),
            warm: std::sync::Mutex::default(),
            begins_later: AtomicBool::new(false),
            usage: Usage::new(rests),
            asked_in: std::sync::Mutex::new(traces::current()),
            spec: record.spec,
        }
    }

    pub(super) fn has_card(&self) -> bool {
        self.spec.network != Network::None
    }

    pub(super) fn modify(&self, change: impl FnOnce(&mut VmView)) {
        self.view.send_modify(change);
    }

    pub(super) fn disk_size(&self) -> Bytes {
        Bytes(self.disk_size.load(Ordering::Relaxed))
    }

    /// By which the guest finds its own writable disk.
    pub(super) fn disk_serial(&self) -> &'static str {
        if self.spec.is_full() { "inn-disk" } else { "inn-rw" }
    }
}

impl VmHandle {
    pub(crate) fn id(&self) -> VmId {
        self.shared.id
    }

    /// Whoever works for it does so in this, by which the log knows it.
    pub(super) fn log_span(&self) -> tracing::Span {
        tracing::info_span!(VM_SPAN, id = %self.shared.id, name = %self.shared.spec.name)
    }

    pub(crate) fn spec(&self) -> &VmSpec {
        &self.shared.spec
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        self.shared.created_at
    }

    /// As large as its own disk is now.
    pub(crate) fn disk_size(&self) -> Bytes {
        self.shared.disk_size()
    }

    pub(crate) fn telemetry(&self) -> &TelemetryRing {
        &self.shared.telemetry
    }

    pub(crate) fn paths(&self) -> &VmPaths {
        &self.shared.paths
    }

    /// As asked for last.
    pub(crate) fn policy(&self) -> Policy {
        self.shared.view.borrow().policy.clone()
    }

    pub(crate) fn view(&self) -> VmView {
        self.shared.view.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<VmView> {
        self.shared.view.subscribe()
    }

    pub(crate) fn machine(&self) -> Option<Arc<AnyMachine>> {
        self.shared.live.borrow().machine.clone()
    }

    /// Changes what is desired, durably, and pokes the task. Asking for what
    /// is desired already is a success, and changes nothing.
    pub(crate) async fn request(
        &self,
        store: &Store,
        request: Request,
    ) -> Result<VmView, RequestError> {
        self.request_for(store, request, |_| None).await
    }

    /// The same for somebody who came with a key, which is written down with
    /// it: `mark` has the VM as it is desired then.
    pub(crate) async fn request_for(
        &self,
        store: &Store,
        request: Request,
        mark: impl FnOnce(&VmView) -> Option<KeyMark>,
    ) -> Result<VmView, RequestError> {
        let _order = self.shared.requests.lock().await;
        self.change(store, request, false, mark).await
    }

    /// The same for a VM whose time to live is over, in one write with that.
    /// Whether it is over still: somebody may have renewed it.
    pub(super) async fn end_of_time(
        &self,
        store: &Store,
        request: Request,
    ) -> Result<bool, RequestError> {
        let _order = self.shared.requests.lock().await;
        let over = self.ttl().is_some_and(|ttl| ttl.left().is_zero());
        if over {
            self.change(store, request, true, |_| None).await?;
        }
        Ok(over)
    }

    /// Requests are decided and stored one after the other: under their lock.
    pub(super) async fn change(
        &self,
        store: &Store,
        request: Request,
        ends_ttl: bool,
        mark: impl FnOnce(&VmView) -> Option<KeyMark>,
    ) -> Result<VmView, RequestError> {
        let mut view = self.view();
        let (id, durability) = (self.shared.id, self.durability());
        let changed = match decide(&view.desired, &view.observed, request)? {
            Change::To(desired) => Some(desired),
            Change::Nothing => None,
        };
        if ends_ttl {
            let desired = changed.clone().unwrap_or(view.desired);
            store.end_ttl(id, desired, durability).await?;
            self.forget_ttl();
        } else if let Some(desired) = &changed {
            view.desired = desired.clone();
            let mark = mark(&view);
            store.set_desired_for(id, desired.clone(), durability, mark).await?;
        }
        if let Some(desired) = changed {
            fail_point(Point::ChangeStored);
            tracing::info!(
                vm = %self.shared.spec.name,
                id = %self.shared.id,
                desired = ?desired.power,
                generation = desired.generation.0,
                "changed what is desired"
            );
            self.shared.usage.set_rests(desired.rest.is_some());
            self.shared.desires(desired);
            self.shared.poke.notify_one();
            fail_point(Point::ChangePoked);
        }
        Ok(self.view())
    }

    /// The view once it has settled at `generation` or a later one, or as it
    /// is when `wait` is over.
    pub(crate) async fn wait_for(&self, generation: Generation, wait: Duration) -> VmView {
        let mut views = self.watch();
        let settled = views.wait_for(|v| v.gone || v.observed_generation >= generation);
        if let Ok(Ok(view)) = tokio::time::timeout(wait, settled).await {
            return view.clone();
        }
        // The time is over.
        self.view()
    }

    /// Whether a process of its machine's name is neither the machine that it
    /// has nor one that is being launched for it.
    pub(crate) fn disowns(&self, identity: &MachineIdentity) -> bool {
        let view = self.shared.view.borrow();
        match &view.machine {
            Some(own) => (own.pid, own.start_ticks) != (identity.pid, identity.start_ticks),
            // A clone that has waited for it is its own.
            None => !matches!(view.activity, Activity::AtWork { .. }) && !self.shared.begins_warm(),
        }
    }

    pub(crate) fn has_machine(&self) -> bool {
        self.shared.view.borrow().observed.machine.is_some()
    }

    /// Whatever is desired, it goes down, within so long by itself and then by
    /// force, and stays down.
    pub(crate) fn keep_down(&self, grace: Duration) {
        self.shared.modify(|view| view.held = Some(grace));
        self.shared.poke.notify_one();
    }

    /// What is desired counts again.
    pub(crate) fn release(&self) {
        let held = self.shared.view.send_if_modified(|view| view.held.take().is_some());
        if held {
            self.shared.poke.notify_one();
        }
    }

    /// Whether it is down, at that time or before. It is waited for only as
    /// long as it counts.
    pub(crate) async fn wait_down(&self, until: Instant, counts: impl Fn(&VmView) -> bool) -> bool {
        let is_down = |view: &VmView| {
            let rests = matches!(view.phase, VmPhase::Stopped | VmPhase::Failed);
            view.gone || rests && view.observed.machine.is_none()
        };
        let mut views = self.watch();
        let down = views.wait_for(|view| is_down(view) || !counts(view));
        match timeout_at(until, down).await {
            Ok(Ok(view)) => is_down(&view),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Waits for the VM's end.
    pub(crate) async fn wait_gone(&self, wait: Duration) -> VmView {
        let mut views = self.watch();
        let gone = views.wait_for(|v| v.gone);
        if let Ok(Ok(view)) = tokio::time::timeout(wait, gone).await {
            return view.clone();
        }
        self.view()
    }

    /// The guest's session; waits for it while the VM is on its way up, which
    /// has a deadline of its own.
    pub(crate) async fn session(&self) -> Result<GuestSession, NotReady> {
        let mut live = self.shared.live.subscribe();
        let mut views = self.watch();
        let mut silent_since = None;
        loop {
            let session = live.borrow_and_update().session.clone();
            if let Some(session) = session
                && !session.is_closed()
            {
                return Ok(session);
            }
            let view = views.borrow_and_update().clone();
            if view.gone {
                return Err(NotReady::Gone);
            }
            if view.held.is_none()
                && let Some(pause) = &view.desired.paused
            {
                return Err(NotReady::Paused(pause.clone()));
            }
            let at_rest = matches!(view.phase, VmPhase::Stopped | VmPhase::Failed);
            let down = view.held.is_some() || view.desired.power != Power::Running;
            if down || at_rest && view.has_settled() {
                return Err(NotReady::Down(Box::new(view)));
            }
            let guest = view.observed.machine.map(|machine| machine.guest);
            let give_up = match guest {
                Some(Guest::Absent) => return Err(NotReady::NoAgent(view.foreign_architecture())),
                Some(Guest::Up | Guest::Adopted | Guest::Lost) => {
                    *silent_since.get_or_insert_with(Instant::now) + RECONNECT
                }
                _ => {
                    silent_since = None;
                    // Its steps have deadlines; this is none of them.
                    Instant::now() + Duration::from_secs(3600)
                }
            };
            tokio::select! {
                // Both only look at values.
                changed = live.changed() => if changed.is_err() { return Err(NotReady::Gone) },
                changed = views.changed() => if changed.is_err() { return Err(NotReady::Gone) },
                // Nothing is lost with it.
                () = tokio::time::sleep_until(give_up) => return Err(NotReady::Silent),
            }
        }
    }

    /// A leased VM dies with the agent and so with the host: a record that a
    /// crash of the host loses is no loss, and what files are left are reaped.
    pub(super) fn durability(&self) -> Durability {
        if self.shared.spec.lease { Durability::Agent } else { Durability::Host }
    }
}
