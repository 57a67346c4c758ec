//! Machines under the host's own KVM. Needs Firecracker, which INN_FIRECRACKER
//! names or PATH has, and a kernel: see [`KvmGuest`].

#![allow(dead_code, reason = "each of the tests has a part of it")]

use std::path::{Path, PathBuf};

use inn_vmm::conformance::{KvmGuest, Subject};
use inn_vmm::{Isolation, MachineConfig, MachineEnd};
use inn_vmm_firecracker::FirecrackerRuntime;

/// Keeper, log writer and stand-in.
pub(crate) const OWN: &str = env!("CARGO_BIN_EXE_inn-test-firecracker");

pub(crate) struct Firecracker {
    pub(crate) runtime: FirecrackerRuntime,
    pub(crate) guest: KvmGuest,
    pub(crate) isolation: Isolation,
}

impl Firecracker {
    /// Says aloud why a test cannot run here.
    pub(crate) async fn for_test(name: &str) -> Option<Self> {
        let binary = std::env::var_os("INN_FIRECRACKER").map(PathBuf::from);
        let runtime = FirecrackerRuntime::discover(binary).await;
        let found = runtime
            .map_err(|error| format!("{error} (INN_FIRECRACKER names it)"))
            .and_then(|runtime| Ok((runtime.with_own_program(OWN.into()), KvmGuest::find()?)));
        match found {
            Ok((runtime, guest)) => {
                println!("Firecracker {}", runtime.version());
                Some(Self { runtime, guest, isolation: Isolation::default() })
            }
            Err(why) => {
                println!("SKIPPED {name}: {why}");
                None
            }
        }
    }
}

impl Subject for Firecracker {
    type Runtime = FirecrackerRuntime;

    fn runtime(&self) -> &FirecrackerRuntime {
        &self.runtime
    }

    /// Nobody listens in these; the agent's own tests have guests that do.
    fn channel_answers(&self) -> bool {
        false
    }

    fn staying(&self, dir: &Path) -> MachineConfig {
        MachineConfig { isolation: self.isolation.clone(), ..self.guest.staying(dir) }
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        let ending = self.guest.ending(dir, &self.isolation).into_iter();
        let jailed = |config| MachineConfig { isolation: self.isolation.clone(), ..config };
        ending.map(|(config, end)| (jailed(config), end)).collect()
    }
}
