//! The marks of a log, in the file beside it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{MOST, Mark, Part, SIZE, decode, encode, thinned, turned};

/// The most that is read of a file: both parts' marks, and as many again in
/// case that somebody else has written it.
const LONGEST: u64 = 4 * (MOST * SIZE) as u64;

/// Where the marks of the log at `log` are.
pub fn path_of(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".times");
    name.into()
}

/// What is marked of the log at `log`: nothing, where there are no marks.
pub fn read(log: &Path) -> io::Result<Vec<Mark>> {
    match open(log, OpenOptions::new().read(true)) {
        Ok(file) => all_of(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Neither through a link nor from a pipe: the directory may be a VMM's own.
fn open(log: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let options = options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path_of(log))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

fn all_of(mut file: &File) -> io::Result<Vec<Mark>> {
    io::Seek::rewind(&mut file)?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(decode(&bytes))
}

/// Makes the marks of one log. It is the log's writer who has it, and what
/// cannot be marked is written all the same.
#[derive(Debug)]
pub struct Times {
    file: File,
    /// How many are in the file; of them, those of the current part.
    count: usize,
    current: usize,
    last: Option<Mark>,
    /// One that found no room: the next one begins where it did.
    missing: Option<Mark>,
}

impl Times {
    pub fn open(log: &Path) -> io::Result<Self> {
        Self::new(Self::file(log)?)
    }

    /// For a writer that is another process.
    pub fn file(log: &Path) -> io::Result<File> {
        open(log, OpenOptions::new().read(true).write(true).create(true))
    }

    pub fn new(file: File) -> io::Result<Self> {
        let mut times = Self { file, count: 0, current: 0, last: None, missing: None };
        let marks = all_of(&times.file)?;
        times.note(&marks);
        Ok(times)
    }

    /// Whether what is written now wants a mark. Costs nothing.
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.missing.is_some() || !self.last.is_some_and(|last| last.holds(now))
    }

    /// Before something is written at `offset` of the current part.
    pub fn mark(&mut self, offset: u64, now: SystemTime) {
        if !self.is_due(now) {
            return;
        }
        let mut mark = Mark::new(offset, now);
        if let Some(missing) = self.missing {
            mark.offset = missing.offset;
            mark.from = mark.from.min(missing.from);
        }
        match self.append(mark, now) {
            Ok(()) => (self.missing, self.last) = (None, Some(mark)),
            Err(_) => self.missing = Some(mark),
        }
    }

    /// After the current part, but for its first `dropped` bytes, has become
    /// the older one.
    pub fn turn(&mut self, dropped: u64) {
        self.change(|marks| turned(marks, dropped));
    }

    /// After the current part was lost, with the older one or without.
    pub fn forget(&mut self, older_too: bool) {
        self.change(|marks| {
            let stays = |mark: &&Mark| mark.part == Part::Older && !older_too;
            marks.iter().filter(stays).copied().collect()
        });
    }

    fn append(&mut self, mark: Mark, now: SystemTime) -> io::Result<()> {
        if self.current >= MOST {
            self.rewrite(|marks| thinned(marks, now))?;
        }
        self.file.write_all_at(&mark.encode(), (self.count * SIZE) as u64)?;
        self.count += 1;
        self.current += 1;
        Ok(())
    }

    fn change(&mut self, change: impl FnOnce(&[Mark]) -> Vec<Mark>) {
        if self.rewrite(change).is_err() {
            // None are better than wrong ones.
            let _ = self.file.set_len(0);
            self.note(&[]);
        }
        self.missing = None;
    }

    fn rewrite(&mut self, change: impl FnOnce(&[Mark]) -> Vec<Mark>) -> io::Result<()> {
        let marks = change(&all_of(&self.file)?);
        let bytes = encode(&marks);
        self.file.write_all_at(&bytes, 0)?;
        self.file.set_len(bytes.len() as u64)?;
        self.note(&marks);
        Ok(())
    }

    fn note(&mut self, marks: &[Mark]) {
        self.count = marks.len();
        self.current = marks.iter().filter(|mark| mark.part == Part::Current).count();
        // It may have been merged, and hold for longer than it should.
        self.last = None;
    }
}
