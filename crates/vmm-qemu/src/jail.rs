//! The root directory of VMMs: see [`inn_host::process::Jail`].

use std::path::Path;
use std::sync::Arc;

use inn_host::process::{Confined, Jail, User};
use inn_vmm::{Isolation, LaunchError};

use crate::QemuRuntime;
use crate::bridge;
use crate::discover::{Found, SELF};

/// Where distributions put a QEMU whose libraries and firmware are in the
/// directories that every jail has.
const SYSTEM: &str = "/usr";

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
        isolation.confined(isolation.user.as_ref().map(User::from), || self.jail())
    }

    pub(crate) fn jail(&self) -> Result<Arc<Jail>, String> {
        let mut programs = vec![self.binary.clone()];
        programs.extend(bridge::find_program(self.bridge.as_deref()).ok());
        // Its own program a process finds by /proc, wherever it is.
        let writer = Some(&self.log_writer).filter(|writer| *writer != Path::new(SELF));
        programs.extend(writer.cloned());
        self.jail.get(&programs)
    }
}
