//! Disks by their serial, which the runtime gave them: names like vda depend
//! on the order in which the kernel finds them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wait_for;

/// A loaded host emulates slowly, and a disk that is missing never comes.
const DEADLINE: Duration = Duration::from_secs(30);

/// The device node of the disk with this serial, waiting for it to appear.
pub(crate) fn find(serial: &str) -> io::Result<PathBuf> {
    wait_for(&format!("the disk {serial}"), DEADLINE, || {
        look(Path::new("/sys/block"), serial).filter(|node| node.exists())
    })
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
