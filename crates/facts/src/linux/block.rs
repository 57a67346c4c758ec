use inn_api::{BlockDevice, BlockKind};

use crate::Root;

const BLOCK: &str = "/sys/block";

/// What /sys/block's `size` counts in, whatever the device's own blocks are
/// (Documentation/ABI/stable/sysfs-block).
const SECTOR: u64 = 512;

/// Those that have a size: an empty drive or loop device has none.
pub(super) fn devices(root: &Root) -> Vec<BlockDevice> {
    root.names(BLOCK).into_iter().filter_map(|name| device(root, name)).collect()
}

fn device(root: &Root, name: String) -> Option<BlockDevice> {
    let dir = format!("{BLOCK}/{name}");
    let size: u64 = root.number(format!("{dir}/size")).filter(|size| *size > 0)?;
    let flag = |file: &str| root.flag(format!("{dir}/{file}")).unwrap_or(false);
    let bytes = |file: &str| root.number(format!("{dir}/queue/{file}")).unwrap_or(512);
    let model = ["model", "name"].iter().find_map(|file| root.word(format!("{dir}/device/{file}")));
    let partitions = root
        .names(&dir)
        .into_iter()
        .filter(|part| root.exists(format!("{dir}/{part}/partition")))
        .collect();
    Some(BlockDevice {
        kind: kind(&name),
        size_bytes: size.saturating_mul(SECTOR),
        rotational: flag("queue/rotational"),
        removable: flag("removable"),
        read_only: flag("ro"),
        model,
        transport: root.target(&dir).as_deref().and_then(transport).map(str::to_owned),
        logical_block_bytes: bytes("logical_block_size"),
        physical_block_bytes: bytes("physical_block_size"),
        partitions,
        made_of: root.names(format!("{dir}/slaves")),
        label: root.word(format!("{dir}/dm/name")),
        name,
    })
}

/// Drivers name their devices: Documentation/admin-guide/devices.txt.
fn kind(name: &str) -> BlockKind {
    const PREFIXES: [(&str, BlockKind); 11] = [
        ("loop", BlockKind::Loop),
        ("dm-", BlockKind::Mapped),
        ("md", BlockKind::Raid),
        ("zram", BlockKind::Zram),
        ("sr", BlockKind::Optical),
        ("sd", BlockKind::Disk),
        ("vd", BlockKind::Disk),
        ("xvd", BlockKind::Disk),
        ("nvme", BlockKind::Disk),
        ("mmcblk", BlockKind::Disk),
        ("pmem", BlockKind::Disk),
    ];
    PREFIXES
        .into_iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map_or(BlockKind::Other, |(_, kind)| kind)
}

/// By the devices on the way to it.
fn transport(target: &str) -> Option<&'static str> {
    [
        ("/usb", "usb"),
        ("/nvme", "nvme"),
        ("/virtio", "virtio"),
        ("/ata", "sata"),
        ("/mmc", "mmc"),
        ("/vbd-", "xen"),
        ("/host", "scsi"),
    ]
    .into_iter()
    .find(|(mark, _)| target.contains(mark))
    .map(|(_, name)| name)
}
