//! What a machine has in its run directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use inn_host::socket;
use inn_vmm::read_tail;

/// How much of a log is read to explain an end.
const LAST_WORDS: usize = 8 << 10;

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

    /// libvirt makes it.
    pub(crate) fn agent(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.run_dir.join("console.sock")
    }

    /// All that a console prints, where QEMU opens its log by name.
    pub(crate) fn console_pipe(&self) -> PathBuf {
        self.run_dir.join("console.fifo")
    }

    /// The log writer's own, and libvirt's complaints.
    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }

    /// What was defined. While it is there libvirt may have a domain of ours.
    pub(crate) fn definition(&self) -> PathBuf {
        self.run_dir.join("domain.xml")
    }

    pub(crate) fn write_definition(&self, xml: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file: File = options.open(self.definition())?;
        file.write_all(xml.as_bytes())
    }

    pub(crate) fn read_definition(&self) -> io::Result<String> {
        std::fs::read_to_string(self.definition())
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

    pub(crate) fn remove_sockets(&self) {
        for path in [self.agent(), self.console(), self.console_pipe(), self.console_link()] {
            if let Err(error) = socket::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a socket stays behind");
            }
        }
    }

    /// Once libvirt has nothing of ours any more.
    pub(crate) fn forget_definition(&self) {
        if let Err(error) = socket::remove(&self.definition()) {
            tracing::warn!(path = %self.definition().display(), %error, "it stays behind");
        }
    }
}
