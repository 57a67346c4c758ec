//! Machines under the host's own KVM. Needs the helper's program in INN_TEST_KRUN,
//! and a kernel: see [`KvmGuest`].

use std::path::{Path, PathBuf};

use inn_vmm::conformance::{KvmGuest, Subject};
use inn_vmm::{Isolation, MachineConfig, MachineEnd};
use inn_vmm_krun::KrunRuntime;

pub(crate) struct Krun {
    pub(crate) runtime: KrunRuntime,
    pub(crate) guest: KvmGuest,
    pub(crate) isolation: Isolation,
}

impl Krun {
    /// Says aloud why a test cannot run here.
    pub(crate) fn for_test(name: &str) -> Option<Self> {
        match Self::find() {
            Ok(krun) => Some(krun),
            Err(why) => {
                println!("SKIPPED {name}: {why}");
                None
            }
        }
    }

    fn find() -> Result<Self, String> {
        let helper = std::env::var_os("INN_TEST_KRUN").map(PathBuf::from);
        let helper = helper.ok_or("INN_TEST_KRUN names no inn-krun")?;
        if !helper.exists() {
            let helper = helper.display();
            return Err(format!("there is no {helper}: scripts/build-krun dev makes it"));
        }
        let guest = KvmGuest::find()?;
        let runtime = KrunRuntime::with_helper(helper).map_err(|error| error.to_string())?;
        Ok(Self { runtime, guest, isolation: Isolation::default() })
    }

    fn isolated(&self, config: MachineConfig) -> MachineConfig {
        MachineConfig { isolation: self.isolation.clone(), ..config }
    }
}

impl Subject for Krun {
    type Runtime = KrunRuntime;

    fn runtime(&self) -> &KrunRuntime {
        &self.runtime
    }

    /// Nobody listens in these; the agent's own tests have guests that do.
    fn channel_answers(&self) -> bool {
        false
    }

    fn staying(&self, dir: &Path) -> MachineConfig {
        self.isolated(self.guest.staying(dir))
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        let ending = self.guest.ending(dir, &self.isolation).into_iter();
        ending.map(|(config, end)| (self.isolated(config), end)).collect()
    }
}
