use std::sync::Arc;
use std::time::Duration;

use inn_domain::{Desired, Observed, VmPhase};
use inn_store::{FailureRecord, MachineRecord, ObservedRecord, WorkloadRecord};
use inn_units::Generation;
use jiff::Timestamp;

use crate::guest::{GuestHello, GuestSession};
use crate::runtime::AnyMachine;

/// All that is known of a VM but for its spec. The handle writes `desired`,
/// the task the rest; lists and waits read it and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct VmView {
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
    pub(crate) phase: VmPhase,
    pub(crate) observed_generation: Generation,
    pub(crate) link: Link,
    pub(crate) hello: Option<Arc<GuestHello>>,
    pub(crate) workload: Option<Arc<WorkloadRecord>>,
    pub(crate) failure: Option<Arc<FailureRecord>>,
    pub(crate) machine: Option<Arc<MachineRecord>>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) boot: Option<Duration>,
    /// It is deleted, and this the last that is heard of it.
    pub(crate) gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Absent,
    Connecting,
    Ready,
    Lost,
}

/// What interactive calls go through while it is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) machine: Option<Arc<AnyMachine>>,
    /// Only once the guest is configured.
    pub(crate) session: Option<GuestSession>,
}

impl VmView {
    pub(crate) fn new(desired: Desired, record: &ObservedRecord) -> Self {
        let phase = inn_domain::phase(&desired, &record.observed, None);
        Self {
            desired,
            observed: record.observed.clone(),
            phase,
            observed_generation: record.observed_generation,
            link: Link::Absent,
            hello: None,
            workload: record.workload.clone().map(Arc::new),
            failure: record.failure.clone().map(Arc::new),
            machine: record.machine.clone().map(Arc::new),
            started_at: record.started_at,
            boot: record.boot,
            gone: false,
        }
    }

    /// What the next life of the agent needs of it.
    pub(crate) fn to_record(&self) -> ObservedRecord {
        ObservedRecord {
            observed: self.observed.clone(),
            phase: Some(self.phase),
            observed_generation: self.observed_generation,
            machine: self.machine.as_deref().cloned(),
            failure: self.failure.as_deref().cloned(),
            workload: self.workload.as_deref().cloned(),
            started_at: self.started_at,
            boot: self.boot,
            last_end: None,
        }
    }

    /// Whether it is as good as it gets for what is desired now.
    pub(crate) fn has_settled(&self) -> bool {
        self.gone || self.observed_generation >= self.desired.generation
    }
}
