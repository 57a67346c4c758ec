//! A file system brought to the size that its disk has now.
//!
//! ```text
//!  target ─▶ mount ─▶ block device ─▶ partition? ─▶ its entry in the table,
//!     and the kernel's idea of it ─▶ the file system, while it is mounted
//! ```

mod gpt;
mod mbr;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_guest_proto::wire::{DiskGrown, FailureKind};
use rustix::fs::{Mode, OFlags};

use super::mount_table;
use super::{ioctls, lifecycle, wait_for};
use crate::refusal::{OrRefuse, Refusal};

/// A disk that was just made larger says so a moment later: its driver reads
/// the new size when the device interrupts.
const LATER: Duration = Duration::from_millis(500);

/// What a partition table of GPT starts with, and its backup at the end: more
/// than any has (128 entries of 128 bytes).
const TABLE: usize = 1024 * 1024;

/// One end of a partition moved: what is to be written, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Growth {
    writes: Vec<(u64, Vec<u8>)>,
    /// Of the partition, in bytes.
    start: u64,
    length: u64,
}

/// Why a partition stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("its partition table is damaged")]
    Damaged,
    #[error("its partition table has no such partition")]
    NoSuch,
    #[error("a logical partition cannot be grown without the extended one around it")]
    Logical,
}

#[derive(Debug)]
struct Device {
    node: PathBuf,
    /// Of a partition: its number, and the disk it is on.
    partition: Option<(u32, PathBuf)>,
    /// The whole disk's folder in sysfs.
    disk: PathBuf,
}

pub(crate) fn grow(target: &str) -> Result<DiskGrown, Refusal> {
    let what = || format!("grow the file system at {target}");
    let mounted = mount_table::at(target)
        .or_refuse(what)?
        .ok_or_else(|| Refusal::not_found(format!("{}: nothing is mounted there", what())))?;
    let hidden = lifecycle::writable_disk().filter(|_| mounted.kind == "overlay" && target == "/");
    let (dir, kind) = match hidden {
        // The disk under the overlay of an OCI image.
        Some(disk) => (disk.try_clone().or_refuse(what)?, "ext4"),
        None => {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(target, flags, Mode::empty()).or_refuse(what)?;
            (dir, mounted.kind.as_str())
        }
    };
    let grow_it: fn(&OwnedFd, u64) -> io::Result<()> = match kind {
        "ext4" => grow_ext4,
        "xfs" => |dir, size| ioctls::grow_xfs(dir.as_fd(), size),
        "btrfs" => |dir, _| ioctls::grow_btrfs(dir.as_fd()),
        other => {
            let what = format!("{}: {other} does not grow while it is mounted", what());
            return Err(Refusal::new(FailureKind::Unsupported, what));
        }
    };
    let device = match kind {
        // Its device number is its own.
        "btrfs" => by_node(Path::new(&mounted.source)),
        _ => rustix::fs::fstat(&dir).map_err(Into::into).and_then(|stat| {
            by_number(rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev))
        }),
    }
    .or_refuse(|| format!("find the disk of {target}"))?;
    let before = capacity(&dir).or_refuse(what)?;
    await_news(&device, before);
    if let Some((number, disk)) = &device.partition {
        grow_partition(disk, *number)
            .or_refuse(|| format!("grow the partition {}", device.node.display()))?;
    }
    let size = open(&device.node, OFlags::RDONLY)
        .and_then(|node| ioctls::device_size(node.as_fd()))
        .or_refuse(|| format!("read the size of {}", device.node.display()))?;
    grow_it(&dir, size).or_refuse(what)?;
    let after = capacity(&dir).or_refuse(what)?;
    Ok(DiskGrown { device: device.node.display().to_string(), before, after })
}

fn grow_ext4(dir: &OwnedFd, size: u64) -> io::Result<()> {
    let stat = rustix::fs::fstatvfs(dir)?;
    if stat.f_bsize == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let blocks = size / stat.f_bsize;
    match ioctls::grow_ext4(dir.as_fd(), blocks) {
        // As large as can be already: the kernel takes it for a wish to shrink.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && stat.f_blocks >= blocks => {
            Ok(())
        }
        other => other,
    }
}

fn capacity(dir: &OwnedFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Waits for a disk's new size where nothing of one is to be seen yet. No
/// harm is done by waiting in vain.
fn await_news(device: &Device, used: u64) {
    let rescan = device.disk.join("device/rescan");
    if rescan.exists() {
        // Of SCSI alone; virtio tells by itself.
        let _no_matter = fs::write(&rescan, "1");
    }
    let size = || {
        let sectors = fs::read_to_string(device.disk.join("size")).ok()?;
        // Of 512 bytes, whatever the disk's own are.
        sectors.trim().parse::<u64>().ok().map(|sectors| sectors.saturating_mul(512))
    };
    let first = size();
    // A file system's own tables take up to a tenth of it; a disk that is
    // larger than that by far has news already.
    if first.is_some_and(|first| first > used.saturating_add(used / 4)) {
        return;
    }
    let _old_news = wait_for("a new size", LATER, || (size() != first).then_some(()));
}

fn by_number(major: u32, minor: u32) -> io::Result<Device> {
    let link = format!("/sys/dev/block/{major}:{minor}");
    device_of(&fs::canonicalize(link)?)
}

fn by_node(node: &Path) -> io::Result<Device> {
    let stat = rustix::fs::stat(node)?;
    by_number(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

/// Of a folder of sysfs: `…/block/vda/vda1`, or `…/block/vda`.
fn device_of(folder: &Path) -> io::Result<Device> {
    let node = |folder: &Path| {
        let uevent = fs::read_to_string(folder.join("uevent"))?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        name.map(|name| Path::new("/dev").join(name))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let number = match fs::read_to_string(folder.join("partition")) {
        Ok(number) => number.trim().parse::<u32>().ok(),
        Err(_) => None,
    };
    let (Some(number), Some(parent)) = (number, folder.parent()) else {
        return Ok(Device { node: node(folder)?, partition: None, disk: folder.to_owned() });
    };
    let partition = Some((number, node(parent)?));
    Ok(Device { node: node(folder)?, partition, disk: parent.to_owned() })
}

fn open(node: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(node, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn grow_partition(disk: &Path, number: u32) -> io::Result<()> {
    let file = open(disk, OFlags::RDWR)?;
    let size = ioctls::device_size(file.as_fd())?;
    let sector = ioctls::sector_size(file.as_fd())?;
    let mut start = vec![0; TABLE];
    let mut done = 0;
    while done < start.len() {
        let (read, _) = (rustix::io::pread(&file, &mut start[done..], done as u64)?, ());
        if read == 0 {
            break;
        }
        done += read;
    }
    start.truncate(done);
    let unfit = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let growth = if gpt::is_one(&start, sector) {
        gpt::grow(&start, sector, size, number).map_err(unfit)?
    } else {
        mbr::grow(&start, sector, size, number).map_err(unfit)?
    };
    let Some(growth) = growth else { return Ok(()) };
    for (offset, bytes) in &growth.writes {
        let mut done = 0;
        while done < bytes.len() {
            done += rustix::io::pwrite(&file, &bytes[done..], offset + done as u64)?;
        }
    }
    rustix::fs::fsync(&file)?;
    ioctls::resize_partition(file.as_fd(), number, growth.start, growth.length)
}

/// Of the first byte after a partition: at the boundaries that partitioning
/// programs keep (1 MiB).
fn aligned(end: u64, sector: u64) -> u64 {
    let unit = (1024 * 1024 / sector).max(1);
    end / unit * unit
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_know_their_disk() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("vda");
        let part = disk.join("vda2");
        fs::create_dir_all(&part).unwrap();
        fs::write(disk.join("uevent"), "MAJOR=254\nDEVNAME=vda\n").unwrap();
        fs::write(part.join("uevent"), "MAJOR=254\nDEVNAME=vda2\nPARTN=2\n").unwrap();
        fs::write(part.join("partition"), "2\n").unwrap();
        let device = device_of(&part).unwrap();
        assert_eq!(device.node, Path::new("/dev/vda2"));
        assert_eq!(device.partition, Some((2, "/dev/vda".into())));
        let device = device_of(&disk).unwrap();
        assert_eq!((device.node.as_path(), device.partition), (Path::new("/dev/vda"), None));
        assert!(device_of(sys.path()).is_err());
    }
}
