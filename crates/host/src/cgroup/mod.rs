//! Control groups: what the kernel grants a machine of the host's CPUs,
//! memory, processes and disks.
//!
//! ```text
//!   /proc/self/cgroup ──┐
//!   /proc/self/mountinfo┼─▶ Hierarchies ─▶ Groups ──plan──▶ CgroupPlan ──make──▶ Placed
//!   cgroup.controllers ─┘    (pure)                 (pure: paths, values)          │
//!                                        a process enters it between fork and exec ┘
//!   BASE/innkeeper[-INSTANCE]/vm-ID      its name is the intent: whatever has one
//!                                        and no owner is reaped
//! ```
//!
//! Both layouts are in the field: version 2, one tree for all controllers
//! (Documentation/admin-guide/cgroup-v2.rst), and version 1, a tree for each
//! (admin-guide/cgroup-v1); mixed, some controllers are here and some there.
//! Each controller is used where it is, and what is not to be had is told with
//! the reason, never a failure.
//!
//! Where the groups lie (BASE): beside the agent's own group where that is a
//! systemd service's or scope's, since systemd ends or counts whatever is in
//! it; in the agent's own group of a version 1 tree otherwise; in version 2,
//! where a group with processes can't have limited children, beside the
//! agent's own, or at the root where the agent is there. docs/adr has why.

mod group;
mod layout;
mod plan;

pub use group::{Cgroups, Placed};
pub use layout::{Controller, Hierarchies, Layout};
pub use plan::{CgroupLimits, CgroupPlan, Device, IoLimits, NotApplied, Resource, Write};

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
