//! What is written where, as a value: pure.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::layout::{Controller, Hierarchies, Layout, Own};

/// Over which a quota is counted, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// cgroup-v2.rst: the default of cpu.weight; that of cpu.shares is 1024.
const DEFAULT_WEIGHT: u64 = 100;
const DEFAULT_SHARES: u64 = 1024;

/// What a machine may use. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Of one CPU: 150 is one and a half.
    pub cpu_percent: Option<u32>,
    /// 1 to 10,000 beside others that want the CPU; 100 unless given.
    pub cpu_weight: Option<u32>,
    pub memory: Option<u64>,
    /// Threads count.
    pub pids: Option<u32>,
    pub io: IoLimits,
    /// The whole disks that `io` is about.
    pub devices: Vec<Device>,
}

/// For each second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits {
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub read_ops: Option<u64>,
    pub write_ops: Option<u64>,
}

/// A block device by its numbers; no partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What can be limited, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    CpuQuota,
    CpuWeight,
    Memory,
    Pids,
    IoRead,
    IoWrite,
}

impl Resource {
    pub const ALL: [Self; 6] =
        [Self::CpuQuota, Self::CpuWeight, Self::Memory, Self::Pids, Self::IoRead, Self::IoWrite];

    pub(super) fn controller(self) -> Controller {
        match self {
            Self::CpuQuota | Self::CpuWeight => Controller::Cpu,
            Self::Memory => Controller::Memory,
            Self::Pids => Controller::Pids,
            Self::IoRead | Self::IoWrite => Controller::Io,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CpuQuota => "cpuQuota",
            Self::CpuWeight => "cpuWeight",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::IoRead => "ioRead",
            Self::IoWrite => "ioWrite",
        })
    }
}

impl CgroupLimits {
    /// Whether somebody would miss it.
    pub fn asks_for(&self, resource: Resource) -> bool {
        let io = &self.io;
        match resource {
            Resource::CpuQuota => self.cpu_percent.is_some(),
            Resource::CpuWeight => self.cpu_weight.is_some(),
            Resource::Memory => self.memory.is_some(),
            Resource::Pids => self.pids.is_some(),
            Resource::IoRead => io.read_bytes.is_some() || io.read_ops.is_some(),
            Resource::IoWrite => io.write_bytes.is_some() || io.write_ops.is_some(),
        }
    }
}

/// One file that gets one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub resource: Resource,
    pub path: PathBuf,
    pub value: String,
}

/// A limit that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotApplied {
    pub resource: Resource,
    /// A clause.
    pub why: String,
}

/// What makes one machine's groups and limits them, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPlan {
    pub layout: Layout,
    /// A controller for the children of a group of version 2: the file, and
    /// which, from the root on. Each may be there already, or be refused for
    /// itself.
    pub enable: Vec<(PathBuf, Controller)>,
    /// The machine's own group in each tree.
    pub groups: Vec<PathBuf>,
    pub writes: Vec<Write>,
    /// What has a limit; of the rest the absence of one is written.
    pub asked: BTreeSet<Resource>,
    pub not_applied: Vec<NotApplied>,
}

/// A machine's group in one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    version: Version,
    controllers: BTreeSet<Controller>,
    /// In version 2, those that have to pass the controllers on: from the root
    /// to that of the agent's machines.
    above: Vec<PathBuf>,
    pub(super) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The groups of a machine, which may or may not have been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Targets {
    pub(super) layout: Layout,
    pub(super) list: Vec<Target>,
    read_only: BTreeSet<Controller>,
}

impl Targets {
    /// Of a machine to be, in the group `parent` of its agent.
    pub(super) fn planned(
        hierarchies: &Hierarchies,
        in_v2: &BTreeSet<Controller>,
        parent: &str,
        name: &str,
    ) -> Self {
        let mut list = Vec::new();
        let mut read_only = BTreeSet::new();
        let mut add = |version, controllers: &BTreeSet<Controller>, own: &Own, base: &Path| {
            if own.read_only {
                read_only.extend(controllers);
            } else if !controllers.is_empty() {
                let parent = base.join(parent);
                let dir = parent.join(name);
                let above = match version {
                    Version::V1 => Vec::new(),
                    Version::V2 => own.way_to(&parent),
                };
                list.push(Target { version, controllers: controllers.clone(), above, dir });
            }
        };
        for tree in &hierarchies.v1 {
            add(Version::V1, &tree.controllers, &tree.own, &tree.own.base_v1());
        }
        if let Some(own) = &hierarchies.v2 {
            add(Version::V2, in_v2, own, &own.base_v2());
        }
        Self { layout: hierarchies.layout(), list, read_only }
    }

    /// Of a machine that runs, as its process has them; only those that bear
    /// its name.
    pub(super) fn of_process(
        hierarchies: &Hierarchies,
        in_v2: &BTreeSet<Controller>,
        name: &str,
    ) -> Self {
        let mut list = Vec::new();
        let mut add = |version, controllers: &BTreeSet<Controller>, dir: &Path| {
            if dir.file_name().is_some_and(|last| last == name) {
                let (controllers, dir) = (controllers.clone(), dir.to_owned());
                list.push(Target { version, controllers, above: Vec::new(), dir });
            }
        };
        for tree in &hierarchies.v1 {
            add(Version::V1, &tree.controllers, &tree.own.dir);
        }
        if let Some(own) = &hierarchies.v2 {
            add(Version::V2, in_v2, &own.dir);
        }
        Self { layout: hierarchies.layout(), list, read_only: BTreeSet::new() }
    }

    /// Only what is asked for and can't be had is told.
    pub(super) fn plan(&self, limits: &CgroupLimits) -> CgroupPlan {
        let mut plan = CgroupPlan {
            layout: self.layout,
            enable: Vec::new(),
            groups: Vec::new(),
            writes: Vec::new(),
            asked: Resource::ALL.into_iter().filter(|one| limits.asks_for(*one)).collect(),
            not_applied: Vec::new(),
        };
        for target in &self.list {
            for dir in &target.above {
                let file = dir.join("cgroup.subtree_control");
                plan.enable.extend(target.controllers.iter().map(|c| (file.clone(), *c)));
            }
            plan.groups.push(target.dir.clone());
        }
        for resource in Resource::ALL {
            let controller = resource.controller();
            let target = self.list.iter().find(|t| t.controllers.contains(&controller));
            match target {
                Some(target) => {
                    plan.writes.extend(target.writes(resource, limits));
                    plan.not_applied.extend(target.shortfall(resource, limits));
                }
                None => {
                    let why = self.absence(controller);
                    plan.not_applied.push(NotApplied { resource, why });
                }
            }
        }
        plan.not_applied.retain(|not| limits.asks_for(not.resource));
        plan
    }

    fn absence(&self, controller: Controller) -> String {
        let name = controller.name();
        if self.read_only.contains(&controller) {
            return format!("the control groups of {name} are mounted read-only");
        }
        match self.layout {
            Layout::None => "no control groups are mounted".to_owned(),
            _ => format!("the controller {name} is not there, or not delegated to the agent"),
        }
    }
}

impl Target {
    fn writes(&self, resource: Resource, limits: &CgroupLimits) -> Vec<Write> {
        let write =
            |file: &str, value: String| Write { resource, path: self.dir.join(file), value };
        let v2 = self.version == Version::V2;
        let none = if v2 { "max" } else { "-1" };
        match resource {
            Resource::CpuQuota => {
                let quota = limits.cpu_percent.map_or_else(
                    || none.to_owned(),
                    |percent| (u64::from(percent) * PERIOD_US / 100).to_string(),
                );
                match v2 {
                    true => vec![write("cpu.max", format!("{quota} {PERIOD_US}"))],
                    false => vec![
                        write("cpu.cfs_period_us", PERIOD_US.to_string()),
                        write("cpu.cfs_quota_us", quota),
                    ],
                }
            }
            Resource::CpuWeight => {
                let weight = limits.cpu_weight.map_or(DEFAULT_WEIGHT, u64::from);
                // sched/core.c: shares are 2 at least.
                let shares = (weight * DEFAULT_SHARES / DEFAULT_WEIGHT).max(2);
                match v2 {
                    true => vec![write("cpu.weight", weight.to_string())],
                    false => vec![write("cpu.shares", shares.to_string())],
                }
            }
            Resource::Memory => {
                let file = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
                vec![write(file, limits.memory.map_or_else(|| none.to_owned(), |m| m.to_string()))]
            }
            Resource::Pids => {
                // "max" in both.
                let most = limits.pids.map_or_else(|| "max".to_owned(), |pids| pids.to_string());
                vec![write("pids.max", most)]
            }
            Resource::IoRead | Resource::IoWrite => self.throttles(resource, limits),
        }
    }

    fn throttles(&self, resource: Resource, limits: &CgroupLimits) -> Vec<Write> {
        let io = &limits.io;
        let (word, bytes, ops) = match resource {
            Resource::IoRead => ("read", io.read_bytes, io.read_ops),
            _ => ("write", io.write_bytes, io.write_ops),
        };
        let letter = &word[..1];
        let mut writes = Vec::new();
        for device in &limits.devices {
            let mut write = |file: String, value: String| {
                writes.push(Write { resource, path: self.dir.join(file), value });
            };
            match self.version {
                Version::V2 => {
                    let most =
                        |n: Option<u64>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
                    let (bps, iops) = (most(bytes), most(ops));
                    let value = format!("{device} {letter}bps={bps} {letter}iops={iops}");
                    write("io.max".to_owned(), value);
                }
                // 0 takes a throttle away.
                Version::V1 => {
                    for (unit, most) in [("bps", bytes), ("iops", ops)] {
                        let file = format!("blkio.throttle.{word}_{unit}_device");
                        write(file, format!("{device} {}", most.unwrap_or(0)));
                    }
                }
            }
        }
        writes
    }

    /// What a write can't bring, though it succeeds.
    fn shortfall(&self, resource: Resource, limits: &CgroupLimits) -> Option<NotApplied> {
        if resource.controller() != Controller::Io {
            return None;
        }
        let not = |why: &str| Some(NotApplied { resource, why: why.to_owned() });
        if limits.devices.is_empty() {
            return not("the VM's disk lies on no block device of the host");
        }
        if resource == Resource::IoWrite && self.version == Version::V1 {
            // admin-guide/cgroup-v1/blkio-controller.rst: only what a process
            // itself submits is throttled.
            return not(
                "version 1 of control groups does not slow writes through the page cache; \
                        it takes version 2",
            );
        }
        None
    }
}
