//! What a machine with a keeper has in its run directory.

use std::path::{Path, PathBuf};

use inn_host::socket;

use super::Kind;
use crate::last_lines;

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
        let own = [self.control(), self.console()];
        for path in own.into_iter().chain(self.vmms_own()) {
            if let Err(error) = socket::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a socket stays behind");
            }
        }
        (self.kind.clean)(&self.run_dir);
    }
}
