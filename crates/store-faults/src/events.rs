use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fs, io};

use crate::vfs;

/// One file from its creation to its removal: a name may come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(crate) usize);

/// What happened to the files, and what the test said in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Created {
        file: FileId,
        name: String,
    },
    Written {
        file: FileId,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncated {
        file: FileId,
        length: usize,
    },
    /// All that was written to the file before is on the disk.
    Synced {
        file: FileId,
    },
    Removed {
        name: String,
    },
    /// All names are on the disk.
    DirectorySynced,
    /// The test's: a write that it counts has begun.
    Begun(usize),
    /// The test's: that write was answered.
    Answered(usize),
}

/// Watches the files of one directory, until it is dropped.
#[derive(Debug, Clone)]
pub struct Tap {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was there before, as good as on the disk.
    before: BTreeMap<String, (FileId, Vec<u8>)>,
    names: BTreeMap<String, FileId>,
    lengths: BTreeMap<FileId, usize>,
    events: Vec<Event>,
    files: usize,
    /// How many more writes may lengthen a file; `None`: all.
    room: Option<usize>,
    refused: usize,
}

static TAPS: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

impl Tap {
    /// From now on all that SQLite does in this directory is written down, with
    /// the files that it has yet to open.
    pub fn on(directory: &Path) -> io::Result<Self> {
        vfs::install()?;
        let mut state = State::default();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let bytes = fs::read(entry.path())?;
                let file = state.name(&name);
                state.lengths.insert(file, bytes.len());
                state.before.insert(name, (file, bytes));
            }
        }
        let directory = directory.canonicalize()?;
        let inner = Arc::new(Inner { directory, state: Mutex::new(state) });
        let mut taps = taps();
        taps.retain(|tap| tap.strong_count() > 0);
        taps.push(Arc::downgrade(&inner));
        Ok(Self { inner })
    }

    pub fn begun(&self, write: usize) {
        self.inner.lock().events.push(Event::Begun(write));
    }

    pub fn answered(&self, write: usize) {
        self.inner.lock().events.push(Event::Answered(write));
    }

    /// All so far.
    pub fn events(&self) -> Vec<Event> {
        self.inner.lock().events.clone()
    }

    /// What lay there when the tap was put on.
    pub fn before(&self) -> BTreeMap<String, (FileId, Vec<u8>)> {
        self.inner.lock().before.clone()
    }

    /// The disk has room for so many more writes that lengthen a file.
    pub fn fill_after(&self, writes: usize) {
        self.inner.lock().room = Some(writes);
    }

    /// There is room again. Says how many writes were refused meanwhile.
    pub fn free(&self) -> usize {
        let mut state = self.inner.lock();
        state.room = None;
        std::mem::take(&mut state.refused)
    }
}

/// Where the events of one open file go.
#[derive(Debug)]
pub(crate) struct FileTap {
    inner: Arc<Inner>,
    file: FileId,
}

pub(crate) fn find(path: &Path) -> Option<(Arc<Inner>, String)> {
    let directory = path.parent()?;
    let name = path.file_name()?.to_str()?.to_owned();
    let of_it = |tap: &Weak<Inner>| tap.upgrade().filter(|tap| tap.directory == directory);
    taps().iter().find_map(of_it).map(|tap| (tap, name))
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn opened(self: Arc<Self>, name: &str, is_new: bool) -> FileTap {
        let mut state = self.lock();
        let known = state.names.get(name).copied().filter(|_| !is_new);
        let file = known.unwrap_or_else(|| {
            let file = state.name(name);
            state.events.push(Event::Created { file, name: name.to_owned() });
            file
        });
        drop(state);
        FileTap { inner: self, file }
    }

    pub(crate) fn removed(&self, name: String, synced: bool) {
        let mut state = self.lock();
        state.names.remove(&name);
        state.events.push(Event::Removed { name });
        if synced {
            state.events.push(Event::DirectorySynced);
        }
    }
}

impl FileTap {
    /// Whether there is room for it.
    pub(crate) fn may_write(&self, at: usize, length: usize) -> bool {
        let mut state = self.inner.lock();
        let now = state.lengths.get(&self.file).copied().unwrap_or(0);
        let Some(room) = state.room.filter(|_| at + length > now) else { return true };
        state.room = Some(room.saturating_sub(1));
        state.refused += usize::from(room == 0);
        room > 0
    }

    pub(crate) fn written(&self, at: usize, bytes: &[u8]) {
        let (file, bytes) = (self.file, bytes.to_vec());
        let mut state = self.inner.lock();
        let length = state.lengths.entry(file).or_default();
        *length = (*length).max(at + bytes.len());
        state.events.push(Event::Written { file, at, bytes });
    }

    pub(crate) fn truncated(&self, length: usize) {
        let mut state = self.inner.lock();
        state.lengths.insert(self.file, length);
        state.events.push(Event::Truncated { file: self.file, length });
    }

    pub(crate) fn synced(&self, directory_too: bool) {
        let mut state = self.inner.lock();
        state.events.push(Event::Synced { file: self.file });
        if directory_too {
            state.events.push(Event::DirectorySynced);
        }
    }
}

impl State {
    fn name(&mut self, name: &str) -> FileId {
        let file = FileId(self.files);
        self.files += 1;
        self.names.insert(name.to_owned(), file);
        file
    }
}

fn taps() -> MutexGuard<'static, Vec<Weak<Inner>>> {
    TAPS.lock().unwrap_or_else(PoisonError::into_inner)
}
