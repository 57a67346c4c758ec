//! What a guest under KVM has of its host's CPU.

use std::collections::BTreeSet;

/// What the host's CPUs have, in the kernel's words. Of a host without /proc there
/// are none, and so there will be next time.
pub fn host_cpu_features() -> BTreeSet<String> {
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
