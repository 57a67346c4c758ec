use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// For a child of a dead agent to become another program: a fork has its parent's
/// descriptors until then (flock(2)), and what it does before may wait for the
/// kernel, as its move to control groups does.
const ORPHANED: Duration = Duration::from_secs(10);

const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Held by the one agent of a data directory. The kernel lets go of it with
/// the process, so none is ever stale; the file itself stays.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
}

impl LockFile {
    /// Takes the lock or says who has it. Waits for no agent that lives.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let step = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(step)?;
        let begin = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {
                    let holder = Holder::read(path, &mut file);
                    if !holder.has_died() || begin.elapsed() > ORPHANED {
                        return Err(LockError::Held(holder));
                    }
                    // Nothing tells of a lock that is free.
                    let _ = poll(&mut [], Some(&GLANCE));
                }
                Err(errno) => return Err(step(errno.into())),
            }
        }
        // For the other one's message only; the lock is what counts.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(step)?;
        Ok(Self { _file: file })
    }
}

/// Who keeps us out, as far as its lock file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub directory: PathBuf,
    pub pid: Option<u32>,
}

impl Holder {
    fn read(path: &Path, file: &mut File) -> Self {
        let mut text = String::new();
        let pid = file
            .rewind()
            .and_then(|()| file.take(32).read_to_string(&mut text))
            .ok()
            .and_then(|_| text.trim().parse().ok());
        Self { directory: path.parent().unwrap_or(Path::new("/")).to_owned(), pid }
    }

    /// Whether the one that took it is gone, also where nobody has waited for it
    /// yet (proc_pid_stat(5)).
    fn has_died(&self) -> bool {
        let Some(pid) = self.pid else { return false };
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => {
                // Its name, which comes before, may have anything in it.
                let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
                state.is_some_and(|state| state.starts_with(['Z', 'X']))
            }
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "another agent (pid {pid})")?,
            None => write!(f, "another agent")?,
        }
        write!(f, " uses this data directory: {}", self.directory.display())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{0}")]
    Held(Holder),
    #[error("cannot lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let first = LockFile::acquire(&path).unwrap();
        assert_eq!(
            LockFile::acquire(&path).unwrap_err().to_string(),
            format!(
                "another agent (pid {}) uses this data directory: {}",
                std::process::id(),
                dir.path().display()
            )
        );
        drop(first);
        assert!(LockFile::acquire(&path).is_ok());
    }

    #[test]
    fn what_a_dead_agents_child_still_has_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let dead = LockFile::acquire(&path).unwrap();
        // As a fork has it.
        let child = dead._file.try_clone().unwrap();
        drop(dead);
        // Above any pid (PID_MAX_LIMIT).
        std::fs::write(&path, "4194305\n").unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || LockFile::acquire(&path)
        });
        assert!(!waiting.is_finished());
        drop(child);
        let taken = waiting.join().unwrap().unwrap();
        let pid = std::fs::read_to_string(&path).unwrap();
        assert_eq!(pid, format!("{}\n", std::process::id()));
        drop(taken);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = LockFile::acquire(Path::new("/nonexistent/agent.lock")).unwrap_err();
        assert_eq!(error.to_string(), "cannot lock /nonexistent/agent.lock");
    }
}
