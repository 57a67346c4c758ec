//! The root directory of VMMs: see [`inn_host::process::Jail`].

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use inn_host::process::{Confined, Jail};
use inn_vmm::{Isolation, LaunchError};

use crate::QemuRuntime;
use crate::bridge;
use crate::discover::{Found, SELF};
use crate::isolate::confined;

/// Where distributions put a QEMU whose libraries and firmware are in the
/// directories that every jail has.
const SYSTEM: &str = "/usr";

/// The one that new machines get.
#[derive(Debug, Default)]
pub(crate) struct CurrentJail(Mutex<Option<Arc<Jail>>>);

impl QemuRuntime {
    /// Whether a machine can have a root directory without the host's files,
    /// or a clause that says why not. Blocks, for a millisecond at the first
    /// time.
    pub fn can_jail(&self) -> Result<(), String> {
        let binary = &self.found.binary;
        if !binary.starts_with(SYSTEM) {
            return Err(format!(
                "{} is not in {SYSTEM}, and what it needs is not known",
                binary.display()
            ));
        }
        self.found.jail().map(drop)
    }
}

impl Found {
    /// What a process of a machine's gives up before it runs.
    pub(crate) fn confined(&self, isolation: &Isolation) -> Result<Confined, LaunchError> {
        let jail = match isolation.jailed {
            true => Some(self.jail().map_err(|reason| LaunchError::Io {
                step: "making a root directory for VMMs".to_owned(),
                source: std::io::Error::other(reason),
            })?),
            false => None,
        };
        Ok(Confined { jail, ..confined(isolation)? })
    }

    /// Made anew when what it was made of has been replaced; machines keep the
    /// one that they have.
    fn jail(&self) -> Result<Arc<Jail>, String> {
        let mut programs = vec![self.binary.clone()];
        programs.extend(bridge::find_program(self.bridge.as_deref()).ok());
        // Its own program a process finds by /proc, wherever it is.
        let writer = Some(&self.log_writer).filter(|writer| *writer != Path::new(SELF));
        programs.extend(writer.cloned());
        let mut current = self.jail.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(jail) if jail.is_of_today(&programs) => Ok(Arc::clone(jail)),
            _ => {
                let made = Jail::make(&programs).map_err(|error| chain(&error))?;
                tracing::debug!(?programs, "made a root directory for VMMs");
                Ok(Arc::clone(current.insert(Arc::new(made))))
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
