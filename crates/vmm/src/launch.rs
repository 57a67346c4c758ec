//! What every launch needs, whichever runtime's.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use inn_host::process::{OpenError, Process, ProcessIdentity};

use crate::{LaunchError, MachineIdentity};

/// Times steps that follow each other.
#[derive(Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the last one.
    pub fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// For `map_err`: a step that has failed with a file.
pub fn io_error(step: &str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let step = format!("{step} {}", path.display());
    move |source| LaunchError::Io { step, source }
}

/// An error with its causes, for where only text can be handed on.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl LaunchError {
    /// With its program's last words, where it has room for them.
    pub fn with_log(self, log: Vec<String>) -> Self {
        match self {
            Self::Failed { program, reason, .. } => Self::Failed { program, reason, log },
            other => other,
        }
    }
}

impl MachineIdentity {
    pub fn of(runtime: &str, process: &ProcessIdentity) -> Self {
        Self {
            runtime: runtime.to_owned(),
            pid: process.pid,
            start_ticks: process.start_ticks,
            host_boot_id: process.host_boot_id.clone(),
        }
    }

    /// Its process, if that lives and is the very same.
    pub fn process(&self) -> Result<Process, OpenError> {
        Process::open(&ProcessIdentity {
            pid: self.pid,
            start_ticks: self.start_ticks,
            host_boot_id: self.host_boot_id.clone(),
        })
    }
}
