//! What of QEMU and of this host a saved machine depends on.

use std::collections::BTreeSet;

use inn_vmm::{Accel, Fingerprint, MachineConfig, host_cpu_features};

use crate::args::{board, cpu};
use crate::discover::Found;
use crate::launch::NAME;

impl Found {
    pub(crate) async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        Fingerprint {
            // microvm has no versions of its own (docs/system/i386/microvm.rst),
            // so QEMU's stands for the format of all its devices.
            version: self.version.clone(),
            machine: board(self.machine_for(&config.boot)).to_owned(),
            cpu: cpu(config.accel).to_owned(),
            // An emulated CPU has what QEMU emulates, whatever the host's has.
            cpu_features: match config.accel {
                Accel::Kvm => host_cpu_features(),
                Accel::Tcg => BTreeSet::new(),
            },
            // Under TCG the guest reads the host's own, and has been told its
            // rate at its boot; under KVM few hosts can scale it.
            counter_khz: self.tsc_khz().await,
            ..Fingerprint::of(NAME, config)
        }
    }
}
