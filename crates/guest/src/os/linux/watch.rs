//! What changes in a directory, by inotify(7).
//!
//! ```text
//!  open ─▶ a watch on each directory ─▶ changes ─▶ take: a batch, in order
//!                ▲                        │ a directory appeared
//!                └────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_guest_proto::wire::{FileChange, FileChangeKind, FileChanges};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::raw;

/// Directories of one watch: each takes about 1 KiB of the kernel's memory.
pub(crate) const MAX_DIRS: usize = 8192;

/// Changes taken at once; more wait in the kernel, which keeps 16384
/// (/proc/sys/fs/inotify/max_queued_events).
const MAX_BATCH: usize = 4096;

/// How long the second half of a rename is waited for. The kernel queues both
/// in one breath (fsnotify_move()), and a reader may still run in between.
const OTHER_HALF: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// In bytes: some 200 events with names of usual length.
const READ: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct Watch {
    queue: Arc<OwnedFd>,
    root: PathBuf,
    root_number: i32,
    recursive: bool,
    /// Of each watch.
    paths: BTreeMap<i32, PathBuf>,
}

/// Tells when there is something to take.
#[derive(Debug)]
pub(crate) struct Bell {
    queue: AsyncFd<OwnedFd>,
}

/// What was taken.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) changes: FileChanges,
    /// There is nothing more to come, for this reason.
    pub(crate) end: Option<WatchEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchEnd {
    /// What was watched is not there any more.
    Gone,
    /// [`MAX_DIRS`].
    TooMany,
}

/// Why a directory is not watched.
#[derive(Debug)]
pub(crate) enum WatchError {
    TooMany,
    /// The kernel's own limit for this user.
    NoWatches,
    Io(io::Error),
}

impl From<Errno> for WatchError {
    fn from(error: Errno) -> Self {
        match error {
            // inotify_add_watch(2) says so of fs.inotify.max_user_watches.
            Errno::NOSPC | Errno::MFILE => Self::NoWatches,
            error => Self::Io(error.into()),
        }
    }
}

impl Bell {
    /// Waits until there is something to take. Cancel safe.
    pub(crate) async fn rings(&self) -> io::Result<()> {
        // Stays set: `take` may leave something.
        self.queue.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// All was taken that there was.
    pub(crate) async fn heard(&self) {
        if let Ok(mut ready) = self.queue.readable().await {
            ready.clear_ready();
        }
    }
}

impl Watch {
    /// May take as long as it takes to walk the whole tree.
    pub(crate) fn open(root: &Path, recursive: bool) -> Result<Self, WatchError> {
        let queue = Arc::new(init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        let root_number = add_watch(&*queue, root, interest())?;
        let paths = BTreeMap::from([(root_number, root.to_owned())]);
        let mut watch = Self { queue, root: root.to_owned(), root_number, recursive, paths };
        if recursive {
            watch.add_below(root, &mut |_, _| {})?;
        }
        Ok(watch)
    }

    /// To wait on. Inside the runtime.
    pub(crate) fn bell(&self) -> io::Result<Bell> {
        Ok(Bell { queue: raw::watch(self.queue.try_clone()?, Interest::READABLE)? })
    }

    /// Watches all directories below `dir` and shows everything there is.
    fn add_below(
        &mut self,
        dir: &Path,
        found: &mut dyn FnMut(&Path, bool),
    ) -> Result<(), WatchError> {
        // One that vanished meanwhile, or may not be read, has nothing to tell.
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
        for entry in entries.flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            found(&path, is_dir);
            if is_dir && self.add(&path)? {
                self.add_below(&path, found)?;
            }
        }
        Ok(())
    }

    /// False where there is nothing to watch any more.
    fn add(&mut self, dir: &Path) -> Result<bool, WatchError> {
        if self.paths.len() >= MAX_DIRS {
            return Err(WatchError::TooMany);
        }
        let flags = interest() | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        match add_watch(&*self.queue, dir, flags) {
            Ok(number) => {
                self.paths.insert(number, dir.to_owned());
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What has happened so far. The second value says whether that was all.
    pub(crate) fn take(&mut self) -> (Batch, bool) {
        let mut taken = Taken::default();
        let mut buffer = [MaybeUninit::<u8>::uninit(); READ];
        let queue = Arc::clone(&self.queue);
        let mut reader = Reader::new(&*queue, &mut buffer);
        let mut all = false;
        // What the reader holds goes with it.
        while taken.end.is_none()
            && (taken.changes.len() < MAX_BATCH
                || !reader.is_buffer_empty()
                || !taken.moving.is_empty())
        {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes());
                    let name = name.map(|name| Path::new(std::ffi::OsStr::from_bytes(name)));
                    let seen = Seen { mask: event.events(), cookie: event.cookie(), name };
                    self.see(event.wd(), &seen, &mut taken);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !taken.moving.is_empty() && more_comes(&queue) => {}
                Err(Errno::AGAIN) => {
                    all = true;
                    break;
                }
                Err(_) => taken.end = Some(WatchEnd::Gone),
            }
        }
        // What moved to a place that is not watched.
        for half in std::mem::take(&mut taken.moving).into_values().filter(|half| half.is_dir) {
            self.forget_below(&half.from);
        }
        (taken.into_batch(), all)
    }

    fn see(&mut self, number: i32, seen: &Seen<'_>, taken: &mut Taken) {
        let has = |flag| seen.mask.contains(flag);
        if has(ReadFlags::QUEUE_OVERFLOW) {
            taken.overflow = true;
            // Directories may be among what was lost.
            if self.recursive {
                let added = self.add_below(&self.root.clone(), &mut |_, _| {});
                taken.limit(added);
            }
            return;
        }
        if number == self.root_number {
            let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
            if seen.mask.intersects(gone | ReadFlags::IGNORED) {
                taken.push(FileChangeKind::Removed, &self.root, seen.name.is_none());
                taken.end = Some(WatchEnd::Gone);
                return;
            }
        } else if has(ReadFlags::IGNORED) {
            self.paths.remove(&number);
            return;
        }
        let Some(dir) = self.paths.get(&number) else { return };
        let path = match seen.name {
            Some(name) => dir.join(name),
            // Of a directory below, its parent tells as well.
            None if number == self.root_number => dir.clone(),
            None => return,
        };
        let is_dir = has(ReadFlags::ISDIR);
        if has(ReadFlags::MOVED_FROM) {
            // Until its other half shows up, it is gone.
            let told = taken.push(FileChangeKind::Removed, &path, is_dir);
            taken.moving.insert(seen.cookie, Half { from: path, is_dir, told });
        } else if has(ReadFlags::MOVED_TO)
            && let Some(half) = taken.moving.remove(&seen.cookie)
        {
            if is_dir {
                self.move_below(&half.from, &path);
            }
            taken.rename(&half, &path);
        } else if has(ReadFlags::CREATE) || has(ReadFlags::MOVED_TO) {
            taken.push(FileChangeKind::Created, &path, is_dir);
            if is_dir && self.recursive {
                // What was made in it before the watch held tells nobody.
                let added = self.add(&path).and_then(|there| match there {
                    true => self.add_below(&path, &mut |path, is_dir| {
                        taken.push(FileChangeKind::Created, path, is_dir);
                    }),
                    false => Ok(()),
                });
                taken.limit(added);
            }
        } else if has(ReadFlags::DELETE) {
            taken.push(FileChangeKind::Removed, &path, is_dir);
        } else if has(ReadFlags::MODIFY) {
            taken.push(FileChangeKind::Modified, &path, is_dir);
        } else if has(ReadFlags::ATTRIB) {
            taken.push(FileChangeKind::Attributes, &path, is_dir);
        }
    }

    /// A directory has another name, and with it all below.
    fn move_below(&mut self, from: &Path, to: &Path) {
        for path in self.paths.values_mut() {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }

    fn forget_below(&mut self, dir: &Path) {
        let queue = &self.queue;
        self.paths.retain(|number, path| {
            let keep = !path.starts_with(dir);
            if !keep {
                let _gone_already = rustix::fs::inotify::remove_watch(&**queue, *number);
            }
            keep
        });
    }
}

/// Waits for it, a moment.
fn more_comes(queue: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(queue, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&OTHER_HALF)), Ok(ready) if ready > 0)
}

fn interest() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
}

struct Seen<'a> {
    mask: ReadFlags,
    cookie: u32,
    name: Option<&'a Path>,
}

/// A batch in the making.
#[derive(Debug, Default)]
struct Taken {
    /// `None`: a removal that was the first half of a rename.
    changes: Vec<Option<FileChange>>,
    /// What befell each path last: the same twice in a row is said once.
    last: BTreeMap<String, FileChangeKind>,
    /// First halves of renames, by their cookie.
    moving: BTreeMap<u32, Half>,
    overflow: bool,
    end: Option<WatchEnd>,
}

#[derive(Debug)]
struct Half {
    from: PathBuf,
    is_dir: bool,
    /// Which of the changes says that it is gone.
    told: Option<usize>,
}

impl Taken {
    /// Which change it is now, unless the same was said of the path last.
    fn push(&mut self, kind: FileChangeKind, path: &Path, directory: bool) -> Option<usize> {
        let path = path.to_string_lossy().into_owned();
        if self.last.insert(path.clone(), kind) == Some(kind) {
            return None;
        }
        let from = String::new();
        self.changes.push(Some(FileChange { kind: kind.into(), path, from, directory }));
        Some(self.changes.len() - 1)
    }

    fn rename(&mut self, half: &Half, to: &Path) {
        if let Some(told) = half.told {
            self.changes[told] = None;
        }
        let from = half.from.to_string_lossy().into_owned();
        let path = to.to_string_lossy().into_owned();
        self.last.remove(&from);
        self.last.insert(path.clone(), FileChangeKind::Renamed);
        let kind = FileChangeKind::Renamed.into();
        self.changes.push(Some(FileChange { kind, path, from, directory: half.is_dir }));
    }

    fn limit(&mut self, added: Result<(), WatchError>) {
        if added.is_err() {
            self.overflow = true;
            self.end = Some(WatchEnd::TooMany);
        }
    }

    fn into_batch(self) -> Batch {
        let changes = self.changes.into_iter().flatten().collect();
        let changes = FileChanges { changes, overflow: self.overflow };
        Batch { changes, end: self.end }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
