//! Which hierarchies there are, and where in them a process is: pure, from
//! two texts of proc(5).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// How the host's control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    V2,
    V1,
    /// Both, each with some controllers.
    Hybrid,
    /// None in sight.
    None,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::None => "none",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Cpu,
    /// Counts CPU time. Of version 1; in version 2 every group does.
    CpuAcct,
    Memory,
    Pids,
    /// `blkio` in version 1.
    Io,
}

impl Controller {
    fn of_v1(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "cpuacct" => Self::CpuAcct,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "blkio" => Self::Io,
            _ => return None,
        })
    }

    pub(super) fn of_v2(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "io" => Self::Io,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }
}

/// The hierarchies that a process can see, and its own group in each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    pub(super) v1: Vec<V1>,
    pub(super) v2: Option<Own>,
}

/// A tree of version 1 that has controllers of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1 {
    pub(super) controllers: BTreeSet<Controller>,
    pub(super) own: Own,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    mount: PathBuf,
    /// The process's own group.
    pub(super) dir: PathBuf,
    pub(super) read_only: bool,
}

struct Mount<'a> {
    root: &'a str,
    point: PathBuf,
    read_only: bool,
    kind: &'a str,
    super_options: &'a str,
}

impl Hierarchies {
    /// From a process's /proc/PID/cgroup and our own /proc/self/mountinfo.
    pub fn parse(cgroup: &str, mountinfo: &str) -> Self {
        let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(mount).collect();
        let mut found = Self::default();
        for line in cgroup.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(number), Some(names), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if number == "0" && names.is_empty() {
                let mount = mounts.iter().find(|mount| mount.kind == "cgroup2");
                found.v2 = mount.map(|mount| Own::of(mount, path));
                continue;
            }
            let controllers: BTreeSet<Controller> =
                names.split(',').filter_map(Controller::of_v1).collect();
            let mount = mounts.iter().find(|mount| {
                mount.kind == "cgroup"
                    && names
                        .split(',')
                        .all(|name| mount.super_options.split(',').any(|o| o == name))
            });
            if let Some(mount) = mount
                && !controllers.is_empty()
            {
                found.v1.push(V1 { controllers, own: Own::of(mount, path) });
            }
        }
        found
    }

    pub fn layout(&self) -> Layout {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, true) => Layout::V2,
            (false, false) => Layout::V1,
            (false, true) => Layout::Hybrid,
            (true, false) => Layout::None,
        }
    }
}

impl Own {
    fn of(mount: &Mount<'_>, path: &str) -> Self {
        // What is mounted may be a part of the tree only, as in a container
        // without a name space of its own for control groups.
        let below = match path.strip_prefix(mount.root.trim_end_matches('/')) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            _ => "",
        };
        // Outside of our own name space: `/../x` (cgroup_namespaces(7)).
        let below = if below.contains("..") { "" } else { below.trim_matches('/') };
        let dir = if below.is_empty() { mount.point.clone() } else { mount.point.join(below) };
        Self { mount: mount.point.clone(), dir, read_only: mount.read_only }
    }

    fn is_root(&self) -> bool {
        self.dir == self.mount
    }

    /// Where the groups of our machines go in a tree of version 1.
    pub(super) fn base_v1(&self) -> PathBuf {
        match is_units(&self.dir) {
            true => self.parent(),
            false => self.dir.clone(),
        }
    }

    /// Where they go in version 2: a group with limited children has no
    /// processes of its own, the root excepted.
    pub(super) fn base_v2(&self) -> PathBuf {
        match self.is_root() {
            true => self.dir.clone(),
            false => self.parent(),
        }
    }

    /// From the root of what is mounted to a group in it, both included.
    pub(super) fn way_to(&self, group: &Path) -> Vec<PathBuf> {
        let mut way: Vec<PathBuf> = group
            .ancestors()
            .take_while(|dir| dir.starts_with(&self.mount))
            .map(Path::to_owned)
            .collect();
        way.reverse();
        way
    }

    pub(super) fn root(&self) -> &Path {
        &self.mount
    }

    fn parent(&self) -> PathBuf {
        match self.dir.parent() {
            Some(parent) if !self.is_root() => parent.to_owned(),
            _ => self.dir.clone(),
        }
    }
}

/// Whether a group is that of a unit whose processes systemd owns.
fn is_units(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".service") || name.ends_with(".scope")
}

/// proc(5), /proc/PID/mountinfo: fields 4 to 6, and what follows ` - `.
fn mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point, options) = (left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, super_options) = (right.next()?, right.nth(1)?);
    let read_only = [options, super_options].iter().any(|o| o.split(',').any(|o| o == "ro"));
    Some(Mount { root, point: unescape(point).into(), read_only, kind, super_options })
}

/// A space in a path is `\040` there.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}
