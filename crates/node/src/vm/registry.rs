use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use inn_domain::network::AttachDeniedReason;
use inn_domain::{
    CapacityDeniedReason, ChannelChoice, CreateDeniedReason, Demand, Desired, Hold,
    IdleDeniedReason, OnIdle, Power, RuntimeChoice, RuntimeSelection, RuntimeWhy, StopKind,
    TtlAction, TtlDeniedReason, VmSpec, admit_create, admit_idle, admit_ttl,
};
use inn_fail_point::{Point, fail_point};
use inn_store::{Durability, KeyMark, ObservedRecord, StoreError, VmParts, VmRecord};
use inn_units::{Digest, VmId, VmName};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::adopt::{Restored, restore};
use super::backoff::restored_backoff;
use super::handle::{RequestError, VmHandle, VmShared};
use super::room::Room;
use super::succeed::{REPLACED, record_durability};
use super::ttl::Ttl;
use super::warm::Beginning;
use crate::drain::Drained;
use crate::network::{NetworkError, NewPortMap, PortsError};
use crate::node::Node;
use crate::snapshots::Held;
use crate::templates;

/// All VMs of the node, by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Vms {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) by_id: BTreeMap<VmId, VmHandle>,
    by_name: HashMap<VmName, VmId>,
    /// Of VMs that are being accepted.
    reserved: HashSet<VmName>,
    /// Room that requests on their way have asked for.
    pub(super) pending: HashMap<VmId, (Demand, Hold)>,
    /// Of machines that are nobody's yet.
    drafts: HashSet<VmId>,
}

/// What a new VM is to be.
#[derive(Debug)]
pub(crate) struct NewVm {
    pub(crate) spec: VmSpec,
    pub(crate) start: bool,
    /// The VM that has its name goes first.
    pub(crate) replace: bool,
    pub(crate) ttl: Option<(Duration, TtlAction)>,
    pub(crate) on_idle: Option<OnIdle>,
    /// Of the host, that lead to it.
    pub(crate) ports: Vec<NewPortMap>,
    /// What it begins from, where that is in memory already.
    pub(crate) held: Option<Arc<Held>>,
    /// It boots, whatever there is of its kind.
    pub(crate) cold: bool,
    /// Of whoever asks, to be written down with it.
    pub(crate) mark: Option<KeyMark>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(transparent)]
    Denied(#[from] CreateDeniedReason),
    #[error(transparent)]
    NoRoom(#[from] CapacityDeniedReason),
    #[error(transparent)]
    Ttl(#[from] TtlDeniedReason),
    #[error(transparent)]
    Idle(#[from] IdleDeniedReason),
    #[error(transparent)]
    Drained(#[from] Drained),
    #[error("the VM cannot be kept")]
    Store(#[from] StoreError),
    #[error(
        "the VM {name} that is to be replaced is still there after {} s; the new one takes its \
         place once it is gone, see `inn vm why {name}`",
        REPLACED.as_secs()
    )]
    NotReplaced { name: VmName },
    #[error("the VM {name} was deleted before the new one could take its place")]
    Withdrawn { name: VmName },
    #[error("the VM {name} cannot be replaced")]
    Replace { name: VmName, source: RequestError },
    #[error(
        "there is a disk at /persist of the name {name} already ({}), and it would get what the \
         saved VM had there; choose another name, or move that disk away",
        disk.display()
    )]
    PersistThere { name: VmName, disk: std::path::PathBuf },
    #[error(transparent)]
    Attach(#[from] AttachDeniedReason),
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("there is no randomness to name a VM with: {0}")]
    NoRandomness(getrandom::Error),
    #[error("the agent is ending")]
    Closing,
}

impl Vms {
    /// All, in the order of their creation.
    pub(crate) fn all(&self) -> Vec<VmHandle> {
        let mut all: Vec<VmHandle> = self.read().by_id.values().cloned().collect();
        all.sort_by_key(|vm| (vm.created_at(), vm.id()));
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.read().by_id.len()
    }

    /// By name or by id. A name could be another's id: the name counts.
    pub(crate) fn find(&self, name_or_id: &str) -> Option<VmHandle> {
        let inner = self.read();
        let by_name = name_or_id.parse::<VmName>().ok().and_then(|name| inner.by_name.get(&name));
        let id = by_name.copied().or_else(|| name_or_id.parse::<VmId>().ok())?;
        inner.by_id.get(&id).cloned()
    }

    /// By id alone.
    pub(crate) fn of_id(&self, id: VmId) -> Option<VmHandle> {
        self.read().by_id.get(&id).cloned()
    }

    /// For people.
    pub(crate) fn name_of(&self, id: VmId) -> Option<String> {
        self.of_id(id).map(|vm| vm.spec().name.to_string())
    }

    /// The VM that was accepted under this id, also one that another has yet
    /// to give way to.
    pub(crate) async fn accepted(&self, id: VmId) -> Option<VmHandle> {
        if let Some(vm) = self.of_id(id) {
            return Some(vm);
        }
        let waits_for = |vm: &&VmHandle| vm.with_successor(|next| next.id) == Some(id);
        let old = self.read().by_id.values().find(waits_for).cloned();
        if let Some(old) = old {
            old.wait_gone(REPLACED).await;
        }
        self.of_id(id)
    }

    /// By name alone.
    pub(super) fn named(&self, name: &VmName) -> Option<VmHandle> {
        let inner = self.read();
        inner.by_id.get(inner.by_name.get(name)?).cloned()
    }

    pub(crate) fn using_image(&self, digest: &Digest) -> Vec<VmName> {
        let inner = self.read();
        let uses = |spec: &VmSpec| spec.image().is_some_and(|image| image.digest == *digest);
        let mut names: Vec<VmName> = inner
            .by_id
            .values()
            .filter(|vm| uses(vm.spec()) || vm.with_successor(|s| uses(&s.spec)) == Some(true))
            .map(|vm| vm.spec().name.clone())
            .collect();
        names.sort();
        names
    }

    /// Of VMs like this, and of those that are to come.
    pub(crate) fn names_where(&self, wanted: impl Fn(&VmSpec) -> bool) -> Vec<VmName> {
        let inner = self.read();
        let mut names: Vec<VmName> = inner
            .by_id
            .values()
            .filter(|vm| {
                wanted(vm.spec()) || vm.with_successor(|next| wanted(&next.spec)) == Some(true)
            })
            .map(|vm| vm.spec().name.clone())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn images_in_use(&self) -> Vec<Digest> {
        let inner = self.read();
        let of = |spec: &VmSpec| spec.image().map(|image| image.digest);
        let all = inner.by_id.values();
        all.flat_map(|vm| [of(vm.spec()), vm.with_successor(|s| of(&s.spec)).flatten()])
            .flatten()
            .collect()
    }

    /// A name that no VM has, after the image's.
    pub(crate) fn free_name(&self, image: &str) -> Result<VmName, CreateError> {
        let inner = self.read();
        loop {
            let [a, b] = random::<2>()?;
            let name = made_up_name(image, a, b);
            if !inner.by_name.contains_key(&name) && !inner.reserved.contains(&name) {
                return Ok(name);
            }
        }
    }

    /// Accepts a VM: once this returns, it is there, and its task is at work.
    pub(crate) async fn create(
        &self,
        node: &Arc<Node>,
        new: NewVm,
    ) -> Result<VmHandle, CreateError> {
        let NewVm { spec, start, replace, ttl, on_idle, ports, held, cold, mark } = new;
        if node.closing.is_cancelled() {
            return Err(CreateError::Closing);
        }
        node.drain.admit()?;
        ttl.map_or(Ok(()), |(ttl, _)| admit_ttl(ttl))?;
        on_idle.map_or(Ok(()), |on_idle| admit_idle(&on_idle, &spec))?;
        // What would be refused anyway replaces nothing.
        admit_create(&spec, &node.limits, false)?;
        admit_by_runtimes(node, &spec).await?;
        let mut beginning = match start {
            _ if cold => Beginning::Boots,
            false => Beginning::Later,
            true => {
                let warm = templates::begin(node, &spec).await;
                warm.map_or(Beginning::Boots, Beginning::From)
            }
        };
        let id = match beginning.id() {
            Some(id) => id,
            None => VmId::from_bytes(random::<{ VmId::BYTES }>()?),
        };
        let stop = StopKind::Graceful { grace: node.config.live().stop_timeout };
        let record = VmRecord {
            id,
            desired: Desired { on_idle, ..Desired::first(start, stop) },
            grown_disk: None,
            changed_limits: None,
            changed_policy: None,
            created_at: Timestamp::now(),
            ttl: ttl.map(|(granted, action)| Ttl::record(granted, action)),
            spec,
        };
        if replace {
            let successor = (&record, &mut beginning);
            if let Some(vm) = self.replace(node, successor, &ports, &mark).await? {
                return Ok(vm);
            }
        }
        let networks = node.networks.in_order().await;
        let (maps, lease) = self.admit_network(node, id, &record.spec, ports)?;
        let reserved = self.reserve(node, id, &record.spec, start)?;
        fail_point(Point::CreateReserved);
        let durability = record_durability(&record);
        let parts = VmParts { ports: &maps, lease };
        let stored = node.store.insert_vm_with(record.clone(), durability, mark, parts).await;
        stored.map_err(|error| match error {
            StoreError::NameTaken => {
                CreateDeniedReason::NameInUse { name: record.spec.name.clone() }.into()
            }
            error => CreateError::Store(error),
        })?;
        fail_point(Point::CreateStored);
        if let Some(lease) = lease {
            node.networks.lease_is_kept(lease);
        }
        node.networks.ports_are_kept(&maps);
        drop(networks);
        tracing::info!(vm = %record.spec.name, id = %record.id, "accepted");
        let ttl = record.ttl.as_ref().map(Ttl::fresh);
        let vm = self.enter(node, record, &ObservedRecord::default(), ttl, None);
        drop(reserved);
        *vm.shared.origin.lock().unwrap_or_else(PoisonError::into_inner) = held;
        vm.shared.begins(beginning);
        self.begin(node, &vm);
        fail_point(Point::CreateAtWork);
        Ok(vm)
    }

    /// Brings back a VM of an earlier life. A leased one is deleted: its lease
    /// ended with that life.
    pub(crate) async fn restore(
        &self,
        node: &Arc<Node>,
        mut restored: Restored,
    ) -> Result<oneshot::Receiver<()>, StoreError> {
        let record = &mut restored.record;
        if record.spec.lease && record.desired.power != Power::Deleted {
            record.desired.power = Power::Deleted;
            record.desired.stop = StopKind::Force;
            record.desired.generation = record.desired.generation.next();
            node.store.set_desired(record.id, record.desired.clone(), Durability::Agent).await?;
            fail_point(Point::RestoreLeaseOver);
        }
        let paths = node.config.paths.of_vm(record.id);
        let asleep = crate::snapshots::kept_run(&paths.asleep());
        let ttl = record.ttl.as_ref().map(Ttl::restored);
        let backoff = restored_backoff(&restored.observed, node.now());
        restored.observed.observed.backoff = backoff;
        restored.observed.observed.asleep = asleep;
        let vm = self.enter(node, record.clone(), &restored.observed, ttl, None);
        if let Some(successor) = restored.successor.take() {
            vm.promised(&node.store, successor).await?;
        }
        Ok(restore(node, &vm, restored))
    }

    /// Whether a VM of that id is there, or about to be, or may come to be.
    pub(crate) fn owns(&self, id: VmId) -> bool {
        let inner = self.read();
        let Inner { by_id, pending, drafts, .. } = &*inner;
        by_id.contains_key(&id) || pending.contains_key(&id) || drafts.contains(&id)
    }

    pub(super) fn draft_begins(&self, id: VmId) {
        self.write().drafts.insert(id);
    }

    pub(super) fn draft_is_over(&self, id: VmId) {
        self.write().drafts.remove(&id);
    }

    pub(super) fn forget(&self, id: VmId, name: &VmName) {
        let mut inner = self.write();
        inner.by_id.remove(&id);
        inner.by_name.remove(name);
    }

    /// Makes a VM known, `instead_of` another one where it takes its place.
    pub(super) fn enter(
        &self,
        node: &Node,
        record: VmRecord,
        observed: &ObservedRecord,
        ttl: Option<Ttl>,
        instead_of: Option<VmId>,
    ) -> VmHandle {
        let id = record.id;
        let vm = VmHandle { shared: Arc::new(VmShared::new(node, record, observed, ttl)) };
        let mut inner = self.write();
        if let Some(old) = instead_of {
            inner.by_id.remove(&old);
        }
        inner.by_name.insert(vm.spec().name.clone(), id);
        inner.by_id.insert(id, vm.clone());
        drop(inner);
        node.metering.begins(id, vm.account());
        // After it is to be seen: who holds the node looks at all VMs then.
        if node.holds() {
            vm.keep_down(node.config.live().stop_timeout);
        }
        vm
    }

    fn reserve<'a>(
        &'a self,
        node: &Node,
        id: VmId,
        spec: &VmSpec,
        start: bool,
    ) -> Result<Reserved<'a>, CreateError> {
        let mut inner = self.write();
        let taken = inner.by_name.contains_key(&spec.name) || inner.reserved.contains(&spec.name);
        admit_create(spec, &node.limits, taken)?;
        let room = self.room_to_create(&mut inner, node, id, (spec, start))?;
        inner.reserved.insert(spec.name.clone());
        Ok(Reserved { vms: self, name: spec.name.clone(), _room: room })
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Every change is one insertion or removal in each map.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a VM that no runtime of this node would take: by the preferred one's
/// reason. One that cannot be found says so at the start.
async fn admit_by_runtimes(node: &Node, spec: &VmSpec) -> Result<(), CreateDeniedReason> {
    // What QEMU can do needs no look at the others; libvirt's guests may be of
    // another architecture.
    let asks = spec.is_full() || spec.channel != ChannelChoice::Auto;
    let others = [RuntimeChoice::Firecracker, RuntimeChoice::Krun, RuntimeChoice::Libvirt];
    let by_name = others.contains(&spec.runtime);
    if !asks && !by_name {
        return Ok(());
    }
    let mut refusals = Vec::new();
    let RuntimeSelection { chosen, verdicts } = node.select_runtime(spec).await;
    for verdict in verdicts {
        match verdict.why {
            RuntimeWhy::Refuses(denied) => refusals.push(denied),
            RuntimeWhy::NotHere(_) => return Ok(()),
            RuntimeWhy::AskedFor | RuntimeWhy::Preferred | RuntimeWhy::Later => {}
        }
    }
    match refusals.into_iter().next() {
        Some(denied) if chosen.is_none() => Err(denied),
        _ => Ok(()),
    }
}

/// A name, and room, that nobody else gets while this is held.
struct Reserved<'a> {
    vms: &'a Vms,
    name: VmName,
    _room: Room<'a>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.vms.write().reserved.remove(&self.name);
    }
}

fn random<const N: usize>() -> Result<[u8; N], CreateError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(CreateError::NoRandomness)?;
    Ok(bytes)
}

/// `host/team/base:12` becomes `base-1f3c`.
fn made_up_name(image: &str, a: u8, b: u8) -> VmName {
    let last = image.rsplit('/').next().unwrap_or_default();
    let stem: String = last
        .chars()
        .take_while(|c| *c != ':' && *c != '@')
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    let stem = stem.trim_matches('-');
    let stem = if stem.is_empty() { "vm" } else { stem };
    format!("{stem}-{a:02x}{b:02x}").parse().expect("a stem of a DNS label and four digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_after_the_image() {
        for (image, name) in [
            ("base", "base-01ff"),
            ("registry.example:5000/team/Py_3:12", "py-3-01ff"),
            ("sha256:abc", "sha256-01ff"),
            ("--", "vm-01ff"),
            (&"x".repeat(100), &format!("{}-01ff", "x".repeat(40))),
        ] {
            assert_eq!(made_up_name(image, 1, 255).as_str(), name);
        }
    }
}
