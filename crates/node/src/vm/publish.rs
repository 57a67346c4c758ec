use std::sync::Arc;
use std::time::Duration;

use inn_domain::network::Policy;
use inn_domain::{Desired, Observed, Power, ResourceLimits, StopKind, VmPhase, VmStep, phase};
use inn_store::{
    BootRecords, CloudInitRecord, EndRecord, FailureRecord, MachineRecord, ObservedRecord,
    ReceiptRecord, WorkloadRecord,
};
use inn_units::{Architecture, Generation, VmId};
use jiff::Timestamp;
use tokio::time::Instant;

use super::activity::Activity;
use super::confine::Confinement;
use super::execute::Waits;
use super::link::{Facts, Link, LinkReason, link};
use super::task::VmTask;
use super::telemetry::Recorder;
use crate::guest::{GuestHello, GuestSession, Health};
use crate::runtime::AnyMachine;

/// All that is known of a VM but for its spec. The handle writes `desired`,
/// the task the rest; lists and waits read it and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct VmView {
    pub(crate) desired: Desired,
    /// While its node holds it: it goes down, asked first and within so long,
    /// and stays down. The node alone writes it.
    pub(crate) held: Option<Duration>,
    pub(crate) observed: Observed,
    pub(crate) phase: VmPhase,
    pub(crate) observed_generation: Generation,
    pub(crate) link: Link,
    /// Why it is not ready.
    pub(crate) link_reason: Option<LinkReason>,
    /// Since when the link is as it is, in this life of the agent.
    pub(crate) link_since: Option<Timestamp>,
    pub(crate) hello: Option<Arc<GuestHello>>,
    pub(crate) workload: Option<Arc<WorkloadRecord>>,
    pub(crate) failure: Option<Arc<FailureRecord>>,
    pub(crate) machine: Option<Arc<MachineRecord>>,
    /// In that machine.
    pub(crate) cloud_init: Option<Arc<CloudInitRecord>>,
    /// As asked for. The handle writes them.
    pub(crate) limits: ResourceLimits,
    /// As asked for. The handle writes it.
    pub(crate) policy: Policy,
    /// Of the machine that runs.
    pub(crate) confinement: Option<Arc<Confinement>>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) boot: Option<Duration>,
    pub(crate) last_end: Option<Arc<EndRecord>>,
    pub(crate) boots: Arc<BootRecords>,
    /// Of one that began from a saved machine.
    pub(crate) receipt: Option<Arc<ReceiptRecord>>,
    pub(crate) activity: Activity,
    /// Why nothing is done on it now though something is to be.
    pub(crate) waits: Option<Waits>,
    /// Who takes its place once it is deleted.
    pub(crate) replaced_by: Option<VmId>,
    /// It is deleted, and this the last that is heard of it.
    pub(crate) gone: bool,
}

/// What interactive calls go through while it is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) machine: Option<Arc<AnyMachine>>,
    /// Only once the guest is configured.
    pub(crate) session: Option<GuestSession>,
}

impl VmView {
    /// Whether it runs, and on no CPU of its own.
    pub(crate) fn is_emulated(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| !machine.kvm)
    }

    /// What its machine's CPUs are, where that is not the agent's own.
    pub(crate) fn foreign_architecture(&self) -> Option<Architecture> {
        self.machine.as_ref()?.foreign_architecture
    }

    pub(crate) fn new(desired: Desired, record: &ObservedRecord, start_deadline: Duration) -> Self {
        let phase = phase(&desired, &record.observed, None);
        // Until its machine is adopted it stands as it will once it is.
        let mut adopted = record.observed.clone();
        adopted.adopted();
        let guest = adopted.machine.map(|machine| machine.guest);
        let paused = adopted.is_paused();
        let foreign_architecture =
            record.machine.as_ref().and_then(|machine| machine.foreign_architecture);
        let facts =
            Facts { guest, paused, start_deadline, foreign_architecture, ..Facts::default() };
        let (link, link_reason) = link(&facts);
        Self {
            desired,
            held: None,
            observed: record.observed.clone(),
            phase,
            observed_generation: record.observed_generation,
            link,
            link_reason,
            link_since: None,
            hello: None,
            workload: record.workload.clone().map(Arc::new),
            failure: record.failure.clone().map(Arc::new),
            machine: record.machine.clone().map(Arc::new),
            cloud_init: record.cloud_init.clone().map(Arc::new),
            limits: ResourceLimits::default(),
            policy: Policy::default(),
            confinement: None,
            started_at: record.started_at,
            boot: record.boot,
            last_end: record.last_end.clone().map(Arc::new),
            boots: Arc::new(record.boots.clone()),
            receipt: record.receipt.clone().map(Arc::new),
            activity: Activity::Idle,
            waits: None,
            replaced_by: None,
            gone: false,
        }
    }

    /// What its task works towards.
    pub(super) fn wanted(&self) -> Desired {
        let desired = self.desired.clone();
        match self.held {
            Some(grace) if desired.power == Power::Running => {
                Desired { power: Power::Stopped, stop: StopKind::Graceful { grace }, ..desired }
            }
            _ => desired,
        }
    }

    /// What the next life of the agent needs of it.
    pub(crate) fn to_record(&self) -> ObservedRecord {
        ObservedRecord {
            observed: self.observed.clone(),
            phase: Some(self.phase),
            backoff: None,
            observed_generation: self.observed_generation,
            machine: self.machine.as_deref().cloned(),
            cloud_init: self.cloud_init.as_deref().cloned(),
            failure: self.failure.as_deref().cloned(),
            workload: self.workload.as_deref().cloned(),
            started_at: self.started_at,
            boot: self.boot,
            last_end: self.last_end.as_deref().cloned(),
            boots: BootRecords::clone(&self.boots),
            receipt: self.receipt.as_deref().cloned(),
        }
    }

    /// Whether it is as good as it gets for what is desired now.
    pub(crate) fn has_settled(&self) -> bool {
        self.gone || self.observed_generation >= self.desired.generation
    }
}

impl VmTask {
    pub(super) fn publish(&self, desired: &Desired, step: Option<&VmStep>) {
        let phase = phase(desired, &self.observed, step);
        let mut before = phase;
        self.shared.modify(|view| {
            view.observed = self.observed.clone();
            before = std::mem::replace(&mut view.phase, phase);
        });
        if before != phase {
            self.tell_phase(before, phase, desired.generation);
        }
        self.publish_link();
    }

    /// Tells how it stands with the guest agent, where that has changed.
    pub(super) fn publish_link(&self) {
        let silent_since = self.health.as_ref().and_then(|health| match *health.borrow() {
            Health::Good => None,
            Health::Silent { since } => Some(since),
        });
        let name = &self.shared.spec.name;
        self.shared.view.send_if_modified(|view| {
            let facts = Facts {
                guest: self.observed.machine.map(|machine| machine.guest),
                paused: self.observed.is_paused(),
                hello: view.hello.as_deref(),
                silent_since,
                no_telemetry_since: self.recorder.as_ref().and_then(Recorder::stopped_since),
                lost: self.lost.clone(),
                start_deadline: self.node.config.live().start_deadline,
                foreign_architecture: view.foreign_architecture(),
            };
            let (link, reason) = link(&facts);
            if (view.link, &view.link_reason) == (link, &reason) && view.link_since.is_some() {
                return false;
            }
            if view.link != link || view.link_since.is_none() {
                view.link_since = Some(Timestamp::now());
            }
            let why = reason.as_ref().map(|reason| reason.sentence(Instant::now()).to_string());
            tracing::debug!(vm = %name, ?link, reason = why, "the guest's link");
            view.link = link;
            view.link_reason = reason;
            true
        });
    }
}
