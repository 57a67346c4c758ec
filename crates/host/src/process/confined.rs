//! What a process gives up between fork and exec.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Jail;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// How a process is kept from what is not its own. The default keeps it from
/// nothing.
#[derive(Debug, Default)]
pub struct Confined {
    /// The `cgroup.procs` of the groups that it enters, opened by us.
    pub entrances: Vec<File>,
    pub user: Option<User>,
    /// The root directory that it has in place of ours. Its program is looked
    /// for there.
    pub jail: Option<Arc<Jail>>,
    /// Nothing that it ever executes has more privileges than it has, and
    /// when it crashes no core is written: a guest's memory is none of the
    /// host's business.
    pub no_new_privileges: bool,
}

impl Confined {
    /// Opens the `cgroup.procs` at these paths, so that nothing needs a path
    /// between fork and exec.
    pub fn enter(&mut self, entrances: &[PathBuf]) -> io::Result<()> {
        for entrance in entrances {
            self.entrances.push(OpenOptions::new().write(true).open(entrance)?);
        }
        Ok(())
    }
}

/// A user without a name, a home or any right: its uid is its gid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    /// Further groups, such as the one that may use /dev/kvm.
    pub groups: Vec<u32>,
}

/// All that is done in the child, ready before the fork: no allocation there.
pub(super) struct Confinement {
    entrances: Vec<File>,
    user: Option<(Uid, Gid, Vec<Gid>)>,
    jail: Option<Arc<Jail>>,
    no_new_privileges: bool,
}

impl Confinement {
    pub(super) fn new(confined: Confined) -> Self {
        let Confined { entrances, user, jail, no_new_privileges } = confined;
        let user = user.map(|User { uid, groups }| {
            let groups = groups.into_iter().map(Gid::from_raw).collect();
            (Uid::from_raw(uid), Gid::from_raw(uid), groups)
        });
        Self { entrances, user, jail, no_new_privileges }
    }

    /// System calls only; for the child, before its parent's death signal is
    /// set, which a change of the user takes back (prctl(2)).
    pub(super) fn enter(&self) -> io::Result<()> {
        for entrance in &self.entrances {
            // Whoever writes 0 enters: cgroups(7), cgroup-v2.rst.
            rustix::io::write(entrance, b"0")?;
        }
        if self.no_new_privileges {
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        }
        if let Some(jail) = &self.jail {
            let kind = Some(LinkNameSpaceType::Mount);
            move_into_link_name_space(jail.namespace(), kind)?;
        }
        if let Some((uid, gid, groups)) = &self.user {
            // Of this one thread, which is all there is after a fork; with the
            // user the capabilities go (capabilities(7)).
            set_thread_groups(groups)?;
            set_thread_res_gid(*gid, *gid, *gid)?;
            set_thread_res_uid(*uid, *uid, *uid)?;
        }
        if self.no_new_privileges {
            set_no_new_privs(true)?;
        }
        Ok(())
    }
}
