//! What a machine has in its run directory.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use inn_host::socket;
use inn_vmm::read_tail;

use crate::protocol::VSOCK;

/// How much of a log is read to explain an end.
const LAST_WORDS: usize = 8 << 10;

/// The lines of it that are shown.
const LINES: usize = 20;

#[derive(Debug, Clone)]
pub(crate) struct Files {
    run_dir: PathBuf,
}

impl Files {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned() }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.run_dir.join("console.sock")
    }

    /// libkrun makes it, refuses one that is there, and leaves it behind.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.run_dir.join(VSOCK)
    }

    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }

    /// Tells a later life where the console's log is.
    pub(crate) fn link_console_log(&self, log: &Path) -> io::Result<()> {
        socket::remove(&self.console_link())?;
        symlink(log, self.console_link())
    }

    fn console_link(&self) -> PathBuf {
        self.run_dir.join("console.log")
    }

    /// Whatever is not there explains nothing.
    pub(crate) fn console_tail(&self) -> Vec<u8> {
        let log = std::fs::read_link(self.console_link());
        log.and_then(|log| read_tail(&log, LAST_WORDS)).unwrap_or_default()
    }

    /// What the VMM and its keeper said last.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let tail = read_tail(&self.vmm_log(), LAST_WORDS).unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let mut lines: Vec<String> = text.lines().rev().take(LINES).map(str::to_owned).collect();
        lines.reverse();
        lines
    }

    pub(crate) fn remove_sockets(&self) {
        for path in [self.control(), self.console(), self.vsock(), self.console_link()] {
            if let Err(error) = socket::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a socket stays behind");
            }
        }
    }
}
