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

use crate::config::{Fixed, UidRange};

/// The first uid that no registry of systemd's gives to anybody, up to
/// 2,147,483,647 (systemd.io/UIDS-GIDS; login.defs gives subordinate ids up
/// to 600,100,000).
const FIRST: u32 = 1_879_048_192;

/// For each agent of a host: more than it can run machines.
const EACH: u32 = 1 << 16;

/// The agents of a host that have ranges of their own; the first is the
/// system's.
const AGENTS: u32 = (2_147_483_647 - FIRST + 1) / EACH;

#[derive(Debug)]
pub(crate) struct VmmUsers {
    /// `None` without the right to become somebody else. The last is the log
    /// writers'.
    range: Option<UidRange>,
    taken: Mutex<BTreeMap<u32, VmId>>,
}

impl VmmUsers {
    /// With what an earlier life has given: blocks.
    pub(crate) fn find(config: &Fixed) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let range = is_root.then(|| own_uids(config));
        let users = Self { range, taken: Mutex::default() };
        users.read(&config.paths.runs());
        if let Some(range) = range {
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            if let Some(line) = range.someone_elses(&read("/etc/passwd"), &read("/etc/subuid")) {
                tracing::warn!(%range, %line, "VMMs share a user with somebody; set vmm.uids");
            }
        }
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

    fn is_ours(&self, uid: u32) -> bool {
        self.range.is_some_and(|range| range.contains(uid))
    }

    /// The VM's user, until it is given back; or a clause that says why there
    /// is none.
    pub(crate) fn take(&self, id: VmId) -> Result<u32, String> {
        let range = self
            .range
            .ok_or("the agent is not root: VMMs run as its own user, beside each other")?;
        let mut taken = self.lock();
        if let Some((uid, _)) = taken.iter().find(|(_, owner)| **owner == id) {
            return Ok(*uid);
        }
        let free = (range.first..range.last).find(|uid| !taken.contains_key(uid));
        let uid = free.ok_or("all of the agent's users are taken")?;
        taken.insert(uid, id);
        Ok(uid)
    }

    /// Whom the processes are that write logs: the last of the range, and no
    /// VM's.
    pub(crate) fn log_writers(&self) -> Option<u32> {
        // They are the agent's own program, which then must be anybody's.
        let program = fs::metadata("/proc/self/exe").ok()?;
        self.range.filter(|_| program.mode() & 0o001 != 0).map(|range| range.last)
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

/// What is configured, or else the range that is this agent's by its data
/// directory.
pub(crate) fn own_uids(config: &Fixed) -> UidRange {
    config.vmm_uids.unwrap_or_else(|| {
        let first = FIRST + EACH * slot(config.paths.instance());
        UidRange { first, last: first + (EACH - 1) }
    })
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
        let range = first.map(|first| UidRange { first, last: first + (EACH - 1) });
        VmmUsers { range, taken: Mutex::default() }
    }

    #[test]
    fn the_last_one_is_no_vm_s_and_who_is_outside_is_not_counted() {
        let runs = tempfile::tempdir().unwrap();
        let [a, b] = [1, 2].map(|n| VmId::from_bytes([n; VmId::BYTES]));
        // Its directory is ours, as one of before a change of the range is
        // somebody else's: both get a user of today's.
        fs::create_dir(runs.path().join(a.to_string())).unwrap();
        let range = Some(UidRange { first: 5000, last: 5001 });
        let users = VmmUsers { range, taken: Mutex::default() };
        users.read(runs.path());
        assert_eq!(users.take(a), Ok(5000));
        assert!(users.take(b).unwrap_err().contains("taken"));
        assert_ne!(users.log_writers(), Some(5000));
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
