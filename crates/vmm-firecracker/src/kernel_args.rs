//! What a kernel is told. Pure.

use inn_vmm::Disk;

/// Without ACPI: Firecracker's has no power button and no way to switch off, so a
/// guest that believed in it would stand still for ever. Disks and channel are on
/// virtio-mmio, which Firecracker adds itself (`virtio_mmio.device=`); what the
/// VM's owner says comes after it and wins.
pub const KERNEL_ARGS: &str = "console=ttyS0 \
    reboot=k panic=-1 quiet \
    acpi=off pci=off \
    8250.nr_uarts=1 i8042.nopnp i8042.noaux i8042.nomux i8042.dumbkbd \
    cryptomgr.notests random.trust_cpu=on audit=0 lsm= \
    inn.channel=vsock";

/// Its disks' serials are Firecracker's own invention: the guest learns by the
/// order which is which, vda first.
pub(crate) fn cmdline(disks: &[Disk], owner: &str) -> String {
    let mut all = KERNEL_ARGS.to_owned();
    if !disks.is_empty() {
        let serials: Vec<&str> = disks.iter().map(|disk| disk.serial.as_str()).collect();
        all = format!("{all} inn.disks={}", serials.join(","));
    }
    match owner.trim() {
        "" => all,
        more => format!("{all} {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_vmm::DiskSource;

    #[test]
    fn disks_are_named_in_their_order_and_the_owner_speaks_last() {
        let disk = |serial: &str| Disk {
            source: DiskSource::Raw("/x".into()),
            read_only: true,
            serial: serial.to_owned(),
        };
        assert_eq!(cmdline(&[], " "), KERNEL_ARGS);
        let both = cmdline(&[disk("inn-root"), disk("inn-rw")], "panic=5");
        assert!(both.ends_with("inn.channel=vsock inn.disks=inn-root,inn-rw panic=5"), "{both}");
        assert!(!KERNEL_ARGS.contains("  "));
    }
}
