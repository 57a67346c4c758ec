//! The process that writes another one's logs and keeps them bounded, whoever
//! else lives or dies.
//!
//! ```text
//!   VMM, bridge ──pipe──▶ inn log-writer ──appends──▶ NAME
//!                          one per machine │ full: copied over, cut to nothing
//!                                          └────────▶ NAME.1
//! ```
//!
//! It is the agent's own program, started again for each machine before the
//! machine's processes, and it ends by itself when the last of them has closed
//! its pipe: there is nothing to record and nobody to reap. Its agent may end
//! meanwhile. The copy and the cut are done by the only one that writes, so no
//! byte is lost between them; what it has not read yet waits in the pipe.
//!
//! It reads bytes that a hostile guest chose, and looks at none of them. Files
//! and pipes are descriptors that it inherits, so it needs no right to any path.
//!
//! What it writes it marks with the time, in NAME.times, for logs that are shown
//! to people: see [`crate::log_times`].
//!
//! While it lives it holds a lock (fcntl(2), F_SETLK) on the first of its logs,
//! by which another life of the agent learns its pid.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, fcntl_lock, fcntl_setfl, mknodat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::log_times::Times;
use crate::process::{OpenError, Process, ProcessIdentity, SpawnSpec};

/// The first argument of a process that is to be a log writer.
pub const COMMAND: &str = "log-writer";

/// As much as a pipe holds (pipe(7)).
const CHUNK: usize = 64 << 10;

/// Descriptors below are the standard ones, which are nobody's to name.
const FIRST_FREE: RawFd = 3;

/// A log writer to be.
#[derive(Debug)]
pub struct LogWriter {
    spec: SpawnSpec,
    streams: Vec<String>,
    limit: u64,
}

impl LogWriter {
    /// `program` hands its arguments to [`if_asked`]. `says` is where it
    /// writes what goes wrong, the first of its logs; each is kept in twice
    /// `limit` bytes.
    pub fn new(program: &Path, limit: u64, says: &Path) -> io::Result<Self> {
        let spec = SpawnSpec::new(program, open(says, true)?);
        Ok(Self { spec, streams: Vec::new(), limit })
    }

    /// One more log, and the pipe's end for whoever fills it.
    pub fn stream(&mut self, log: &Path) -> io::Result<File> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.add(read, log, None)?;
        Ok(write.into())
    }

    /// The same, and when it was written is marked.
    pub fn timed_stream(&mut self, log: &Path) -> io::Result<File> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.add(read, log, Some(Times::file(log)?))?;
        Ok(write.into())
    }

    /// The same as the latter by a pipe with a name, for a program that opens its logs: one
    /// that `owner` may open, where that is given.
    pub fn named_stream(
        &mut self,
        log: &Path,
        fifo: &Path,
        owner: Option<u32>,
    ) -> io::Result<File> {
        mknodat(CWD, fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        if let Some(uid) = owner {
            std::os::unix::fs::lchown(fifo, Some(uid), Some(uid))?;
        }
        // One end to read from is there before any to write to: fifo(7).
        let read = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(fifo)?;
        let write = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(fifo)?;
        for end in [&read, &write] {
            fcntl_setfl(end, OFlags::empty())?;
        }
        self.add(read.into(), log, Some(Times::file(log)?))?;
        Ok(write)
    }

    fn add(&mut self, read: OwnedFd, log: &Path, times: Option<File>) -> io::Result<()> {
        let files = [
            Some(read),
            Some(open(log, true)?.into()),
            Some(open(&older_of(log), false)?.into()),
            times.map(OwnedFd::from),
        ];
        let numbers = files.into_iter().flatten().map(|file| self.spec.inherit(file).to_string());
        self.streams.push(numbers.collect::<Vec<_>>().join(":"));
        Ok(())
    }

    /// It ends when all pipes' ends have been closed, ours among them.
    pub fn spec(self) -> SpawnSpec {
        let limit = self.limit.to_string();
        self.spec.args([COMMAND.to_owned(), limit]).args(self.streams)
    }
}

/// Not through a link: the directory may be the logged process's own.
fn open(path: &Path, append: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    if append {
        options.append(true)
    } else {
        options.write(true)
    };
    options.open(path)
}

fn older_of(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The log writer that an earlier life has started, by the first of its logs.
pub fn find(says: &Path) -> io::Result<Option<Process>> {
    let log = match open_existing(says) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        log => log?,
    };
    let holder = || -> io::Result<Option<u32>> {
        let held = fcntl_getlk(&log, &Flock::from(FlockType::WriteLock))?;
        let pid = held.and_then(|lock| lock.pid);
        Ok(pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()))
    };
    let Some(pid) = holder()? else { return Ok(None) };
    let Ok(identity) = ProcessIdentity::of_pid(pid) else { return Ok(None) };
    match Process::open(&identity) {
        // Asked again, now that the pid cannot become another's.
        Ok(process) if holder()? == Some(pid) && process.is_alive() => Ok(Some(process)),
        Ok(_) | Err(OpenError::Gone { .. }) => Ok(None),
        Err(OpenError::Io { source, .. }) => Err(source),
    }
}

fn open_existing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Writes logs to their end, if that is what this process was started for.
/// Called before anything else is set up: each machine has such a process.
pub fn if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    Some(match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{COMMAND}: {error}");
            ExitCode::from(2)
        }
    })
}

fn run(args: impl Iterator<Item = OsString>) -> io::Result<()> {
    let strange = || {
        let why = "an agent starts this for the logs of its machines; nobody else has a use for it";
        io::Error::new(ErrorKind::InvalidInput, why)
    };
    let mut args = args.map(|arg| arg.into_string().map_err(|_| strange()));
    let limit = args.next().ok_or_else(strange)??.parse().map_err(|_| strange())?;
    let (mut streams, mut named) = (Vec::new(), Vec::new());
    for arg in args {
        let numbers = arg?.split(':').map(str::parse).collect::<Result<Vec<RawFd>, _>>();
        let numbers = numbers.map_err(|_| strange())?;
        let (three, times) = match numbers.as_slice() {
            [three @ .., times] if three.len() == 3 => (three, Some(*times)),
            three => (three, None),
        };
        let Ok([input, log, older]) = <[RawFd; 3]>::try_from(three) else {
            return Err(strange());
        };
        let mut open = |number| inherited(number, &mut named);
        let (input, log, older) = (open(input)?, open(log)?, open(older)?);
        let times = times.map(open).transpose()?.map(Times::new).transpose()?;
        streams.push(Stream { input, log: Bounded::new([log, older], times, limit)? });
    }
    let first = streams.first().ok_or_else(strange)?;
    fcntl_lock(&first.log.current, FlockOperation::NonBlockingLockExclusive)?;
    keep(streams)
}

#[allow(unsafe_code)]
fn inherited(number: RawFd, named: &mut Vec<RawFd>) -> io::Result<File> {
    let is_open = || Path::new(&format!("/proc/self/fd/{number}")).exists();
    if number < FIRST_FREE || named.contains(&number) || !is_open() {
        return Err(Errno::BADF.into());
    }
    named.push(number);
    // SAFETY: it is open, and nobody else in this process owns it: the process
    // was started with it and does nothing but this, and `named` lets no number
    // be taken twice.
    Ok(unsafe { File::from_raw_fd(number) })
}

struct Stream {
    input: File,
    log: Bounded,
}

/// Until everybody who writes has gone.
fn keep(mut streams: Vec<Stream>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while !streams.is_empty() {
        let ready: Vec<bool> = {
            let inputs = streams.iter().map(|stream| &stream.input);
            let mut fds: Vec<PollFd<'_>> =
                inputs.map(|input| PollFd::new(input, PollFlags::IN)).collect();
            match poll(&mut fds, None) {
                Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let mut ready = ready.into_iter();
        streams.retain_mut(|stream| {
            !ready.next().unwrap_or_default()
                || match stream.input.read(&mut chunk) {
                    Ok(0) => false,
                    Ok(read) => {
                        stream.log.append(&chunk[..read]);
                        true
                    }
                    Err(error) => error.kind() == ErrorKind::Interrupted,
                }
        });
    }
    Ok(())
}

/// A log in two parts, neither longer than the limit.
struct Bounded {
    current: File,
    older: File,
    times: Option<Times>,
    length: u64,
    limit: u64,
}

impl Bounded {
    fn new([current, older]: [File; 2], times: Option<Times>, limit: u64) -> io::Result<Self> {
        let length = current.metadata()?.len();
        Ok(Self { current, older, times, length, limit })
    }

    /// What can't be written is lost: whoever fills the log must not wait for
    /// a disk to have room.
    fn append(&mut self, bytes: &[u8]) {
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX).clamp(1, CHUNK);
        for part in bytes.chunks(most) {
            if self.length + part.len() as u64 > self.limit {
                self.turn();
            }
            if let Some(times) = &mut self.times {
                times.mark(self.length, SystemTime::now());
            }
            if let Err(error) = self.write(part)
                && matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            {
                // The newest are worth more than the oldest.
                let _ = self.older.set_len(0);
                let _ = self.write(part);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.current.write_all(bytes);
        // Of a part that did not fit some may be there.
        self.length = match written {
            Ok(()) => self.length + bytes.len() as u64,
            Err(_) => self.current.metadata().map_or(self.length, |log| log.len()),
        };
        written
    }

    /// The current part becomes the older one. Interrupted at any point, the
    /// newest bytes are still in one of the two.
    fn turn(&mut self) {
        // Longer than its limit is a log of a time with another one.
        let dropped = self.length.saturating_sub(self.limit);
        let copied = self.copy_over(dropped);
        if let Err(error) = &copied {
            // There is no room to keep it, and a log that stays makes none.
            let _ = writeln!(io::stderr(), "{COMMAND}: the older half is lost: {error}");
            let _ = self.older.set_len(0);
        }
        if self.current.set_len(0).is_ok() {
            self.length = 0;
        }
        match &mut self.times {
            Some(times) if copied.is_ok() => times.turn(dropped),
            Some(times) => times.forget(true),
            None => {}
        }
    }

    fn copy_over(&mut self, dropped: u64) -> io::Result<()> {
        self.older.set_len(0)?;
        self.older.seek(SeekFrom::Start(0))?;
        self.current.seek(SeekFrom::Start(dropped))?;
        io::copy(&mut self.current, &mut self.older).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_times;
    use std::fs;

    fn bounded(dir: &Path, limit: u64) -> Bounded {
        let path = dir.join("x.log");
        let parts = [open(&path, true).unwrap(), open(&older_of(&path), false).unwrap()];
        Bounded::new(parts, Some(Times::open(&path).unwrap()), limit).unwrap()
    }

    fn parts(dir: &Path) -> [String; 2] {
        ["x.log.1", "x.log"].map(|name| fs::read_to_string(dir.join(name)).unwrap())
    }

    #[test]
    fn a_log_has_two_parts_and_neither_exceeds_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = bounded(dir.path(), 10);
        log.append(b"0123456789");
        assert_eq!(parts(dir.path()), ["", "0123456789"], "just full");
        log.append(b"abc");
        assert_eq!(parts(dir.path()), ["0123456789", "abc"]);
        log.append(b"defghijklmnopqrstuvwxyz");
        assert_eq!(parts(dir.path()), ["nopqrstuvw", "xyz"]);
        // Goes on where another left off, with a lower limit.
        bounded(dir.path(), 2).append(b"!");
        assert_eq!(parts(dir.path()), ["yz", "!"]);
    }

    #[test]
    fn nothing_is_lost_and_the_end_of_all_writers_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (other, unused) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(unused);
        fs::create_dir(dir.path().join("other")).unwrap();
        let streams = vec![
            Stream { input: read.into(), log: bounded(dir.path(), 1 << 20) },
            Stream { input: other.into(), log: bounded(&dir.path().join("other"), 1 << 20) },
        ];
        let lines: String = (0..250_000).map(|n| format!("{n}\n")).collect();
        std::thread::scope(|scope| {
            let keeper = scope.spawn(|| keep(streams));
            File::from(write).write_all(lines.as_bytes()).unwrap();
            keeper.join().unwrap().unwrap();
        });
        let kept = parts(dir.path()).concat();
        assert!(lines.ends_with(&kept), "the newest, and no hole");
        assert!(kept.len() > 1 << 20 && kept.len() <= 2 << 20, "{}", kept.len());
    }

    #[test]
    fn what_is_written_is_marked_over_turns() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = bounded(dir.path(), 10);
        let before = SystemTime::now();
        for text in ["0123456789", "abc", "0123456789", "d"] {
            log.append(text.as_bytes());
        }
        let path = dir.path().join("x.log");
        let marks = log_times::read(&path).unwrap();
        let extents = [older_of(&path), path].map(|part| {
            let part = fs::metadata(part).unwrap();
            log_times::Extent { length: part.len(), modified: part.modified().unwrap() }
        });
        let shown = |since| log_times::begin(&marks, extents, since, SystemTime::now());
        assert_eq!(shown(before), (log_times::Part::Older, 0));
        let later = SystemTime::now() + log_times::PERIOD;
        assert_eq!(shown(later), (log_times::Part::Current, 1), "nothing since");
    }

    #[test]
    fn only_an_agent_can_use_it() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from)).unwrap_err().kind();
        for args in [&[][..], &["1"], &["x", "3:4:5"], &["1", "3:4"], &["1", "3:4:x"]] {
            assert_eq!(run(args), ErrorKind::InvalidInput, "{args:?}");
        }
        // Never the standard ones, nor what is not open.
        let error = super::run(["1", "0:1:2"].iter().map(OsString::from)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }
}
