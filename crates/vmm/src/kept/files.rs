//! What a machine with a keeper has in its run directory.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use inn_host::socket;

use super::Kind;
use crate::logs::LAST_WORDS;
use crate::{last_lines, read_tail};

#[derive(Debug, Clone)]
pub struct KeptFiles {
    run_dir: PathBuf,
    pub(super) kind: &'static Kind,
}

impl KeptFiles {
    pub fn new(kind: &'static Kind, run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), kind }
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub fn control(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    pub fn console(&self) -> PathBuf {
        self.run_dir.join("console.sock")
    }

    pub fn in_run_dir(&self, name: &str) -> PathBuf {
        self.run_dir.join(name)
    }

    pub fn vmm_log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }

    /// Tells a later life where the console's log is.
    pub fn link_console_log(&self, log: &Path) -> io::Result<()> {
        socket::remove(&self.console_link())?;
        symlink(log, self.console_link())
    }

    fn console_link(&self) -> PathBuf {
        self.run_dir.join("console.log")
    }

    /// Whatever is not there explains nothing.
    pub(super) fn console_tail(&self) -> Vec<u8> {
        let log = std::fs::read_link(self.console_link());
        log.and_then(|log| read_tail(&log, LAST_WORDS)).unwrap_or_default()
    }

    /// What the VMM and its keeper said last.
    pub fn last_lines(&self) -> Vec<String> {
        last_lines(&self.vmm_log())
    }

    /// Sockets and pipes that its VMM makes or opens.
    pub(super) fn vmms_own(&self) -> impl Iterator<Item = PathBuf> {
        let fifos = self.kind.fifos.iter().map(|(_, fifo)| fifo);
        self.kind.sockets.iter().chain(fifos).map(|name| self.run_dir.join(name))
    }

    pub fn remove_sockets(&self) {
        let own = [self.control(), self.console(), self.console_link()];
        for path in own.into_iter().chain(self.vmms_own()) {
            if let Err(error) = socket::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a socket stays behind");
            }
        }
        (self.kind.clean)(&self.run_dir);
    }
}
