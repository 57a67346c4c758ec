//! VMs that nobody uses are put to rest, and woken by whoever needs them.
//!
//! ```text
//!   exec, files, console ──InUse──▶ used ──the last is gone──▶ unused ──so long──▶ is anything
//!     │                              ▲                           ▲      of an exec's running?
//!     │                              └── its guest sends ────────┘            │ no
//!     └── it rests: wakes it first ◀───────────── a rest is stored ◀──────────┘
//! ```
//!
//! Who comes is counted before it is looked whether the VM rests, and a rest is
//! only asked for while nobody is counted: so nobody's session is closed under
//! them. One task of the node looks at all VMs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_domain::network::tap_name;
use inn_domain::{
    CapacityDeniedReason, Change, IdleAction, IdleDeniedReason, OnIdle, Request, Rest, StopKind,
    admit_idle, decide, is_traffic, may_rest, rests_at,
};
use inn_fail_point::{Point, fail_point};
use inn_units::{VmId, format_duration};
use tokio::time::{Instant, timeout};

use super::doorbell::can_be_knocked_at;
use super::handle::{RequestError, VmHandle};
use super::publish::VmView;
use super::workload::WORKLOAD;
use crate::drain::Drained;
use crate::error::Chain;
use crate::events::{Event, EventKind};
use crate::hold::Held;
use crate::node::Node;
use crate::runtime::AnyMachine;

/// Between two looks at who uses a VM: so late it may rest.
const LOOK: Duration = Duration::from_secs(5);

/// Of VMs that rest soon: a quarter of their time, and not less than this.
const SOONEST: Duration = Duration::from_millis(250);

/// For a guest to say what runs in it.
const ASK: Duration = Duration::from_secs(5);

/// For a VM that was woken to have its machine.
const WAKES: Duration = Duration::from_secs(60);

/// Who uses a VM now, and when somebody last did.
#[derive(Debug)]
pub(super) struct Usage {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    users: usize,
    last: Instant,
    /// It rests, or is about to: who comes now wakes it.
    rests: bool,
    /// What its guest had sent at the last look.
    packets: u64,
    /// Its guest is being asked what runs in it.
    asked: bool,
    /// Who connects to it is looked for.
    attended: bool,
}

/// As long as it is there, its VM is not put to rest.
#[derive(Debug)]
pub(crate) struct InUse(VmHandle);

/// Why a VM that rests was not woken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAwake {
    #[error("{Held}")]
    Held,
    #[error(transparent)]
    Drained(#[from] Drained),
    #[error(transparent)]
    NoRoom(#[from] CapacityDeniedReason),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("waking it ended early")]
    Panicked(#[from] tokio::task::JoinError),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SetIdleError {
    #[error(transparent)]
    Denied(#[from] IdleDeniedReason),
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Usage {
    pub(super) fn new(rests: bool) -> Self {
        let last = Instant::now();
        let (asked, attended) = (false, false);
        let inner = Inner { users: 0, last, rests, packets: 0, asked, attended };
        Self { inner: Mutex::new(inner) }
    }

    /// Whether it rests.
    fn enter(&self) -> bool {
        let mut inner = self.lock();
        inner.users += 1;
        inner.rests
    }

    fn leave(&self) {
        let mut inner = self.lock();
        inner.users = inner.users.saturating_sub(1);
        inner.last = Instant::now();
    }

    fn touch(&self) {
        self.lock().last = Instant::now();
    }

    pub(super) fn set_rests(&self, rests: bool) {
        let mut inner = self.lock();
        if inner.rests && !rests {
            inner.last = Instant::now();
        }
        inner.rests = rests;
    }

    /// From now on who comes has to wake it, unless somebody has come.
    fn close(&self, after: Duration) -> bool {
        let mut inner = self.lock();
        let unused = inner.users == 0 && inner.last.elapsed() >= after;
        inner.rests |= unused;
        unused
    }

    /// How much its guest has sent by now. Another machine begins anew.
    fn has_sent(&self, packets: u64) {
        let mut inner = self.lock();
        if is_traffic(packets.saturating_sub(inner.packets)) {
            inner.last = Instant::now();
        }
        inner.packets = packets;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Numbers, each of which is right by itself.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.shared.usage.leave();
    }
}

impl VmHandle {
    /// For whoever needs its guest: one that rests is woken, and none is put to
    /// rest as long as what this gives is there.
    pub(crate) async fn in_use(&self, node: &Arc<Node>) -> Result<InUse, NotAwake> {
        let rests = self.shared.usage.enter();
        let used = InUse(self.clone());
        if rests {
            self.wake(node, "a call that needs its guest").await?;
        }
        Ok(used)
    }

    /// The same for whoever needs its machine: one that was woken has it, if
    /// all goes well.
    pub(crate) async fn machine_in_use(
        &self,
        node: &Arc<Node>,
    ) -> Result<(InUse, Option<Arc<AnyMachine>>), NotAwake> {
        let rested = self.view().desired.rest.is_some();
        let used = self.in_use(node).await?;
        if rested {
            let generation = self.view().desired.generation;
            self.wait_for(generation, WAKES).await;
        }
        Ok((used, self.machine()))
    }

    /// Ends its rest, if it rests, for `cause`. What is begun is done, whatever
    /// becomes of who asks.
    pub(crate) async fn wake(&self, node: &Arc<Node>, cause: &'static str) -> Result<(), NotAwake> {
        let (vm, node) = (self.clone(), Arc::clone(node));
        tokio::spawn(async move { vm.woken(&node, cause).await }).await?
    }

    async fn woken(&self, node: &Node, cause: &'static str) -> Result<(), NotAwake> {
        let _order = self.shared.requests.lock().await;
        if self.view().desired.rest.is_none() {
            return Ok(());
        }
        if node.holds() {
            return Err(NotAwake::Held);
        }
        if self.machine().is_none() {
            node.drain.admit()?;
        }
        let _room = node.vms.room_to_start(node, self)?;
        fail_point(Point::IdleWakes);
        self.change(&node.store, Request::Wake, false, |_| None).await?;
        let name = &self.spec().name;
        tracing::info!(vm = %name, cause, "woken");
        let event = Event::new(EventKind::VmWoken, format!("VM {name} is woken by {cause}"));
        node.events.tell(event.of(self).with("cause", cause));
        Ok(())
    }

    /// What becomes of it when nobody uses it, from now on.
    pub(crate) async fn set_on_idle(
        &self,
        node: &Node,
        on_idle: Option<OnIdle>,
    ) -> Result<VmView, SetIdleError> {
        on_idle.map_or(Ok(()), |on_idle| admit_idle(&on_idle, self.spec()))?;
        let _order = self.shared.requests.lock().await;
        let view = self.view();
        let asked = decide(&view.desired, &view.observed, Request::SetOnIdle(on_idle));
        if let Change::To(desired) = asked.map_err(RequestError::from)? {
            let stored = node.store.set_desired(self.id(), desired, self.durability()).await;
            stored.map_err(RequestError::from)?;
            fail_point(Point::IdleStored);
            // Its task has nothing to do with it.
            self.shared.modify(|view| view.desired.on_idle = on_idle);
            node.idle_changed.notify_one();
        }
        Ok(self.view())
    }

    /// Puts it to rest, unless somebody has come meanwhile.
    async fn rest(&self, node: &Node, on_idle: OnIdle) -> Result<(), RequestError> {
        let _order = self.shared.requests.lock().await;
        let view = self.view();
        let may = view.held.is_none()
            && view.desired.on_idle == Some(on_idle)
            && may_rest(&view.desired, &view.observed);
        if !may || !self.shared.usage.close(on_idle.after) {
            return Ok(());
        }
        fail_point(Point::IdleDue);
        let rest = Rest { action: on_idle.action, since: since_epoch() };
        let stop = StopKind::Graceful { grace: node.config.live().stop_timeout };
        let stored = self.change(&node.store, Request::Rest(rest, stop), false, |_| None).await;
        self.shared.usage.set_rests(self.view().desired.rest.is_some());
        stored?;
        let (name, action) = (&self.spec().name, verb(on_idle.action));
        let after = format_duration(on_idle.after);
        tracing::info!(vm = %name, action, after, "idle");
        let message = format!("VM {name} is put to rest, unused for {after}: {action}");
        let event = Event::new(EventKind::VmIdle, message).of(self);
        node.events.tell(event.with("action", action));
        // At once: somebody may be connecting.
        node.idle_changed.notify_one();
        Ok(())
    }

    /// Nobody has come for long: unless something runs in it, it is put to
    /// rest.
    async fn consider(&self, node: &Node, on_idle: OnIdle) {
        let session = self.shared.live.borrow().session.clone();
        let busy = match session {
            // Nobody can run anything in one without a guest agent.
            None => false,
            Some(session) => match timeout(ASK, session.list_execs()).await {
                Ok(Ok(execs)) => {
                    execs.iter().any(|exec| exec.ended.is_none() && exec.id != WORKLOAD)
                }
                // What runs in it cannot be told.
                Ok(Err(_)) | Err(_) => true,
            },
        };
        if busy {
            self.shared.usage.touch();
            return;
        }
        if let Err(error) = self.rest(node, on_idle).await {
            let error = Chain(&error).to_string();
            tracing::error!(vm = %self.spec().name, error, "it is put to rest later");
            self.shared.usage.touch();
        }
    }
}

/// What ends such a rest, in words.
pub(crate) const fn woken_by(action: IdleAction) -> &'static str {
    match action {
        IdleAction::Pause => "a call that needs its guest, a connection to it, or a start",
        IdleAction::Snapshot | IdleAction::Stop => "a call that needs its guest, or a start",
    }
}

const fn verb(action: IdleAction) -> &'static str {
    match action {
        IdleAction::Pause => "pause",
        IdleAction::Snapshot => "snapshot",
        IdleAction::Stop => "stop",
    }
}

/// As it is stored.
fn since_epoch() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Puts VMs to rest that nobody uses, until the agent ends.
pub(crate) fn watch_idle(node: &Arc<Node>) {
    let watching = Arc::clone(node);
    node.tasks.spawn(async move {
        let node = watching;
        loop {
            let next = look(&node).await;
            tokio::select! {
                // All only wait; who uses what is looked up anew.
                () = node.closing.cancelled() => return,
                () = node.idle_changed.notified() => {}
                () = async {
                    match next {
                        Some(next) => tokio::time::sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    });
}

/// When to look again; never where no VM is ever to rest.
async fn look(node: &Arc<Node>) -> Option<Instant> {
    let mut vms: Vec<(VmHandle, OnIdle)> = Vec::new();
    for vm in node.vms.all() {
        let desired = vm.view().desired;
        if can_be_knocked_at(&desired) {
            attend(node, &vm);
        }
        vms.extend(desired.on_idle.map(|on_idle| (vm, on_idle)));
    }
    if vms.is_empty() {
        return None;
    }
    let sent = sent_by_taps(node, &vms).await;
    let now = Instant::now();
    let mut next = now + LOOK;
    for (vm, on_idle) in vms {
        let view = vm.view();
        let usage = &vm.shared.usage;
        next = next.min(now + (on_idle.after / 4).clamp(SOONEST, LOOK));
        if !may_rest(&view.desired, &view.observed) {
            usage.touch();
            continue;
        }
        if let Some(packets) = sent.get(&vm.id()).copied().or_else(|| sent_by_guest(&vm)) {
            usage.has_sent(packets);
        }
        let mut inner = usage.lock();
        let due = rests_at(&on_idle, inner.users, node.moment(inner.last));
        match due.map(|due| node.instant(due)) {
            Some(due) if due <= now && !inner.asked => {
                inner.asked = true;
                drop(inner);
                let node = Arc::clone(node);
                node.tasks.clone().spawn(async move {
                    tokio::select! {
                        // What is desired is stored whole, or not at all.
                        () = vm.consider(&node, on_idle) => {}
                        () = node.closing.cancelled() => {}
                    }
                    vm.shared.usage.lock().asked = false;
                });
            }
            Some(due) if due > now => next = next.min(due),
            _ => {}
        }
    }
    Some(next)
}

/// Has who connects to one that rests looked for, once.
fn attend(node: &Arc<Node>, vm: &VmHandle) {
    if std::mem::replace(&mut vm.shared.usage.lock().attended, true) {
        return;
    }
    let (node, vm) = (Arc::clone(node), vm.clone());
    node.tasks.clone().spawn(async move {
        vm.attend(&node).await;
        vm.shared.usage.lock().attended = false;
        // It may rest again by now.
        node.idle_changed.notify_one();
    });
}

/// Packets that came out of the taps of those that have one.
async fn sent_by_taps(node: &Node, vms: &[(VmHandle, OnIdle)]) -> HashMap<VmId, u64> {
    let taps: HashMap<String, VmId> = vms
        .iter()
        .map(|(vm, _)| vm.id())
        .filter(|id| node.networks.is_attached(*id))
        .map(|id| (tap_name(id).as_str().to_owned(), id))
        .collect();
    if taps.is_empty() {
        return HashMap::new();
    }
    let asked = tokio::task::spawn_blocking(move || {
        let links = inn_net::sent::of_links()?;
        let of = |(name, packets): (String, u64)| Some((*taps.get(&name)?, packets));
        Ok::<_, inn_net::sent::SentError>(links.into_iter().filter_map(of).collect())
    });
    match asked.await {
        Ok(Ok(sent)) => sent,
        Ok(Err(error)) => {
            tracing::debug!(error = %Chain(&error), "the taps' counters cannot be read");
            HashMap::new()
        }
        // By a panic, which the log has.
        Err(_) => HashMap::new(),
    }
}

/// Of one on the VMM's own network: what its guest tells. That is late by the
/// interval of telemetry, and nothing at all where it has no agent.
fn sent_by_guest(vm: &VmHandle) -> Option<u64> {
    let latest = vm.telemetry().latest()?;
    let outer = latest.telemetry.interfaces.iter().filter(|interface| interface.name != "lo");
    Some(outer.fold(0, |sum, interface| sum.saturating_add(interface.tx.packets)))
}
