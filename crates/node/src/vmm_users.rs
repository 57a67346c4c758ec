//! The users that VMMs run as: each VM has one of its own, without a name,
//! whose uid is its gid too.
//!
//! Which VM has which is kept nowhere but in the owner of the VM's run
//! directory, which lives exactly as long: neither survives the host's boot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use inn_units::VmId;

use crate::paths::Paths;

/// The first uid that no registry of systemd's gives to anybody, up to
/// 2,147,483,647 (systemd.io/UIDS-GIDS; login.defs gives subordinate ids up
/// to 600,100,000).
const FIRST: u32 = 1_879_048_192;

/// For each agent of a host: more than it can run machines.
const EACH: u32 = 1 << 16;

/// Of these, those of VMs; the last is the log writers'.
const VMS: u32 = EACH - 1;

/// The agents of a host that have ranges of their own; the first is the
/// system's.
const AGENTS: u32 = (2_147_483_647 - FIRST + 1) / EACH;

#[derive(Debug)]
pub(crate) struct VmmUsers {
    /// `None` without the right to become somebody else.
    first: Option<u32>,
    taken: Mutex<BTreeMap<u32, VmId>>,
}

impl VmmUsers {
    /// With what an earlier life has given: blocks.
    pub(crate) fn find(paths: &Paths) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let users = Self {
            first: is_root.then(|| FIRST + EACH * slot(paths.instance())),
            taken: Mutex::default(),
        };
        users.read(&paths.runs());
        users
    }

    fn read(&self, runs: &Path) {
        let Ok(entries) = fs::read_dir(runs) else { return };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<VmId>().ok());
            let uid = entry.metadata().ok().map(|metadata| metadata.uid());
            if let (Some(id), Some(uid)) = (id, uid.filter(|uid| self.is_ours(*uid))) {
                self.lock().insert(uid, id);
            }
        }
    }

    pub(crate) fn is_ours(&self, uid: u32) -> bool {
        self.first.is_some_and(|first| (first..first + EACH).contains(&uid))
    }

    /// The VM's user, until it is given back; or a clause that says why there
    /// is none.
    pub(crate) fn take(&self, id: VmId) -> Result<u32, String> {
        let first = self
            .first
            .ok_or("the agent is not root: VMMs run as its own user, beside each other")?;
        let mut taken = self.lock();
        if let Some((uid, _)) = taken.iter().find(|(_, owner)| **owner == id) {
            return Ok(*uid);
        }
        let free = (first..first + VMS).find(|uid| !taken.contains_key(uid));
        let uid = free.ok_or("all of the agent's users are taken")?;
        taken.insert(uid, id);
        Ok(uid)
    }

    /// Whom the processes are that write logs: the last of the range, and no
    /// VM's.
    pub(crate) fn log_writers(&self) -> Option<u32> {
        // They are the agent's own program, which then must be anybody's.
        let program = fs::metadata("/proc/self/exe").ok()?;
        self.first.filter(|_| program.mode() & 0o001 != 0).map(|first| first + VMS)
    }

    /// For when nothing of the VM is left that belongs to its user.
    pub(crate) fn give_back(&self, id: VmId) {
        self.lock().retain(|_, owner| *owner != id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, VmId>> {
        // Each change is one insertion or removal.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system's agent has the first range, any other one by its instance.
fn slot(instance: Option<u32>) -> u32 {
    instance.map_or(0, |instance| 1 + instance % (AGENTS - 1))
}

/// The groups with which a user may open /dev/kvm.
pub(crate) fn kvm_groups() -> Result<Vec<u32>, String> {
    let metadata = fs::metadata("/dev/kvm").map_err(|error| format!("/dev/kvm: {error}"))?;
    let (mode, group) = (metadata.mode(), metadata.gid());
    match (mode & 0o006 == 0o006, mode & 0o060 == 0o060 && group != 0) {
        (true, _) => Ok(Vec::new()),
        (false, true) => Ok(vec![group]),
        (false, false) => {
            Err("/dev/kvm is root's alone: `groupadd --system kvm; chgrp kvm /dev/kvm; \
                               chmod 660 /dev/kvm` opens it to VMMs"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(first: Option<u32>) -> VmmUsers {
        VmmUsers { first, taken: Mutex::default() }
    }

    #[test]
    fn each_vm_has_one_of_its_own_until_it_is_given_back() {
        let users = users(Some(FIRST));
        let [a, b, c] = [1, 2, 3].map(|n| VmId::from_bytes([n; VmId::BYTES]));
        assert_eq!(users.take(a), Ok(FIRST));
        assert_eq!(users.take(b), Ok(FIRST + 1));
        assert_eq!(users.take(a), Ok(FIRST));
        users.give_back(a);
        assert_eq!(users.take(c), Ok(FIRST));
        assert!(users.is_ours(FIRST + EACH - 1) && !users.is_ours(FIRST + EACH));
        assert!(!users.is_ours(0));
    }

    #[test]
    fn without_root_there_are_none_and_that_is_said() {
        let id = VmId::from_bytes([1; VmId::BYTES]);
        assert!(users(None).take(id).unwrap_err().contains("not root"));
        assert!(!users(None).is_ours(0));
    }

    #[test]
    fn agents_of_one_host_have_ranges_within_what_is_nobody_s() {
        assert_eq!(slot(None), 0);
        for instance in [0, 1, 4094, 4095, u32::MAX] {
            let slot = slot(Some(instance));
            assert!((1..AGENTS).contains(&slot), "{instance}");
            assert!(FIRST + EACH * slot + (EACH - 1) <= 2_147_483_647);
        }
    }
}
