//! What of QEMU and of this host a saved machine depends on.

use std::collections::BTreeSet;

use inn_vmm::{Accel, Fingerprint, MachineConfig};

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
                Accel::Kvm => host_features(),
                Accel::Tcg => BTreeSet::new(),
            },
            // Under TCG the guest reads the host's own, and has been told its
            // rate at its boot; under KVM few hosts can scale it.
            counter_khz: self.tsc_khz().await,
            ..Fingerprint::of(NAME, config)
        }
    }
}

/// Of a host without /proc there are none, and so there will be next time.
fn host_features() -> BTreeSet<String> {
    features_in(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// Of the first CPU: proc(5), `flags` of x86.
fn features_in(cpuinfo: &str) -> BTreeSet<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_first_cpu() {
        let cpuinfo = "processor\t: 0\nflags\t\t: sse2 avx2\nbugs\t\t: x\nflags\t\t: avx512f\n";
        assert_eq!(features_in(cpuinfo), ["avx2", "sse2"].map(str::to_owned).into());
        assert_eq!(features_in("processor: 0\n"), BTreeSet::new());
    }
}
