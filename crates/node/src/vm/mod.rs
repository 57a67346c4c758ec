//! A VM's life.
//!
//! ```text
//!                       ┌──────────── restart policy, start ───────────┐
//!                       ▼                                              │
//!   Pending ──▶ Preparing ──▶ Starting ──▶ Running ──▶ Stopping ──▶ Stopped
//!                  │             │         │   ▲ │                     ▲
//!                  └─────────────┴──▶ Failed   │ └─ the guest powers off
//!                                          session lost, found again
//!   (a full VM is Running from its launch on: its agent may come late or never)
//!   any of them ──▶ Deleting ──▶ gone
//!
//!   http ──▶ VmHandle ──(store, then poke)──▶ VmTask ──plan──▶ execute
//!                ▲                               │
//!                └──────────── VmView ◀──────────┘ publish
//! ```
//!
//! One task owns each VM: it alone plans, makes, ends and removes,
//! so nothing here needs a lock across an await but the handle's order of
//! requests. Everybody else reads the published [`VmView`], and talks to a
//! guest through the session in [`publish::Live`]. A poke says only that something has
//! changed: what, the task reads for itself.

mod activity;
mod address;
mod adopt;
mod asked;
mod attach;
mod backoff;
mod boots;
mod capture;
mod card;
mod commit;
mod confine;
mod doorbell;
mod endings;
mod execute;
mod failure;
mod grow;
mod handle;
mod idle;
mod lease;
mod link;
mod metered;
mod origin;
mod policy;
mod program;
mod publish;
mod receipt;
mod registry;
mod room;
mod succeed;
mod task;
mod telemetry;
mod tell;
mod ttl;
mod warm;
mod why;
mod workload;

pub(crate) use address::AddressError;
pub(crate) use adopt::Restored;
pub(crate) use attach::{USER_ADDRESS, mac};
pub(crate) use capture::{Capture, CaptureError};
pub(crate) use commit::CopyError;
pub(crate) use confine::{Confinement, LimitsError};
pub(crate) use execute::{Draft, HandedOver, channel};
pub(crate) use failure::console_of_boot;
pub(crate) use grow::GrowError;
pub(crate) use handle::{NotReady, RequestError, VmHandle};
pub(crate) use idle::{InUse, NotAwake, SetIdleError, watch_idle, woken_by};
pub(crate) use lease::Lease;
pub(crate) use link::Link;
pub(crate) use policy::PolicyError;
pub(crate) use program::program;
pub(crate) use publish::VmView;
pub(crate) use receipt::Receipt;
pub(crate) use registry::{CreateError, NewVm, Vms};
pub(crate) use telemetry::Sample;
pub(crate) use ttl::{TtlError, watch_ttls};
pub(crate) use warm::{Warm, WarmWay};
pub(crate) use why::{NextAction, StepState, Verdict, Why, WhyFacts, why};
pub(crate) use workload::WORKLOAD;
