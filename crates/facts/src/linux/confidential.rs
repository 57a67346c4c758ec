use inn_api::Confidential;

use crate::Root;

/// AMD's as flags of the CPU and parameters of kvm_amd
/// (Documentation/virt/kvm/x86/amd-memory-encryption.rst); Intel's as the
/// kernel's own flags (Documentation/arch/x86/tdx.rst).
pub(super) fn confidential(root: &Root, flags: &[String]) -> Confidential {
    let has = |flag: &str| flags.iter().any(|one| one == flag);
    let param = |module: &str, name: &str| {
        root.flag(format!("/sys/module/{module}/parameters/{name}")).unwrap_or(false)
    };
    let guest_of = if has("tdx_guest") {
        Some("tdx")
    } else if root.exists("/dev/sev-guest") {
        Some("sev-snp")
    } else {
        None
    };
    Confidential {
        sev: has("sev"),
        sev_es: has("sev_es"),
        sev_snp: has("sev_snp"),
        sev_snp_enabled: param("kvm_amd", "sev_snp"),
        tdx: has("tdx_host_platform"),
        tdx_enabled: param("kvm_intel", "tdx"),
        guest_of: guest_of.map(str::to_owned),
    }
}
