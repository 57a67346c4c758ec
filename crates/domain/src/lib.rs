//! What a VM should be, what it is, and what to do about the difference.
//!
//! Pure: no I/O, no clock, no randomness; time comes in as a [`Moment`]. The
//! heart is [`plan()`]: from what is desired and what is observed it makes a
//! [`VmPlan`], a value that prints and that tests compare. Each step says by
//! [`Observed::after`] what the world looks like once it has succeeded, so
//! the whole life of a VM can be run through without a VM.

mod access;
mod admission;
mod capacity;
mod cloud_init;
mod idle;
mod limits;
pub mod network;
mod observed;
mod plan;
mod restart;
mod select;
mod spec;
mod template;
mod timeline;
mod ttl;

pub use access::{Scope, UnknownScope};
pub use admission::{
    Change, ChangeDeniedReason, CreateDeniedReason, GrowDeniedReason, Limits, MIN_DISK, MIN_MEMORY,
    Request, RuntimeOffer, admit_create, admit_growth, admit_runtime, decide,
};
pub use capacity::{
    Capacity, CapacityDeniedReason, Demand, Hold, Overcommit, Reserved, admit_capacity, hold_of,
};
pub use cloud_init::{CloudInit, CloudInitDeniedReason};
pub use idle::{
    IDLE_AFTER, IdleAction, IdleDeniedReason, OnIdle, Rest, admit_idle, is_traffic, may_rest,
    rests_at,
};
pub use limits::{
    IoRates, LimitsChange, LimitsDeniedReason, ResourceLimits, admit_limits, loosened,
};
pub use observed::{
    Down, DownReason, EndKind, Guest, MachineView, Motion, Observed, VmPhase, phase,
};
pub use plan::{Rules, VmPlan, VmStep, begins_from_saved, plan, will_run};
pub use restart::{Backoff, Moment};
pub use select::{RuntimeCandidate, RuntimeSelection, RuntimeVerdict, RuntimeWhy, select_runtime};
pub use spec::{
    ChannelChoice, Desired, DiskFormat, DiskPin, ImagePin, KernelChoice, Network, Origin, Pause,
    Power, Removal, RestartPolicy, RunDefaults, RuntimeChoice, StableAddresses, StopKind, VmSource,
    VmSpec, WorkloadChoice,
};
pub use template::{
    CLONES_KEPT, CLONES_TOGETHER, NoTemplateReason, PoolKind, PoolLimits, PoolStep, admit_template,
    next_pool_change, plan_pool,
};
pub use timeline::{BootPhase, BootTimeline, Pace, PhasePart, PhaseResult, PhaseTime};
pub use ttl::{LONGEST_TTL, TTL_GRACE, TtlAction, TtlDeniedReason, admit_ttl, ttl_left};
