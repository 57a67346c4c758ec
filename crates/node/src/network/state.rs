use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use inn_domain::Network;
use inn_domain::network::{Action, Declared, Instance, MapTarget, NetworkWay, Policy, PortMap};
use inn_net::foreign::Blocker;
use inn_net::serve::Problems;
use inn_net::table::{Counted, Tally, VmTally};
use inn_store::{LeaseRecord, NetworkRecord, Store, StoreError};
use inn_units::{NetworkId, NetworkName, PortMapId, VmId};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};

use super::mode::{ForeignChoice, Mode, ModeChoice, no_net_admin};

/// The network of VMs that name none.
pub(super) const DEFAULT: &str = "default";

/// For the host's network to be as declared: a few netlink messages, behind
/// whatever a busy host does meanwhile.
const APPLIED: Duration = Duration::from_secs(30);

/// What is declared of the host's network, and how far that is applied.
#[derive(Debug)]
pub(crate) struct Networks {
    pub(crate) mode: Mode,
    pub(super) foreign: ForeignChoice,
    pub(super) instance: Instance,
    /// Requests are decided and stored one after the other.
    pub(super) order: Mutex<()>,
    state: RwLock<State>,
    /// Counts the changes of what is declared.
    wanted: AtomicU64,
    pub(super) changed: Notify,
    /// Whether what machines forward is to be read again.
    closely: AtomicBool,
    pub(super) applied: watch::Sender<Applied>,
    /// Has the task count; there from its start on.
    count: OnceLock<mpsc::Sender<oneshot::Sender<()>>>,
    tally: RwLock<Tally>,
    /// Which servers on bridges do not run; there from the task's start on.
    problems: OnceLock<watch::Receiver<Problems>>,
}

/// Changed under `order`, but for who is attached.
#[derive(Debug, Default)]
pub(super) struct State {
    /// In the order of their creation.
    pub(super) networks: Vec<NetworkRecord>,
    /// Those of VMs that are gone, too.
    pub(super) leases: Vec<LeaseRecord>,
    pub(super) maps: Vec<PortMap>,
    /// VMs that have a machine, or are about to.
    pub(super) attached: BTreeSet<VmId>,
    /// Of these, whose taps have been opened since the last pass.
    opened: BTreeSet<VmId>,
}

/// How far the host's network is what is declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The last change that was looked at.
    pub(crate) change: u64,
    /// What could not be done, and why.
    pub(crate) error: Option<Arc<str>>,
    /// What of the host's links stands in the way, though all is applied.
    pub(crate) blocked: Vec<String>,
    /// And of others' firewalls.
    pub(crate) foreign: Vec<Blocker>,
    /// Why VMs do not reach mapped ports of their own network by the host's
    /// address, which most never ask for: nothing is wrong with them.
    pub(crate) hairpins: Option<String>,
    /// Why firewalld has not been told of our bridges, where it was to be.
    pub(crate) untold: Vec<String>,
    /// What was not as declared since that change, and is now.
    pub(crate) mended: Vec<String>,
    /// Maps that do not lead into their VMs, and why; without bridges.
    pub(crate) unforwarded: BTreeMap<PortMapId, String>,
    pub(crate) declared: Arc<Declared>,
}

/// What the host has kept from or for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) by: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Applied {
    /// What of the host's is in the way of all VMs, a sentence each.
    pub(super) fn in_the_way(&self) -> impl Iterator<Item = String> {
        self.blocked.iter().cloned().chain(self.foreign.iter().map(Blocker::to_string))
    }
}

impl Networks {
    pub(crate) async fn open(
        store: &Store,
        choice: ModeChoice,
        foreign: ForeignChoice,
        instance: Option<u32>,
    ) -> Result<Self, StoreError> {
        let mode = Mode::of(choice, no_net_admin().or_else(super::kernel::lacking));
        if choice == ModeChoice::Bridge && !mode.is_bridge() {
            tracing::warn!(why = mode.why, "no bridges: VMs have the VMM's own network");
        }
        let state = State {
            networks: store.networks().await?,
            leases: store.leases().await?,
            maps: store.port_maps().await?,
            ..State::default()
        };
        Ok(Self {
            mode,
            foreign,
            instance: Instance(instance.map(|instance| format!("{instance:08x}"))),
            order: Mutex::default(),
            state: RwLock::new(state),
            wanted: AtomicU64::new(0),
            changed: Notify::new(),
            closely: AtomicBool::new(false),
            applied: watch::channel(Applied::default()).0,
            count: OnceLock::new(),
            tally: RwLock::default(),
            problems: OnceLock::new(),
        })
    }

    /// In the order of their creation.
    pub(crate) fn all(&self) -> Vec<NetworkRecord> {
        self.read().networks.clone()
    }

    pub(crate) fn find(&self, name_or_id: &str) -> Option<NetworkRecord> {
        let state = self.read();
        let named = state.networks.iter().find(|network| network.spec.name.as_str() == name_or_id);
        named.or_else(|| state.networks.iter().find(|n| n.id.to_string() == name_or_id)).cloned()
    }

    /// The bridge that a VM of this choice is on, where there is one.
    pub(crate) fn of(&self, network: &Network) -> Option<NetworkRecord> {
        if !self.mode.is_bridge() {
            return None;
        }
        match network {
            Network::None | Network::Foreign(_) => None,
            Network::AllowAll => self.find(DEFAULT),
            Network::Named(name) => self.named(name),
        }
    }

    fn named(&self, name: &NetworkName) -> Option<NetworkRecord> {
        self.read().networks.iter().find(|network| network.spec.name == *name).cloned()
    }

    pub(crate) fn maps(&self) -> Vec<PortMap> {
        self.read().maps.clone()
    }

    /// The addresses that a VM has.
    pub(crate) fn lease(&self, vm: VmId) -> Option<LeaseRecord> {
        self.read().leases.iter().find(|lease| lease.vm == vm && lease.released.is_none()).copied()
    }

    /// Those that have leases, IPv4 first.
    pub(crate) fn addresses(&self, vm: VmId) -> Vec<IpAddr> {
        let Some(lease) = self.lease(vm).filter(|_| self.mode.is_bridge()) else {
            return Vec::new();
        };
        lease.ipv4.map(IpAddr::V4).into_iter().chain(lease.ipv6.map(IpAddr::V6)).collect()
    }

    /// That lead to this VM.
    pub(crate) fn maps_of(&self, vm: VmId) -> Vec<PortMap> {
        let state = self.read();
        state.maps.iter().filter(|map| map.target == MapTarget::Vm(vm)).cloned().collect()
    }

    /// A VM is about to have a machine.
    pub(crate) fn attach(&self, vm: VmId) {
        self.write().attached.insert(vm);
    }

    /// Its tap is there, and is to be a port of its bridge. What to wait for.
    pub(crate) fn tap_is_open(&self, vm: VmId) -> u64 {
        self.write().opened.insert(vm);
        self.poke()
    }

    /// Whose taps have been opened since this was asked last.
    pub(super) fn opened(&self) -> BTreeSet<VmId> {
        std::mem::take(&mut self.write().opened)
    }

    pub(crate) fn is_attached(&self, vm: VmId) -> bool {
        self.mode.is_bridge() && self.read().attached.contains(&vm)
    }

    /// Its machine is gone.
    pub(crate) fn detach(&self, vm: VmId) {
        if self.write().attached.remove(&vm) {
            self.poke();
        }
    }

    /// Of the bridge of a network, as it was last declared.
    pub(crate) fn mtu(&self, network: &NetworkRecord) -> u16 {
        const ETHERNET: u16 = 1500;
        let applied = self.applied.borrow();
        let found = applied.declared.networks.iter().find(|known| known.id == network.id);
        found.map_or(network.spec.mtu.unwrap_or(ETHERNET), |known| known.mtu)
    }

    /// As it was last brought about.
    #[cfg(test)]
    pub(crate) fn declared_now(&self) -> Arc<Declared> {
        Arc::clone(&self.applied.borrow().declared)
    }

    /// What was mended for that change or since.
    pub(crate) fn mended_by(&self, change: u64) -> Vec<String> {
        let applied = self.applied.borrow();
        if applied.change >= change { applied.mended.clone() } else { Vec::new() }
    }

    /// What of the host's, and not ours, is in the way of VMs.
    pub(crate) fn blocked(&self) -> Vec<String> {
        let applied = self.applied.borrow();
        let others = applied.hairpins.iter().chain(&applied.untold);
        applied.in_the_way().chain(others.cloned()).collect()
    }

    /// Others' chains that drop what is ours; `None` where nothing is declared.
    pub(crate) fn foreign(&self) -> Option<Vec<Blocker>> {
        let applied = self.applied.borrow();
        (!applied.declared.networks.is_empty()).then(|| applied.foreign.clone())
    }

    pub(super) fn counting(&self) -> mpsc::Receiver<oneshot::Sender<()>> {
        // Whoever counts waits for it: one after the other.
        const COUNTS: usize = 4;
        let (ask, asked) = mpsc::channel(COUNTS);
        // There is one task.
        let _ = self.count.set(ask);
        asked
    }

    pub(super) fn served(&self, problems: watch::Receiver<Problems>) {
        // There is one task.
        let _ = self.problems.set(problems);
    }

    /// What its VMs have to do without, a sentence each.
    pub(crate) fn problems(&self, network: NetworkId) -> Vec<String> {
        let all = self.problems.get().map(|problems| problems.borrow().clone()).unwrap_or_default();
        let own = all.into_iter().filter(|((of, _), _)| *of == network);
        own.map(|(_, sentence)| sentence).collect()
    }

    pub(super) fn tallied(&self, tally: Tally) {
        *self.tally.write().unwrap_or_else(PoisonError::into_inner) = tally;
    }

    /// Reads the rules' counters.
    pub(crate) async fn count(&self) {
        let Some(ask) = self.count.get() else { return };
        let (answer, answered) = oneshot::channel();
        if ask.send(answer).await.is_ok() {
            // A task that has ended counts no more.
            let _ = answered.await;
        }
    }

    /// What was kept from or for a VM, as it was last counted.
    pub(crate) fn denied(&self, vm: VmId, policy: &Policy) -> Vec<Denied> {
        let all = self.tally.read().unwrap_or_else(PoisonError::into_inner);
        let Some(tally) = all.get(&vm) else { return Vec::new() };
        let denied = |by: String, counted: Counted| Denied {
            by,
            packets: counted.packets,
            bytes: counted.bytes,
        };
        let spoofed = tally.spoofed.iter().map(|(what, counted)| denied(what.clone(), *counted));
        [
            ("no rule, from the VM", tally.denied_out),
            ("no rule, to the VM", tally.denied_in),
            ("rates", tally.too_much),
        ]
        .into_iter()
        .map(|(by, counted)| denied(by.to_owned(), counted))
        .chain(denying_rules(tally, policy))
        .chain(spoofed)
        .filter(|denied| denied.packets > 0)
        .collect()
    }

    /// Has the task look at what is declared now. What to wait for.
    pub(crate) fn poke(&self) -> u64 {
        let change = self.wanted.fetch_add(1, Ordering::SeqCst) + 1;
        self.changed.notify_one();
        change
    }

    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Waits until a change is applied, or known not to be.
    pub(crate) async fn applied(&self, change: u64) -> Result<(), Arc<str>> {
        if self.mode.way == NetworkWay::Off {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let done = tokio::time::timeout(APPLIED, applied.wait_for(|now| now.change >= change));
        match done.await {
            Ok(Ok(now)) => now.error.clone().map_or(Ok(()), Err),
            // The sender is this.
            Ok(Err(_)) | Err(_) => {
                Err(format!("it is not applied within {} s", APPLIED.as_secs()).into())
            }
        }
    }

    /// Why a map does not lead into its VM, where that is known.
    pub(crate) fn unforwarded(&self, map: PortMapId) -> Option<String> {
        self.applied.borrow().unforwarded.get(&map).cloned()
    }

    /// Without bridges: a VM has a machine that nobody has told of ports, so one to
    /// which none lead is not asked what it has before it goes on.
    pub(crate) async fn has_new_machine(&self, vm: VmId) {
        if !self.maps_of(vm).is_empty() {
            self.has_machine(vm).await;
        }
    }

    /// Without bridges: a VM has its machine, which has to be told of the
    /// ports that lead to it.
    pub(crate) async fn has_machine(&self, vm: VmId) {
        if self.mode.way != NetworkWay::User {
            return;
        }
        let change = self.poke();
        if !self.maps_of(vm).is_empty() {
            // What it lacks stays with its maps, and is tried again.
            let _ = self.applied(change).await;
        }
    }

    /// Has the next pass read what is there, whatever was left there.
    pub(crate) fn look_closely(&self) {
        self.closely.store(true, Ordering::Relaxed);
    }

    pub(super) fn looks_closely(&self) -> bool {
        self.closely.swap(false, Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        // Every change replaces or adds whole values.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A VM is gone from the store, and its addresses and ports with it.
    pub(crate) fn vm_is_gone(&self, vm: VmId) {
        let mut state = self.write();
        let now = jiff::Timestamp::now();
        for lease in state.leases.iter_mut().filter(|lease| lease.vm == vm) {
            lease.released.get_or_insert(now);
        }
        state.maps.retain(|map| map.target != MapTarget::Vm(vm));
        state.attached.remove(&vm);
        drop(state);
        self.poke();
    }
}

/// Of a policy's rules, those that deny.
fn denying_rules(tally: &VmTally, policy: &Policy) -> Vec<Denied> {
    let Policy::Rules { rules, .. } = policy else { return Vec::new() };
    let denies = |place: usize| {
        let rule = place.checked_sub(1).and_then(|at| rules.get(at));
        rule.is_some_and(|rule| rule.action == Action::Deny)
    };
    let counted = tally.rules.iter().filter(|(place, _)| denies(**place));
    counted
        .map(|(place, counted)| Denied {
            by: format!("rule {place}"),
            packets: counted.packets,
            bytes: counted.bytes,
        })
        .collect()
}
