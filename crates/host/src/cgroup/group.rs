//! The groups of machines on this host: made, changed, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inn_fail_point::{Point, fail_point};
use rustix::event::{Timespec, poll};

use super::layout::{Controller, Hierarchies, Layout};
use super::plan::{CgroupLimits, CgroupPlan, NotApplied, Resource, Targets};
use crate::process::{Process, ProcessIdentity, Signal};

/// What a machine's group is called, before its name.
const PREFIX: &str = "vm-";

/// Between two attempts to remove a group whose processes end.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// The groups of one agent's machines.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Hierarchies,
    in_v2: BTreeSet<Controller>,
    /// Of all its machines, a single path component.
    parent: String,
    /// Held while groups are made, and while the agent's own is removed with
    /// the last of them.
    making: Arc<Mutex<()>>,
}

/// A machine's groups, made and limited.
#[derive(Debug, Default)]
pub struct Placed {
    /// The `cgroup.procs` of each: a process that writes 0 to them enters.
    pub entrances: Vec<PathBuf>,
    pub applied: Vec<Resource>,
    pub not_applied: Vec<NotApplied>,
}

impl Cgroups {
    /// Looks at this process's own place. `parent` names the agent: two
    /// agents of one host have different ones. Never fails: where nothing can
    /// be read, nothing is there.
    pub fn find(parent: &str) -> Self {
        let hierarchies = hierarchies_of("self");
        // Those of the root: on the way from there each group may have to be told
        // to pass them on. A systemd that limits nothing itself passes on only
        // memory and pids.
        let in_v2 = hierarchies.v2.as_ref().map(|own| v2_controllers(own.root()));
        Self {
            hierarchies,
            in_v2: in_v2.unwrap_or_default(),
            parent: parent.to_owned(),
            making: Arc::default(),
        }
    }

    pub fn layout(&self) -> Layout {
        self.hierarchies.layout()
    }

    pub fn plan(&self, id: &str, limits: &CgroupLimits) -> CgroupPlan {
        self.planned(id).plan(limits)
    }

    /// Makes and limits the groups of a machine that is about to be launched.
    /// What of an earlier life is in them is killed first. Blocks.
    pub fn make(&self, plan: &CgroupPlan) -> Placed {
        let mut placed = Placed { not_applied: plan.not_applied.clone(), ..Placed::default() };
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refused = BTreeMap::new();
        for group in &plan.groups {
            if let Err(error) = fs::create_dir_all(group.parent().unwrap_or(group)) {
                refused.entry(group.clone()).or_insert(error.to_string());
            }
        }
        let mut disabled = BTreeMap::new();
        for (file, controller) in &plan.enable {
            // Often it is, by somebody else, in a group that only they may change.
            if !is_enabled(file, *controller)
                && let Err(error) = write(file, &format!("+{}", controller.name()))
            {
                let group = file.parent().unwrap_or(file).display();
                let why = match error.kind() {
                    // No internal processes: cgroup-v2.rst.
                    ErrorKind::ResourceBusy => format!("{group} has processes of its own"),
                    _ => format!("{group}: {error}"),
                };
                disabled.entry(*controller).or_insert(why);
            }
        }
        for group in &plan.groups {
            let made = match fs::create_dir(group) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                made => made,
            };
            match made.and_then(|()| OpenOptions::new().write(true).open(procs(group))) {
                Ok(_) => {
                    placed.entrances.push(procs(group));
                    fail_point(Point::CgroupFirst);
                }
                Err(error) => {
                    refused.entry(group.clone()).or_insert(error.to_string());
                }
            }
        }
        placed.write(plan, &|resource, path| {
            let group = path.parent()?;
            if let Some(why) = refused.get(group) {
                return Some(format!("{} cannot be made: {why}", group.display()));
            }
            let controller = resource.controller();
            let why = disabled.get(&controller)?;
            Some(format!("the controller {} cannot be enabled: {why}", controller.name()))
        });
        fail_point(Point::CgroupMade);
        placed
    }

    /// Changes the limits of a machine that runs, wherever its groups are: an
    /// earlier life of the agent may have had another place. Blocks.
    pub fn change(&self, id: &str, pid: u32, limits: &CgroupLimits) -> Placed {
        let plan = self.running(id, pid).plan(limits);
        let mut placed = Placed { not_applied: plan.not_applied.clone(), ..Placed::default() };
        placed.write(&plan, &|_, _| None);
        placed
    }

    /// Whether the machine with this process is in groups of its own.
    pub fn has(&self, id: &str, pid: u32) -> bool {
        !self.running(id, pid).list.is_empty()
    }

    /// What the processes of a machine's groups have had of CPUs, those that
    /// have ended too. `None` where no group of its counts that. Blocks, shortly.
    pub fn cpu_time(&self, id: &str) -> Option<Duration> {
        self.planned(id).list.iter().find_map(|target| cpu_time(&target.dir))
    }

    /// What lives in a machine's groups; `None` where it has none. Blocks,
    /// shortly.
    pub fn processes(&self, id: &str) -> Option<Vec<u32>> {
        let listed = |dir: &Path| {
            let text = fs::read_to_string(procs(dir)).ok()?;
            Some(text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>())
        };
        let mut groups = self.planned(id).list.into_iter();
        groups.find_map(|target| listed(&target.dir)).filter(|pids| !pids.is_empty())
    }

    /// Removes a machine's groups; what is left in them is killed. Succeeds
    /// when there are none. Blocks, at most until `deadline` has passed.
    pub fn remove(&self, id: &str, deadline: Duration) -> io::Result<()> {
        let until = Instant::now() + deadline;
        for target in self.planned(id).list {
            remove(&target.dir, until)?;
            fail_point(Point::CgroupRemoved);
            self.remove_parent(&target.dir);
        }
        Ok(())
    }

    /// Removes the groups of machines that are nobody's, and tells their ids.
    /// Blocks.
    pub fn reap(&self, is_known: &dyn Fn(&str) -> bool, deadline: Duration) -> Vec<String> {
        let until = Instant::now() + deadline;
        let mut reaped = BTreeSet::new();
        for target in self.planned("x").list {
            let Some(parent) = target.dir.parent() else { continue };
            let Ok(entries) = fs::read_dir(parent) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(id) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                    continue;
                };
                if is_known(id) {
                    continue;
                }
                match remove(&entry.path(), until) {
                    Ok(()) => {
                        reaped.insert(id.to_owned());
                    }
                    Err(error) => {
                        tracing::warn!(group = %entry.path().display(), %error, "a group stays behind");
                    }
                }
            }
            self.remove_parent(&target.dir);
        }
        reaped.into_iter().collect()
    }

    /// Of a machine's group, once it is empty.
    fn remove_parent(&self, group: &Path) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Busy as long as there are others.
        let _ = group.parent().map(fs::remove_dir);
    }

    fn planned(&self, id: &str) -> Targets {
        Targets::planned(&self.hierarchies, &self.in_v2, &self.parent, &format!("{PREFIX}{id}"))
    }

    fn running(&self, id: &str, pid: u32) -> Targets {
        let hierarchies = hierarchies_of(&pid.to_string());
        let in_v2 = hierarchies.v2.as_ref().map(|own| v2_controllers(&own.dir));
        Targets::of_process(&hierarchies, &in_v2.unwrap_or_default(), &format!("{PREFIX}{id}"))
    }
}

impl Placed {
    fn write(&mut self, plan: &CgroupPlan, explain: &dyn Fn(Resource, &Path) -> Option<String>) {
        let mut failed: BTreeMap<Resource, String> = BTreeMap::new();
        let mut written = BTreeSet::new();
        for one in &plan.writes {
            match write(&one.path, &one.value) {
                Ok(()) => {
                    written.insert(one.resource);
                }
                Err(error) => {
                    let why = explain(one.resource, &one.path).unwrap_or_else(|| {
                        format!("{} to {}: {error}", one.value, one.path.display())
                    });
                    failed.entry(one.resource).or_insert(why);
                }
            }
        }
        let short: BTreeSet<_> = self.not_applied.iter().map(|not| not.resource).collect();
        self.applied = written
            .into_iter()
            .filter(|one| plan.asked.contains(one))
            .filter(|one| !failed.contains_key(one) && !short.contains(one))
            .collect();
        let failed =
            failed.into_iter().filter(|(one, _)| plan.asked.contains(one) && !short.contains(one));
        self.not_applied.extend(failed.map(|(resource, why)| NotApplied { resource, why }));
    }
}

fn remove(group: &Path, until: Instant) -> io::Result<()> {
    loop {
        let error = match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::ResourceBusy || Instant::now() >= until {
            return Err(error);
        }
        // Where the kernel has it (5.14), one write kills all at once.
        if write(&group.join("cgroup.kill"), "1").is_err() {
            for line in fs::read_to_string(procs(group)).unwrap_or_default().lines() {
                kill_if_in(group, line);
            }
        }
        // Nothing tells when the last one has been reaped.
        let _ = poll(&mut [], Some(&RETRY));
    }
}

/// The process may have ended since the list was read, and its pid be another
/// one's: that one is not in the group.
fn kill_if_in(group: &Path, pid: &str) {
    let Some(identity) = pid.parse().ok().and_then(|pid| ProcessIdentity::of_pid(pid).ok()) else {
        return;
    };
    let Ok(process) = Process::open(&identity) else { return };
    let listed = fs::read_to_string(procs(group)).unwrap_or_default();
    if listed.lines().any(|line| line == pid)
        && let Err(error) = process.kill(Signal::KILL)
    {
        tracing::warn!(pid, %error, "a process of a group that has to go lives on");
    }
}

/// cgroup-v2.rst, cpu.stat: in microseconds, without any controller; in
/// version 1 the controller cpuacct has it (cpuacct.rst), in nanoseconds.
fn cpu_time(group: &Path) -> Option<Duration> {
    if let Ok(nanos) = fs::read_to_string(group.join("cpuacct.usage")) {
        return nanos.trim().parse().ok().map(Duration::from_nanos);
    }
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.trim().parse().ok().map(Duration::from_micros)
}

fn procs(group: &Path) -> PathBuf {
    group.join("cgroup.procs")
}

/// In one write, as the kernel wants it.
fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn hierarchies_of(pid: &str) -> Hierarchies {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    Hierarchies::parse(
        &read(format!("/proc/{pid}/cgroup")),
        &read("/proc/self/mountinfo".to_owned()),
    )
}

fn v2_controllers(dir: &Path) -> BTreeSet<Controller> {
    listed(&dir.join("cgroup.controllers"))
}

fn is_enabled(subtree_control: &Path, controller: Controller) -> bool {
    listed(subtree_control).contains(&controller)
}

fn listed(file: &Path) -> BTreeSet<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(Controller::of_v2).collect()
}

impl super::plan::Device {
    /// The whole disk that a path lies on; `None` where that is no disk, such
    /// as a tmpfs or a file system on several.
    pub fn of_path(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let device = fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        // 0 is the major number of what has no device.
        let sys = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        if !sys.join("partition").exists() {
            return (major != 0).then_some(Self { major, minor });
        }
        let text = fs::read_to_string(sys.parent()?.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}
