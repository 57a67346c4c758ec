//! Templates and their clones as the node tells of them.

use inn_domain::PoolLimits;
use inn_units::{Bytes, SnapshotId, Vcpus};
use jiff::Timestamp;

use super::{Known, State, Templates};
use crate::node::Node;

#[derive(Debug, Clone)]
pub(crate) struct TemplateTold {
    /// Of the image that it is of.
    pub(crate) image: String,
    pub(crate) vcpus: Vcpus,
    pub(crate) memory: Bytes,
    pub(crate) state: TemplateStanding,
    pub(crate) why: Option<String>,
    pub(crate) id: Option<SnapshotId>,
    pub(crate) made_at: Option<Timestamp>,
    pub(crate) stored: Bytes,
    /// Of the host's memory, by its own.
    pub(crate) held: Bytes,
    pub(crate) waiting: u64,
    /// What one of them takes of the host's memory, as measured last.
    pub(crate) clone_cost: Option<Bytes>,
    pub(crate) last_used: Option<Timestamp>,
    /// VMs that began from a clone that waited, and that did not.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TemplateStanding {
    Wanted,
    Making,
    Ready,
    Failed,
}

#[derive(Debug, Clone)]
pub(crate) struct PoolTold {
    pub(crate) limits: PoolLimits,
    pub(crate) waiting: u64,
    /// By the last measure of each kind.
    pub(crate) used: Bytes,
    /// Why no clone waits for anybody.
    pub(crate) off: Option<&'static str>,
}

impl Templates {
    pub(crate) fn told(&self) -> Vec<TemplateTold> {
        let inner = self.lock();
        let mut all: Vec<TemplateTold> = inner.values().map(told).collect();
        all.sort_by(|a, b| (&a.image, a.memory, a.vcpus).cmp(&(&b.image, b.memory, b.vcpus)));
        all
    }

    pub(crate) fn pool(&self, node: &Node) -> PoolTold {
        let config = node.config.live().templates;
        let limits = config.pool(node.limits.max_memory);
        let off = match () {
            () if !config.enabled => Some("templates are off (templates.enabled)"),
            () if limits.memory == Bytes(0) && config.pool_memory.is_none() => {
                Some("this host is small (templates.pool_memory gives it a pool all the same)")
            }
            () if limits.memory == Bytes(0) => Some("it is off (templates.pool_memory)"),
            () if node.drain.is_on() || node.holds() => Some("the node takes no VMs"),
            () => None,
        };
        let inner = self.lock();
        let waiting =
            |known: &Known| -> usize { known.clones.iter().map(|c| c.waiting.len()).sum() };
        let used = inner.values().map(|known| {
            known.cost.unwrap_or_default().get().saturating_mul(number(waiting(known)))
        });
        let used = Bytes(used.fold(0, u64::saturating_add));
        let waiting = number(inner.values().map(waiting).sum());
        PoolTold { limits, waiting, used, off }
    }
}

fn told(known: &Known) -> TemplateTold {
    let ready = known.ready();
    let (state, why) = match &known.state {
        State::Wanted => (TemplateStanding::Wanted, None),
        State::Making => (TemplateStanding::Making, None),
        State::Ready(_) => (TemplateStanding::Ready, None),
        State::Failed { why, .. } => (TemplateStanding::Failed, Some(why.clone())),
    };
    let held = ready.and_then(|ready| ready.held.as_ref()).map(|held| held.resident());
    TemplateTold {
        image: known.spec.source_name().to_owned(),
        vcpus: known.spec.vcpus,
        memory: known.spec.memory,
        state,
        why,
        id: ready.map(|ready| ready.id),
        made_at: ready.map(|ready| ready.made_at),
        stored: ready.map(|ready| ready.stored).unwrap_or_default(),
        held: held.unwrap_or_default(),
        waiting: number(known.clones.iter().map(|clones| clones.waiting.len()).sum()),
        clone_cost: known.cost,
        last_used: known.last_used_at,
        hits: known.clones.iter().map(|clones| clones.hits).sum(),
        misses: known.clones.iter().map(|clones| clones.misses).sum(),
    }
}

fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
