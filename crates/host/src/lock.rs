use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held by the one agent of a data directory. The kernel lets go of it with
/// the process, so none is ever stale; the file itself stays.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
}

impl LockFile {
    /// Takes the lock or says who has it. Never waits.
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
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held(Holder::read(path, &mut file))),
            Err(errno) => return Err(step(errno.into())),
        }
        // For the other one's message only; the lock is what counts.
        file.set_len(0)
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
    fn a_directory_that_is_not_there_is_named() {
        let error = LockFile::acquire(Path::new("/nonexistent/agent.lock")).unwrap_err();
        assert_eq!(error.to_string(), "cannot lock /nonexistent/agent.lock");
    }
}
