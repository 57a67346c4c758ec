//! Templates: saved machines that VMs begin from in place of a boot, and clones
//! of them that wait.
//!
//! ```text
//!   a VM is made ──▶ begin: key ─▶ a clone waits ─▶ it is this VM's ──────────┐
//!                             ├──▶ a template is there ─▶ the VM goes on from it ├─▶ `vm::Warm`
//!                             └──▶ neither: the VM boots                        ┘
//!            its use is noted ─▶ keeper: template made (booted, rehearsed, saved, ended)
//!                                        clones made and retired by `inn_domain::plan_pool`
//! ```
//!
//! One task, the keeper, makes and ends all of it, one thing at a time; whoever
//! makes a VM only takes what is there. A template is a cache: what it is of is
//! its key, and it lies on the disk as a snapshot does, written whole or not
//! there. Clones that wait are nobody's VMs ([`crate::vm::Draft`]), and end with
//! the agent.

mod clone;
mod keeper;
mod key;
mod make;
mod shelf;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inn_domain::{
    CLONES_TOGETHER, Moment, Origin, PoolKind, ResourceLimits, RestartPolicy, VmSpec,
    WorkloadChoice,
};
use inn_units::{Bytes, Digest, SnapshotId};
use jiff::Timestamp;

pub(crate) use clone::WaitingClone;
#[cfg(test)]
pub(crate) use keeper::MOST;
pub(crate) use keeper::keep;
pub(crate) use told::{PoolTold, TemplateStanding, TemplateTold};

use self::clone::Desk;
use self::key::{NoKey, Patience, TemplateKey};
use crate::node::Node;
use crate::snapshots::{Held, HoldError};
use crate::vm::{Draft, Warm, WarmWay};

/// A template that could not be made, or did not do, is tried again after this.
const AGAIN: Duration = Duration::from_secs(300);

/// So many uses of one kind are remembered.
const USES: usize = 64;

/// Clones of one template that are ended in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    key: TemplateKey,
    /// Their machines die with the agent.
    leased: bool,
}

#[derive(Debug)]
pub(crate) struct Templates {
    directory: PathBuf,
    inner: Mutex<BTreeMap<TemplateKey, Known>>,
    desk: Arc<Desk>,
    /// Directories of those that are of no use any more.
    doomed: Mutex<Vec<PathBuf>>,
    /// One is read from the disk at a time.
    loading: tokio::sync::Mutex<()>,
}

/// What is known of one key.
#[derive(Debug)]
struct Known {
    /// As it was asked for last, without what is its owner's alone.
    spec: VmSpec,
    state: State,
    /// Detached ones and leased ones.
    clones: [Clones; 2],
    /// What a clone that waits takes of the host's memory, as measured last.
    cost: Option<Bytes>,
    last_used: Moment,
    last_used_at: Option<Timestamp>,
}

#[derive(Debug)]
enum State {
    /// Somebody could have used it.
    Wanted,
    Making,
    Ready(Ready),
    Failed {
        why: String,
        again: Moment,
    },
}

#[derive(Debug, Clone)]
struct Ready {
    id: SnapshotId,
    made_at: Timestamp,
    directory: PathBuf,
    /// On the disk.
    stored: Bytes,
    /// In memory, while it is in use.
    held: Option<Arc<Held>>,
}

#[derive(Debug, Default)]
struct Clones {
    waiting: Vec<Draft>,
    making: usize,
    uses: VecDeque<Moment>,
    last_used: Moment,
    hits: u64,
    misses: u64,
}

/// What such a VM begins from, if there is anything; and that it was asked for.
pub(crate) async fn begin(node: &Arc<Node>, spec: &VmSpec) -> Option<Warm> {
    ask(node, spec, Whose::Nobodys).await
}

/// The same of one that is there, with an id of its own.
pub(crate) async fn begin_as(node: &Arc<Node>, spec: &VmSpec) -> Option<Warm> {
    ask(node, spec, Whose::Its).await
}

/// The id of a VM that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Nobodys,
    Its,
}

async fn ask(node: &Arc<Node>, spec: &VmSpec, id: Whose) -> Option<Warm> {
    if !node.config.live().templates.enabled {
        return None;
    }
    match TemplateKey::find(node, spec, Patience::None).await {
        Ok(key) => node.templates.ask(key, spec, id, node.now()),
        Err(why) => {
            tracing::debug!(vm = %spec.name, %why, "it boots");
            if matches!(why, NoKey::NotYet) {
                node.tasks.spawn(want(Arc::clone(node), spec.clone()));
            }
            None
        }
    }
}

/// One that could not be asked for at once: others of its kind may come.
async fn want(node: Arc<Node>, spec: VmSpec) {
    let finding = TemplateKey::find(&node, &spec, Patience::Waits);
    let found = node.closing.run_until_cancelled(finding).await;
    if let Some(Ok(key)) = found {
        node.templates.note(key, &spec, node.now());
    }
}

impl Templates {
    fn note(&self, key: TemplateKey, spec: &VmSpec, now: Moment) {
        self.lock().entry(key).or_insert_with(|| Known::new(nobodys(spec))).used(spec, now);
        self.desk.changed.notify_one();
    }

    fn ask(&self, key: TemplateKey, spec: &VmSpec, id: Whose, now: Moment) -> Option<Warm> {
        let leased = spec.lease;
        let mut inner = self.lock();
        let known = inner.entry(key).or_insert_with(|| Known::new(nobodys(spec)));
        known.used(spec, now);
        let clones = &mut known.clones[usize::from(leased)];
        let origin = |ready: &Ready| Origin {
            snapshot: ready.id,
            name: format!("the template of {}", spec.source_name()),
        };
        let warm = match &known.state {
            State::Ready(ready) => {
                // The one that has waited longest may have been swapped out.
                let clone = (id == Whose::Nobodys).then(|| clones.take()).flatten();
                let way = match clone {
                    Some(draft) => {
                        clones.hits += 1;
                        let kind = Kind { key, leased };
                        WarmWay::Clone(WaitingClone::new(kind, draft, Arc::clone(&self.desk)))
                    }
                    None => {
                        clones.misses += 1;
                        WarmWay::Template
                    }
                };
                Some(Warm { origin: origin(ready), way })
            }
            State::Failed { again, .. } if *again <= now => {
                known.state = State::Wanted;
                None
            }
            State::Wanted | State::Making | State::Failed { .. } => None,
        };
        drop(inner);
        self.desk.changed.notify_one();
        warm
    }

    /// A template in memory, read and looked through where it is not.
    pub(crate) async fn hold(&self, id: SnapshotId) -> Result<Arc<Held>, HoldError> {
        let find = || {
            let inner = self.lock();
            let ready = inner.values().filter_map(Known::ready).find(|ready| ready.id == id);
            ready.map(|ready| (ready.held.clone(), ready.directory.clone()))
        };
        if let Some((Some(held), _)) = find() {
            return Ok(held);
        }
        let _one = self.loading.lock().await;
        let directory = match find().ok_or(HoldError::Gone)? {
            (Some(held), _) => return Ok(held),
            (None, directory) => directory,
        };
        let loaded = tokio::task::spawn_blocking(move || shelf::load(&directory)).await;
        let held = Arc::new(loaded.map_err(HoldError::Panicked)??);
        let mut inner = self.lock();
        let ready = inner.values_mut().filter_map(Known::ready_mut).find(|ready| ready.id == id);
        if let Some(ready) = ready {
            ready.held = Some(Arc::clone(&held));
        }
        Ok(held)
    }

    /// A VM that was to begin from it has not come up: nobody begins from it
    /// again, nor from its clones.
    pub(crate) fn did_not_do(&self, id: SnapshotId, why: &str) {
        let mut inner = self.lock();
        for known in inner.values_mut() {
            let again = Moment(known.last_used.0 + AGAIN);
            if let Some(ready) = known.ready().filter(|ready| ready.id == id) {
                self.doom(ready.directory.clone());
                known.state = State::Failed { why: why.to_owned(), again };
            }
        }
        drop(inner);
        self.desk.changed.notify_one();
    }

    /// One of the names of that image is gone, and perhaps the last.
    pub(crate) async fn name_is_gone(&self, node: &Node, manifest: &Digest) {
        let gone = node.images.list().await.is_ok_and(|images| {
            // What cannot be listed is as if it were there.
            !images.iter().any(|image| image.manifest == *manifest)
        });
        if gone {
            self.image_is_gone(manifest);
        }
    }

    /// Nobody can ask for what is of that image any more.
    pub(crate) fn image_is_gone(&self, digest: &Digest) {
        let mut inner = self.lock();
        for known in inner.values_mut() {
            if known.spec.image().is_some_and(|image| image.digest == *digest) {
                if let Some(ready) = known.ready() {
                    self.doom(ready.directory.clone());
                }
                let why = "its image is gone".to_owned();
                known.state = State::Failed { why, again: Moment::default() };
            }
        }
        drop(inner);
        self.desk.changed.notify_one();
    }

    /// What there may be has changed.
    pub(crate) fn poke(&self) {
        self.desk.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TemplateKey, Known>> {
        // Every change replaces whole values.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(spec: VmSpec) -> Self {
        Self {
            spec,
            state: State::Wanted,
            clones: <[Clones; 2]>::default(),
            cost: None,
            last_used: Moment::default(),
            last_used_at: None,
        }
    }

    fn used(&mut self, spec: &VmSpec, now: Moment) {
        self.spec = nobodys(spec);
        self.last_used = now;
        self.last_used_at = Some(Timestamp::now());
        self.clones[usize::from(spec.lease)].used(now);
    }

    fn ready(&self) -> Option<&Ready> {
        match &self.state {
            State::Ready(ready) => Some(ready),
            State::Wanted | State::Making | State::Failed { .. } => None,
        }
    }

    fn ready_mut(&mut self) -> Option<&mut Ready> {
        match &mut self.state {
            State::Ready(ready) => Some(ready),
            State::Wanted | State::Making | State::Failed { .. } => None,
        }
    }

    /// Until it was measured, as much as it may come to.
    fn cost(&self) -> Bytes {
        self.cost.unwrap_or(self.spec.memory)
    }

    /// As the plan of the pool has them.
    fn pool_kinds(&self, key: TemplateKey, now: Moment) -> impl Iterator<Item = PoolKind<Kind>> {
        let ready = self.ready().is_some();
        let of = move |(leased, clones): (bool, &Clones)| PoolKind {
            kind: Kind { key, leased },
            clones: clones.waiting.len() + clones.making,
            cost: self.cost(),
            recent: if ready { clones.recent(now) } else { 0 },
            last_used: if ready { clones.last_used } else { Moment::default() },
        };
        [false, true].into_iter().zip(&self.clones).map(of).filter(move |kind| {
            kind.clones > 0 || ready && self.clones[usize::from(kind.kind.leased)].was_used()
        })
    }
}

impl Clones {
    fn used(&mut self, now: Moment) {
        if self.uses.len() == USES {
            self.uses.pop_front();
        }
        self.uses.push_back(now);
        self.last_used = now;
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.making == 0
    }

    fn was_used(&self) -> bool {
        !self.uses.is_empty()
    }

    fn recent(&self, now: Moment) -> usize {
        let since = now.0.saturating_sub(CLONES_TOGETHER);
        self.uses.iter().filter(|used| used.0 >= since).count()
    }

    /// One whose machine is there still; others the keeper ends.
    fn take(&mut self) -> Option<Draft> {
        let place = self.waiting.iter().rposition(Draft::lives)?;
        Some(self.waiting.remove(place))
    }
}

/// Without what is its owner's alone.
fn nobodys(spec: &VmSpec) -> VmSpec {
    VmSpec {
        name: "template".parse().expect("a DNS label"),
        language: None,
        addresses: inn_domain::network::AddressWish::default(),
        policy: inn_domain::network::Policy::default(),
        env: BTreeMap::new(),
        command: None,
        workload: WorkloadChoice::None,
        labels: BTreeMap::new(),
        restart: RestartPolicy::No,
        limits: ResourceLimits::default(),
        lease: false,
        ..spec.clone()
    }
}
