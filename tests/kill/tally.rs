//! All that an agent has of its host, counted before the first VM is made and
//! after the last one is deleted: both times it has to be the same.
//!
//! Looked for in the kernel and the file system by what is this agent's alone:
//! its directories, its VMs' ids and its instance's suffix, since other cases
//! run beside it. Leases and reservations are the agent's own, and asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use inn_tests::{host, leftovers};
use serde_json::Value;
use twox_hash::XxHash3_64;

use crate::audit;
use crate::ground::Ground;

/// What is no VM's: images have an audit of their own, the database's files
/// come and go, what a deletion kept stays, templates are a cache, what VMs have
/// used is told of them after, and a home is the case's own.
const NOT_OF_VMS: [&str; 6] =
    ["data/images/", "data/state.db", "data/kept/", "data/templates/", "data/usage/", "home/"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    kinds: Vec<(&'static str, BTreeSet<String>)>,
}

impl Tally {
    /// `ids`: of all VMs that there have ever been on this host.
    pub(crate) fn of(ground: &Ground, ids: &BTreeSet<String>) -> Self {
        let host = &ground.host;
        let names = Names::of(&host.data(), ids);
        let agent = host.agent_pid();
        let processes = leftovers::processes_of(host.path());
        let processes = processes.into_iter().filter(|p| p.pid != agent).map(|p| p.cmdline);
        let files = leftovers::files_below(host.path());
        let files = files.iter().map(|file| file.to_string_lossy().into_owned());
        let files = files.filter(|file| !NOT_OF_VMS.iter().any(|not| file.starts_with(not)));
        let node = host.node();
        let reserved = ["memoryBytes", "vcpus", "diskBytes", "vms"]
            .map(|what| format!("{what} {}", node["resources"][what]["reserved"]));
        let leased = |vm: &Value| vm["lease"] == true;
        let leases = ground.vms().into_iter().filter(leased).map(|vm| vm["name"].to_string());
        Self {
            kinds: vec![
                ("process", processes.collect()),
                ("file", files.collect()),
                ("socket", leftovers::sockets_of(host.path()).into_iter().collect()),
                ("mount", leftovers::mounts_of(host.path()).into_iter().collect()),
                ("control group", audit::cgroups(&|name| names.is_in(name)).into_iter().collect()),
                ("interface", interfaces(&names)),
                ("nft element", nft(&names)),
                ("lease", leases.collect()),
                ("reservation", reserved.into()),
            ],
        }
    }

    /// What is there and was not, and the other way round. Of processes only
    /// the first: an agent that has just started asks QEMU what it can do.
    pub(crate) fn differs_from(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for ((kind, now), (_, then)) in self.kinds.iter().zip(&before.kinds) {
            found.extend(now.difference(then).map(|one| format!("{kind} more: {one}")));
            if *kind != "process" {
                found.extend(then.difference(now).map(|one| format!("{kind} less: {one}")));
            }
        }
        found
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, all) in &self.kinds {
            writeln!(f, "{kind}: {all:?}")?;
        }
        Ok(())
    }
}

/// What of the host's shared names is this agent's.
struct Names(Vec<String>);

impl Names {
    fn of(data: &Path, ids: &BTreeSet<String>) -> Self {
        // As an agent that is not the system's tells itself from others
        // (crates/node/src/paths.rs).
        let instance = XxHash3_64::oneshot(data.as_os_str().as_bytes()) >> 32;
        Self(ids.iter().cloned().chain([format!("{instance:08x}")]).collect())
    }

    fn is_in(&self, text: &str) -> bool {
        self.0.iter().any(|name| text.contains(name.as_str()))
    }
}

fn interfaces(names: &Names) -> BTreeSet<String> {
    let all = leftovers::entries_of(Path::new("/sys/class/net"));
    all.into_iter().filter(|name| names.is_in(name)).collect()
}

/// Of the packet filter, whatever names this agent; nothing where it cannot
/// be read.
fn nft(names: &Names) -> BTreeSet<String> {
    if UNREADABLE.is_some() {
        return BTreeSet::new();
    }
    let rules = ruleset().unwrap_or_default();
    rules.lines().filter(|line| names.is_in(line)).map(|line| line.trim().to_owned()).collect()
}

/// Why the packet filter is not looked at, if it is not.
pub(crate) static UNREADABLE: LazyLock<Option<String>> = LazyLock::new(|| {
    if !host::finds_program("nft") {
        return Some("nft is not there: apt-get install nftables".to_owned());
    }
    ruleset().err()
});

#[expect(clippy::disallowed_methods, reason = "tests look at the host by its own programs")]
fn ruleset() -> Result<String, String> {
    let ran = std::process::Command::new("nft").args(["list", "ruleset"]).output();
    let output = ran.map_err(|error| format!("nft cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("nft list ruleset: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
