//! Limits, as the API and the domain have them.

use inn_api as api;
use inn_domain::{IoRates, LimitsChange, ResourceLimits};
use inn_host::cgroup::Layout;

use crate::vm::{Confinement, VmView};

pub(in crate::http) fn limits_in(limits: &api::VmLimits) -> ResourceLimits {
    ResourceLimits {
        cpu_percent: limits.cpu_quota_percent,
        cpu_weight: limits.cpu_weight,
        memory: limits.memory_bytes,
        pids: limits.pids,
        io: IoRates {
            read: limits.io_read_bps,
            write: limits.io_write_bps,
            read_ops: limits.io_read_iops,
            write_ops: limits.io_write_iops,
        },
    }
}

pub(in crate::http) fn change_in(change: &api::VmLimitsChange) -> LimitsChange {
    LimitsChange {
        cpu_percent: change.cpu_quota_percent,
        cpu_weight: change.cpu_weight,
        memory: change.memory_bytes,
        pids: change.pids,
        read: change.io_read_bps,
        write: change.io_write_bps,
        read_ops: change.io_read_iops,
        write_ops: change.io_write_iops,
    }
}

pub(in crate::http) fn limits(view: &VmView, layout: Layout) -> api::VmLimitsState {
    let ResourceLimits { cpu_percent, cpu_weight, memory, pids, io } = view.limits;
    let none = Confinement::default();
    let now = view.confinement.as_deref().unwrap_or(&none);
    api::VmLimitsState {
        asked: api::VmLimits {
            cpu_quota_percent: cpu_percent,
            cpu_weight,
            memory_bytes: memory,
            pids,
            io_read_bps: io.read,
            io_write_bps: io.write,
            io_read_iops: io.read_ops,
            io_write_iops: io.write_ops,
        },
        layout: match layout {
            Layout::V2 => api::CgroupLayout::V2,
            Layout::V1 => api::CgroupLayout::V1,
            Layout::Hybrid => api::CgroupLayout::Hybrid,
            Layout::None => api::CgroupLayout::None,
        },
        applied: now.applied.clone(),
        not_applied: now
            .not_applied
            .iter()
            .map(|(what, why)| api::LimitNotApplied { what: what.clone(), why: why.clone() })
            .collect(),
        uid: now.uid,
    }
}
