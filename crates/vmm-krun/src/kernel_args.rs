/// What a kernel has to be told on libkrun's machine, which has no firmware, no
/// ACPI and no PCI. Its disks, card and channel libkrun adds itself
/// (`virtio_mmio.device=`); what the VM's owner says comes after it and wins.
pub const KERNEL_ARGS: &str = "console=ttyS0 \
    reboot=k panic=-1 quiet \
    acpi=off pci=off \
    8250.nr_uarts=1 i8042.nopnp i8042.noaux \
    cryptomgr.notests random.trust_cpu=on audit=0 lsm= \
    inn.channel=vsock";
