//! What a machine leaves in its run directory: that it lives, and as which.
//!
//! One line of text: the machine's number and whether its guest is configured.
//! The file is there as long as the machine lives.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use inn_units::VmId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) id: VmId,
    /// Stands in the identity where a process has its start time.
    pub(crate) number: u64,
    pub(crate) configured: bool,
}

impl State {
    pub(crate) fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("sim.state")
    }

    pub(crate) fn write(&self, run_dir: &Path) -> io::Result<()> {
        let text = format!("{} {} {}\n", self.id, self.number, u8::from(self.configured));
        // Renamed into place: a reader never sees half of it.
        let fresh = run_dir.join("sim.state.new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, Self::path(run_dir))
    }

    /// `None` where there is none, or not one of ours.
    pub(crate) fn read(run_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::path(run_dir)).ok()?;
        let mut words = text.split_ascii_whitespace();
        let state = Self {
            id: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
            configured: words.next()? == "1",
        };
        words.next().is_none().then_some(state)
    }

    pub(crate) fn remove(run_dir: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(run_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
