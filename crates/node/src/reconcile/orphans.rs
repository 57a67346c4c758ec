//! Whatever VMs leave behind, once it is nobody's.
//!
//! ```text
//!   at the start, every `reap.interval`, on demand
//!     └─▶ list a kind of thing ─▶ whose VM is it? ─┬─ a VM's, also one that is being made: stays
//!                                                  └─ nobody's: goes, and is reported
//! ```
//!
//! Everything that is made for a VM has its id in its name, and that VM is in
//! the registry from before the first such thing is made until after the last
//! is gone. An id is never given twice. So what is looked up after it was
//! listed, and found to be nobody's, is nobody's for good.
//!
//! There is one function for each kind of thing; [`reap`] names them all, in
//! the order in which they let go of each other.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_units::VmId;

use super::cgroups::control_groups;
use super::strays::end_strays;
use crate::error::Chain;
use crate::events::{Event, EventKind};
use crate::image_cache;
use crate::node::Node;
use crate::paths::Paths;

/// One thing that was nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) kind: OrphanKind,
    /// The id in its name.
    pub(crate) vm: VmId,
    /// Why it is still there.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrphanKind {
    /// With its processes: those that serve the sockets in its run directory.
    Machine,
    RunDirectory,
    /// Disks and logs.
    VmFiles,
    /// A disk at /persist that was never completed.
    UnfinishedDisk,
    /// Limits of a machine, and what was left in them.
    ControlGroup,
}

impl OrphanKind {
    fn in_words(self) -> &'static str {
        match self {
            Self::Machine => "the machine",
            Self::RunDirectory => "the run directory",
            Self::VmFiles => "the files",
            Self::UnfinishedDisk => "the unfinished disk at /persist",
            Self::ControlGroup => "the control groups",
        }
    }
}

/// Removes what is nobody's. One pass at a time.
pub(crate) async fn reap(node: &Arc<Node>) -> Vec<Reaped> {
    let _alone = node.reaping.lock().await;
    let mut reaped = machines(node).await;
    reaped.extend(end_strays(node).await);
    fail_point(Point::RestoreMachines);
    reaped.extend(control_groups(node).await);
    let owner = Arc::clone(node);
    let files = tokio::task::spawn_blocking(move || {
        let is_owned = |id: &VmId| owner.vms.owns(*id);
        let paths = &owner.config.paths;
        let mut reaped = run_directories(paths, &is_owned);
        reaped.extend(vm_files(paths, &is_owned));
        reaped.extend(unfinished_disks(paths, &is_owned));
        reaped
    });
    match files.await {
        Ok(files) => reaped.extend(files),
        Err(error) => tracing::error!(%error, "orphans are not reaped"),
    }
    for Reaped { kind, vm, error } in &reaped {
        match error {
            None => {
                let message = format!("removed {} of VM {vm}, which was nobody's", kind.in_words());
                let event = Event::new(EventKind::OrphanReaped, message);
                node.events
                    .tell(event.with("kind", kind.in_words()).with("orphan", vm.to_string()));
                tracing::warn!(?kind, %vm, "reaped what was nobody's");
            }
            Some(error) => tracing::error!(?kind, %vm, error, "nobody's, and still there"),
        }
    }
    reaped
}

/// Reaps until the agent ends, at times that agents of one host don't share.
pub(crate) fn reap_again_and_again(node: &Arc<Node>) {
    let reaping = Arc::clone(node);
    node.tasks.spawn(async move {
        loop {
            tokio::select! {
                // A pass is never cut short; this only waits.
                () = reaping.closing.cancelled() => return,
                () = tokio::time::sleep(jittered(reaping.config.live().reap_interval)) => {}
            }
            reap(&reaping).await;
            image_cache::collect_by_limits(&reaping).await;
        }
    });
}

/// Removes what imports that died have taken in and no image has come of. In
/// the background: nobody waits for it.
pub(super) fn sweep_images(node: &Arc<Node>) {
    let sweeping = Arc::clone(node);
    node.tasks.spawn(async move {
        if let Err(error) = sweeping.images.sweep(sweeping.images_in_use()).await {
            tracing::warn!(error = %Chain(&error), "the image cache is not swept");
        }
    });
}

/// From nine tenths to eleven.
fn jittered(every: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness all come at the same time: no harm but a burst.
    let _ = getrandom::fill(&mut byte);
    every.mul_f64(0.9 + f64::from(byte[0]) / 255.0 * 0.2)
}

/// Those whose sockets lie in this agent's runtime directory, and no other's.
async fn machines(node: &Node) -> Vec<Reaped> {
    let orphans: Vec<VmId> = listed(&node.config.paths.runs(), |name| name.parse().ok())
        .into_iter()
        .map(|(id, _)| id)
        .filter(|id| !node.vms.owns(*id))
        .collect();
    if orphans.is_empty() {
        return Vec::new();
    }
    let mut reaped = Vec::new();
    for vm in orphans {
        let run_dir = node.config.paths.of_vm(vm).run_dir;
        // Its VM has taken it along meanwhile.
        if !run_dir.exists() {
            continue;
        }
        let error = node.runtimes.reap_any(vm, &run_dir).await.err().map(|error| error.to_string());
        reaped.push(Reaped { kind: OrphanKind::Machine, vm, error });
    }
    reaped
}

fn run_directories(paths: &Paths, is_owned: &dyn Fn(&VmId) -> bool) -> Vec<Reaped> {
    remove(OrphanKind::RunDirectory, &paths.runs(), is_owned, |name| name.parse().ok())
}

fn vm_files(paths: &Paths, is_owned: &dyn Fn(&VmId) -> bool) -> Vec<Reaped> {
    remove(OrphanKind::VmFiles, &paths.vms(), is_owned, |name| name.parse().ok())
}

/// Whole ones outlive their VMs.
fn unfinished_disks(paths: &Paths, is_owned: &dyn Fn(&VmId) -> bool) -> Vec<Reaped> {
    remove(OrphanKind::UnfinishedDisk, &paths.persist(), is_owned, |name| {
        name.strip_prefix('.')?.strip_suffix(".new")?.parse().ok()
    })
}

fn remove(
    kind: OrphanKind,
    dir: &Path,
    is_owned: &dyn Fn(&VmId) -> bool,
    id_in: fn(&str) -> Option<VmId>,
) -> Vec<Reaped> {
    let mut reaped = Vec::new();
    for (vm, path) in listed(dir, id_in) {
        if is_owned(&vm) {
            continue;
        }
        let error = match remove_whole(&path) {
            // Its VM has taken it along meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => Some(format!("{} cannot be removed: {error}", path.display())),
            Ok(()) => None,
        };
        reaped.push(Reaped { kind, vm, error });
    }
    reaped
}

/// What in a directory has a VM's id in its name; all else is not of our making.
fn listed(dir: &Path, id_in: fn(&str) -> Option<VmId>) -> Vec<(VmId, PathBuf)> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot be looked through");
            return Vec::new();
        }
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            Some((id_in(OsStr::to_str(&name)?)?, entry.path()))
        })
        .collect()
}

fn remove_whole(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Places;

    #[test]
    fn files_without_a_vm_go_and_strange_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            data_dir: Some(dir.path().join("data")),
            runtime_dir: Some(dir.path().join("run")),
            ..Places::default()
        };
        let paths = Paths::find(places, &|_| None).unwrap();
        super::super::make_directories(&paths).unwrap();
        let (known, orphan) = ("0101010101", "0202020202");
        for name in [known, orphan, "not-an-id"] {
            fs::create_dir_all(paths.vms().join(name).join("logs")).unwrap();
            fs::create_dir_all(paths.runs().join(name)).unwrap();
        }
        for name in ["web.img", ".0303030303.new", ".0101010101.new", ".other.new"] {
            fs::write(paths.persist().join(name), "x").unwrap();
        }
        let owned = |id: &VmId| id.to_string() == known;
        let mut reaped = run_directories(&paths, &owned);
        reaped.extend(vm_files(&paths, &owned));
        reaped.extend(unfinished_disks(&paths, &owned));
        let kinds: Vec<_> = reaped.iter().map(|one| (one.kind, one.vm.to_string())).collect();
        let expected = [
            (OrphanKind::RunDirectory, orphan.to_owned()),
            (OrphanKind::VmFiles, orphan.to_owned()),
            (OrphanKind::UnfinishedDisk, "0303030303".to_owned()),
        ];
        assert_eq!(kinds, expected);
        assert!(reaped.iter().all(|one| one.error.is_none()), "{reaped:?}");
        for (dir, name, stays) in [
            (paths.vms(), known, true),
            (paths.vms(), orphan, false),
            (paths.vms(), "not-an-id", true),
            (paths.runs(), orphan, false),
            (paths.persist(), "web.img", true),
            (paths.persist(), ".0303030303.new", false),
            // It is being made.
            (paths.persist(), ".0101010101.new", true),
            (paths.persist(), ".other.new", true),
        ] {
            assert_eq!(dir.join(name).exists(), stays, "{name}");
        }
    }

    #[test]
    fn passes_are_a_tenth_apart_at_most() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(100)).as_secs_f64();
            assert!((90.0..=110.1).contains(&wait), "{wait}");
        }
    }
}
