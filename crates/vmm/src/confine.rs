//! What a machine's processes give up before they run, and the root directory
//! that they share: see [`inn_host::process::Jail`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use inn_host::process::{Confined, Jail, User};

use crate::{Isolation, LaunchError, VmmUser, chain};

/// The one that new machines get.
#[derive(Debug, Default)]
pub struct CurrentJail(Mutex<Option<Arc<Jail>>>);

impl CurrentJail {
    /// For these programs: made anew when what it was made of has been replaced;
    /// machines keep the one that they have. Or a clause that says why there is
    /// none. Blocks, for a millisecond at the first time.
    pub fn get(&self, programs: &[PathBuf]) -> Result<Arc<Jail>, String> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(jail) if jail.is_of_today(programs) => Ok(Arc::clone(jail)),
            _ => {
                let made = Jail::make(programs).map_err(|error| chain(&error))?;
                tracing::debug!(?programs, "made a root directory for VMMs");
                Ok(Arc::clone(current.insert(Arc::new(made))))
            }
        }
    }
}

impl Isolation {
    /// For a process of the machine's: in its groups, as `user`, and in a `jail`
    /// where it is to have one.
    pub fn confined(
        &self,
        user: Option<User>,
        jail: impl FnOnce() -> Result<Arc<Jail>, String>,
    ) -> Result<Confined, LaunchError> {
        let io_error = |step: &str, source| LaunchError::Io { step: step.to_owned(), source };
        let jail = match self.jailed {
            true => Some(jail().map_err(|reason| {
                io_error("making a root directory for VMMs", std::io::Error::other(reason))
            })?),
            false => None,
        };
        let mut confined = Confined { user, jail, no_new_privileges: true, ..Confined::default() };
        confined
            .enter(&self.groups)
            .map_err(|source| io_error("opening the machine's control groups", source))?;
        Ok(confined)
    }

    /// Whom its log writer is.
    pub fn log_writer(&self) -> Option<User> {
        self.log_uid.map(|uid| User { uid, groups: Vec::new() })
    }
}

impl From<&VmmUser> for User {
    fn from(user: &VmmUser) -> Self {
        Self { uid: user.uid, groups: user.groups.clone() }
    }
}
