//! Disks by their serial, which the runtime gave them: names like vda depend
//! on the order in which the kernel finds them. A runtime whose VMM makes serials
//! up says on the kernel's command line which is which, in that order
//! (`inn.disks=SERIAL,…`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wait_for;

/// A loaded host emulates slowly, and a disk that is missing never comes.
const DEADLINE: Duration = Duration::from_secs(30);

const DISKS: &str = "inn.disks=";

/// The device node of the disk with this serial, waiting for it to appear.
pub(crate) fn find(serial: &str) -> io::Result<PathBuf> {
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let told = by_order(&cmdline, serial);
    wait_for(&format!("the disk {serial}"), DEADLINE, || {
        let node = told.clone().or_else(|| look(Path::new("/sys/block"), serial));
        node.filter(|node| node.exists())
    })
}

fn by_order(cmdline: &str, serial: &str) -> Option<PathBuf> {
    let disks = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix(DISKS))?;
    let at = disks.split(',').position(|disk| disk == serial)?;
    let letter = char::from(b'a' + u8::try_from(at).ok().filter(|at| *at < 26)?);
    Some(Path::new("/dev").join(format!("vd{letter}")))
}

fn look(block: &Path, serial: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(block).ok()?.flatten() {
        let name = entry.file_name();
        // virtio_blk shows it beside the disk, others below its device.
        for place in ["serial", "device/serial"] {
            if let Ok(found) = std::fs::read_to_string(entry.path().join(place))
                && found.trim_end() == serial
            {
                return Some(Path::new("/dev").join(name));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_said_of_their_order_holds() {
        let told = "quiet inn.disks=inn-root,inn-rw virtio_mmio.device=4K@0xd0000000:5";
        assert_eq!(by_order(told, "inn-root"), Some("/dev/vda".into()));
        assert_eq!(by_order(told, "inn-rw"), Some("/dev/vdb".into()));
        assert_eq!(by_order(told, "inn-persist"), None);
        assert_eq!(by_order("quiet", "inn-root"), None);
        let many = format!("inn.disks={}z", "x,".repeat(26));
        assert_eq!(by_order(&many, "z"), None);
    }

    #[test]
    fn finds_by_either_place_of_the_serial() {
        let block = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(block.path().join("vda")).unwrap();
        std::fs::create_dir_all(block.path().join("sdb/device")).unwrap();
        std::fs::create_dir_all(block.path().join("loop0")).unwrap();
        std::fs::write(block.path().join("vda/serial"), "inn-root").unwrap();
        std::fs::write(block.path().join("sdb/device/serial"), "inn-rw\n").unwrap();
        assert_eq!(look(block.path(), "inn-root"), Some("/dev/vda".into()));
        assert_eq!(look(block.path(), "inn-rw"), Some("/dev/sdb".into()));
        assert_eq!(look(block.path(), "inn-r"), None);
        assert_eq!(look(&block.path().join("nowhere"), "inn-rw"), None);
    }
}
