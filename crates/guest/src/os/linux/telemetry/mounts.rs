//! How full the file systems are. statvfs(2) on a network mount whose server
//! is gone does not return, so a thread asks, and what it hangs on is left out
//! until it comes back.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inn_guest_proto::wire::MountUse;

use crate::os::linux::mount_table::{self, Mounted};

/// The most mounts that one reading tells of; a machine with more is a host of
/// containers.
const MAX_MOUNTS: usize = 64;

const MAX_NAME: usize = 200;

/// For all mounts together: a local one answers in microseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// Without a size of their own, or with one that says nothing.
const UNTOLD: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Targets that a thread is still asking for.
type Pending = Arc<Mutex<BTreeSet<String>>>;

/// Blocks for [`PATIENCE`] at most.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge {
    pending: Pending,
}

impl Gauge {
    pub(super) fn read(&self) -> Vec<MountUse> {
        let all = mount_table::read().unwrap_or_default();
        let mut told = told(all);
        let pending = lock(&self.pending).clone();
        told.retain(|mounted| !pending.contains(&mounted.target));
        lock(&self.pending).extend(told.iter().map(|mounted| mounted.target.clone()));
        let (tell, answers) = sync_channel(MAX_MOUNTS);
        let asked = told.iter().map(|mounted| mounted.target.clone()).collect::<Vec<_>>();
        let pending = Arc::clone(&self.pending);
        let thread = std::thread::Builder::new()
            .name("statvfs".into())
            .stack_size(64 * 1024)
            .spawn(move || ask(told, &pending, &tell));
        if thread.is_err() {
            let mut pending = lock(&self.pending);
            asked.iter().for_each(|target| {
                pending.remove(target);
            });
        }
        gather(&answers)
    }
}

fn gather(answers: &Receiver<MountUse>) -> Vec<MountUse> {
    let deadline = Instant::now() + PATIENCE;
    let mut uses = Vec::new();
    loop {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(answer) => uses.push(answer),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return uses,
        }
    }
}

fn ask(mounts: Vec<Mounted>, pending: &Pending, tell: &SyncSender<MountUse>) {
    for mounted in mounts {
        let answer = measure(&mounted);
        lock(pending).remove(&mounted.target);
        if let Some(answer) = answer {
            // There is room for all.
            let _late = tell.try_send(answer);
        }
    }
}

fn measure(mounted: &Mounted) -> Option<MountUse> {
    let stat = rustix::fs::statvfs(mounted.target.as_str()).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(MountUse {
        target: clipped(&mounted.target),
        source: clipped(&mounted.source),
        kind: clipped(&mounted.kind),
        total: bytes(stat.f_blocks),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        available: bytes(stat.f_bavail),
        inodes_total: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// A path may have 4096 bytes, and the answer must fit a frame with all others.
fn clipped(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

/// Those worth telling of: each file system once, local ones first, since a
/// network one may be the last that answers.
fn told(all: Vec<Mounted>) -> Vec<Mounted> {
    let mut seen = BTreeSet::new();
    let mut told: Vec<_> = all
        .into_iter()
        .filter(|mounted| mounted.target == "/" || !UNTOLD.contains(&mounted.kind.as_str()))
        // The initramfs, under whatever came after it.
        .filter(|mounted| mounted.kind != "rootfs")
        .filter(|mounted| seen.insert(mounted.device))
        .collect();
    told.sort_by_key(|mounted| !mounted.source.starts_with('/') && mounted.target != "/");
    told.truncate(MAX_MOUNTS);
    told
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    // Whoever panicked held it for one insertion or removal.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(minor: u32, target: &str, kind: &str, source: &str) -> Mounted {
        Mounted {
            device: (254, minor),
            root: "/".into(),
            target: target.into(),
            kind: kind.into(),
            source: source.into(),
            read_only: false,
        }
    }

    #[test]
    fn each_file_system_once_and_local_ones_first() {
        let all = vec![
            mounted(0, "/", "rootfs", "none"),
            mounted(1, "/", "overlay", "overlay"),
            mounted(2, "/proc", "proc", "proc"),
            mounted(3, "/net", "nfs4", "server:/export"),
            mounted(4, "/data", "ext4", "/dev/vdb"),
            mounted(4, "/again", "ext4", "/dev/vdb"),
            mounted(5, "/run", "tmpfs", "tmpfs"),
        ];
        let targets: Vec<_> = told(all).into_iter().map(|m| m.target).collect();
        assert_eq!(targets, ["/", "/data", "/net"]);
    }

    #[test]
    fn what_hangs_is_left_out_until_it_comes_back() {
        let gauge = Gauge::default();
        let all = gauge.read();
        let Some(one) = all.first().map(|one| one.target.clone()) else { return };
        lock(&gauge.pending).insert(one.clone());
        assert!(gauge.read().iter().all(|other| other.target != one));
        lock(&gauge.pending).remove(&one);
        assert!(gauge.read().iter().any(|other| other.target == one));
    }
}
