//! File systems frozen for a snapshot from outside, and never for good.
//!
//! ```text
//!  thawed ──freeze──▶ freezing ──all done──▶ frozen ──thaw──▶ thawed
//!                        │ one refuses         │ dead man: time is up
//!                        └────────▶ thawed ◀───┘ (expired)
//! ```
//!
//! Owned by two threads. One freezes, and may hang in it: a file system that
//! waits for another one that is frozen already does so. The other, the dead
//! man, was started before the first freeze; it holds all descriptors and
//! thaws when the time is up, whatever has become of the host, of the agent's
//! own loop and of the first thread. Between freeze and thaw neither writes,
//! opens or logs anything: that would wait for the thaw.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inn_guest_proto::wire::{FailureKind, Frozen};
use rustix::fs::{Mode, OFlags};

use super::mount_table::{self, Mounted};
use super::{ioctls, lifecycle};
use crate::refusal::{OrRefuse, Refusal};

/// The longest that anybody may stop all writing for.
const MAX_DEAD_MAN: Duration = Duration::from_secs(600);

/// On a tmpfs: what an agent that died while it held a freeze left to the one
/// after it.
const MARK: &str = "/run/inn-guest.frozen";

/// tmpfs (linux/magic.h).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// The freeze that is, or the last one that was.
#[derive(Debug, Default)]
pub(crate) struct Freezer {
    current: Mutex<Option<Arc<Frost>>>,
    /// For whoever must not wait.
    frozen: Arc<AtomicBool>,
}

/// One freeze.
#[derive(Debug)]
struct Frost {
    /// In the order of freezing.
    targets: Vec<String>,
    state: Mutex<State>,
    changed: Condvar,
    frozen: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    /// The root of each target; none once it is over, for an open descriptor
    /// keeps a file system from being unmounted.
    dirs: Arc<[OwnedFd]>,
    /// So many of them are frozen.
    count: usize,
    over: Option<Over>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Thawed,
    Expired,
    Failed,
}

impl Freezer {
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Freezes all that is named, or all that can be frozen. Blocks.
    pub(crate) fn freeze(&self, dead_man: Duration, names: &[String]) -> Result<Frozen, Refusal> {
        if dead_man.is_zero() || dead_man > MAX_DEAD_MAN {
            let longest = MAX_DEAD_MAN.as_secs();
            return Err(Refusal::invalid(format!(
                "freeze file systems for other than 1 ms to {longest} s"
            )));
        }
        let frost = {
            let mut current = lock(&self.current);
            if let Some(frost) = &*current
                && lock(&frost.state).over.is_none()
            {
                let held = frost.targets.join(" ");
                let what = format!("freeze file systems: those at {held} are frozen already");
                return Err(Refusal::new(FailureKind::AlreadyExists, what));
            }
            let (targets, dirs) = choose(names)?.into_iter().unzip();
            let frost = Arc::new(Frost {
                targets,
                state: Mutex::new(State::new(dirs)),
                changed: Condvar::new(),
                frozen: Arc::clone(&self.frozen),
            });
            *current = Some(Arc::clone(&frost));
            frost
        };
        mark();
        // Before there is a dead man, who clears it.
        self.frozen.store(true, Ordering::Release);
        // Before the first freeze: a thread's start may need memory.
        let dead = Arc::clone(&frost);
        let deadline = Instant::now() + dead_man;
        let started = std::thread::Builder::new()
            .name("dead-man".into())
            .stack_size(64 * 1024)
            .spawn(move || dead.wait_until(deadline));
        if let Err(error) = started {
            frost.thaw(Over::Failed);
            return Err(Refusal::io("start the timer that thaws", &error));
        }
        frost.freeze_all(|dir| ioctls::freeze(dir.as_fd()))
    }

    /// Thaws what is frozen; nothing frozen is no error. Blocks.
    pub(crate) fn thaw(&self) -> Frozen {
        let Some(frost) = lock(&self.current).clone() else { return Frozen::default() };
        match frost.thaw(Over::Thawed) {
            // It was our doing.
            None => Frozen { mounts: frost.targets.clone(), expired: false },
            Some(Over::Expired) => Frozen { mounts: frost.targets.clone(), expired: true },
            Some(Over::Thawed | Over::Failed) => Frozen::default(),
        }
    }
}

impl State {
    fn new(dirs: Vec<OwnedFd>) -> Self {
        Self { dirs: dirs.into(), ..Self::default() }
    }
}

impl Frost {
    fn freeze_all(&self, freeze: impl Fn(&OwnedFd) -> io::Result<()>) -> Result<Frozen, Refusal> {
        let dirs = {
            let state = lock(&self.state);
            if state.over.is_some() {
                let what = "freeze anything in the time that it was given";
                return Err(Refusal::new(FailureKind::Failed, what));
            }
            Arc::clone(&state.dirs)
        };
        for (at, (dir, target)) in dirs.iter().zip(&self.targets).enumerate() {
            let result = freeze(dir);
            let mut state = lock(&self.state);
            if state.over.is_some() {
                // Time was up while this one waited for its writers.
                if result.is_ok() {
                    let _not_frozen = ioctls::thaw(dir.as_fd());
                }
                drop(state);
                let what = format!("freeze {target} in the time that it was given");
                return Err(Refusal::new(FailureKind::Failed, what));
            }
            match result {
                Ok(()) => state.count = at + 1,
                Err(error) => {
                    drop(state);
                    self.thaw(Over::Failed);
                    let why = match error.raw_os_error() {
                        Some(libc::EBUSY) => ", which somebody else has frozen",
                        Some(libc::EOPNOTSUPP) => ", whose file system cannot be frozen",
                        _ => "",
                    };
                    let what = format!("freeze the file system at {target}{why}");
                    return Err(Refusal::io(what, &error));
                }
            }
        }
        Ok(Frozen { mounts: self.targets.clone(), expired: false })
    }

    /// The dead man: waits, without taking memory, until it is over by itself
    /// or by him.
    fn wait_until(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        while state.over.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                self.thaw(Over::Expired);
                return;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How it was over already, if it was.
    fn thaw(&self, over: Over) -> Option<Over> {
        let mut state = lock(&self.state);
        if state.over.is_some() {
            return state.over;
        }
        // What was frozen last lies on top.
        for dir in state.dirs[..state.count].iter().rev() {
            // EINVAL: somebody else was there first.
            let _thawed_already = ioctls::thaw(dir.as_fd());
        }
        state.dirs = Arc::default();
        state.over = Some(over);
        drop(state);
        self.changed.notify_all();
        self.frozen.store(false, Ordering::Release);
        unmark();
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process (profile.guest), and a test has failed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places in the order of freezing: what was mounted last, first.
fn choose(names: &[String]) -> Result<Vec<(String, OwnedFd)>, Refusal> {
    let all = mount_table::read().or_refuse(|| "read the list of mounts".into())?;
    let mut places = Vec::new();
    for target in targets(&all, names, lifecycle::writable_disk().is_some())? {
        let hidden = lifecycle::writable_disk().filter(|_| target == "/");
        let dir = match hidden {
            // Under the overlay, which itself has nothing to freeze.
            Some(disk) => disk.try_clone(),
            None => rustix::fs::open(
                target.as_str(),
                OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(Into::into),
        };
        let dir = dir.or_refuse(|| format!("open {target}"))?;
        places.push((target, dir));
    }
    Ok(places)
}

/// Which of the mounts, each file system once. What is named must be one of
/// them; unnamed, those that cannot be frozen are passed over.
fn targets(
    all: &[Mounted],
    names: &[String],
    root_is_overlay: bool,
) -> Result<Vec<String>, Refusal> {
    let can = |mounted: &Mounted| {
        mount_table::is_block_backed(mounted)
            && !mounted.read_only
            && !CANNOT.contains(&mounted.kind.as_str())
            || root_is_overlay && mounted.target == "/" && mounted.kind == "overlay"
    };
    for name in names {
        let seen = all.iter().rev().find(|mounted| mounted.target == *name);
        match seen {
            None => {
                return Err(Refusal::not_found(format!(
                    "freeze {name}, on which nothing is mounted"
                )));
            }
            Some(mounted) if !can(mounted) => {
                return Err(Refusal::invalid(format!(
                    "freeze {name}, which is no file system that can be written on a disk"
                )));
            }
            Some(_) => {}
        }
    }
    let mut devices = Vec::new();
    let mut chosen = Vec::new();
    // A bind of the same file system comes after the mount that it is of, so
    // the first name that each has is the one to tell.
    for mounted in all {
        let wanted = names.is_empty() || names.contains(&mounted.target);
        if wanted && can(mounted) && !devices.contains(&mounted.device) {
            devices.push(mounted.device);
            chosen.push(mounted.target.clone());
        }
    }
    if chosen.is_empty() {
        return Err(Refusal::invalid("freeze anything: it has no file system to write to"));
    }
    chosen.reverse();
    Ok(chosen)
}

/// On block devices, and without a freeze in Linux.
const CANNOT: [&str; 8] =
    ["vfat", "msdos", "exfat", "iso9660", "udf", "squashfs", "erofs", "fuseblk"];

/// Only where it is no file of what is frozen.
fn mark() {
    if rustix::fs::statfs("/run").is_ok_and(|stat| stat.f_type == TMPFS) {
        let _only_a_hint = std::fs::write(MARK, "");
    }
}

fn unmark() {
    let _there_is_none = std::fs::remove_file(MARK);
}

/// At the start of a service: thaws what its predecessor, which died, froze.
/// True where there was such.
pub(crate) fn recover() -> bool {
    if !std::fs::exists(MARK).unwrap_or(false) {
        return false;
    }
    for (_, dir) in choose(&[]).unwrap_or_default() {
        // Those that are not frozen say so.
        let _not_frozen = ioctls::thaw(dir.as_fd());
    }
    unmark();
    true
}

#[cfg(test)]
#[path = "freeze_tests.rs"]
mod tests;
