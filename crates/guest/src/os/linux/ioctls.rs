//! The ioctls of file systems, block devices and the clock's chip, none of
//! which rustix knows. Numbers and layouts are those of the kernel's uapi
//! headers, named at each.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// linux/fs.h: `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FIFREEZE: u32 = 0xC004_5877;
const FITHAW: u32 = 0xC004_5878;
/// linux/fs.h: `_IOR(0x12, 114, size_t)`, `_IO(0x12, 104)`.
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKSSZGET: u32 = 0x1268;
/// linux/blkpg.h: `_IO(0x12, 105)` and its operation.
const BLKPG: u32 = 0x1269;
const BLKPG_RESIZE_PARTITION: c_int = 3;
/// fs/ext4/ext4.h: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: u32 = 0x4008_6610;
/// fs/xfs/libxfs/xfs_fs.h: `_IOR('X', 100, struct xfs_fsop_geom_v1)` and
/// `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGEOMETRY_V1: u32 = 0x8070_5864;
const XFS_IOC_FSGROWFSDATA: u32 = 0x4010_586E;
/// linux/btrfs.h: `_IOW(0x94, 3, struct btrfs_ioctl_vol_args)`.
const BTRFS_IOC_RESIZE: u32 = 0x5000_9403;
/// linux/rtc.h: `_IOW('p', 0x0a, struct rtc_time)`.
const RTC_SET_TIME: u32 = 0x4024_700A;

/// linux/random.h: `_IOW('R', 0x03, int [2])` and `_IO('R', 0x07)`.
const RNDADDENTROPY: u32 = 0x4008_5203;
const RNDRESEEDCRNG: u32 = 0x5207;
/// What one call takes here.
pub(super) const MAX_ENTROPY: usize = 512;

/// linux/random.h, `struct rand_pool_info`, whose bits are counted.
#[repr(C)]
struct Entropy {
    bits: c_int,
    length: c_int,
    bytes: [u8; MAX_ENTROPY],
}

/// Stirs so many bytes into the kernel's pool, all of them good, and makes its
/// generator begin anew from there. `random` is /dev/random or /dev/urandom.
pub(super) fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let too_much = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut entropy = Entropy {
        bits: (bytes.len() * 8).try_into().map_err(too_much)?,
        length: bytes.len().try_into().map_err(too_much)?,
        bytes: [0; MAX_ENTROPY],
    };
    let place = entropy.bytes.get_mut(..bytes.len());
    place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    // SAFETY: RNDADDENTROPY reads two ints and as many bytes as the second
    // says, which are there.
    unsafe { ask(random, RNDADDENTROPY, (&raw mut entropy).cast()) }?;
    // SAFETY: the kernel ignores the argument.
    unsafe { ask(random, RNDRESEEDCRNG, ptr::null_mut()) }
}

/// Waits for writers under way, then lets nobody write any more.
pub(super) fn freeze(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel ignores the argument.
    unsafe { ask(dir, FIFREEZE, ptr::null_mut()) }
}

pub(super) fn thaw(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel ignores the argument.
    unsafe { ask(dir, FITHAW, ptr::null_mut()) }
}

/// Of a block device, in bytes.
pub(super) fn device_size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64, despite its name's size_t.
    unsafe { ask(device, BLKGETSIZE64, (&raw mut size).cast()) }?;
    Ok(size)
}

/// In which a block device's partition table counts, in bytes.
pub(super) fn sector_size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut size: c_int = 0;
    // SAFETY: BLKSSZGET writes one int.
    unsafe { ask(device, BLKSSZGET, (&raw mut size).cast()) }?;
    u64::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// linux/blkpg.h, `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: c_int,
    flags: c_int,
    length: c_int,
    data: *mut c_void,
}

/// linux/blkpg.h, `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// Tells the kernel of a partition's size, in bytes, while it is in use.
pub(super) fn resize_partition(
    disk: BorrowedFd<'_>,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let too_much = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(too_much)?,
        length: length.try_into().map_err(too_much)?,
        number: number.try_into().map_err(too_much)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let mut argument = BlkpgArgument {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: c_int::try_from(size_of::<BlkpgPartition>()).map_err(too_much)?,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: the kernel reads one argument and the partition it points to;
    // both live until the call is over.
    unsafe { ask(disk, BLKPG, (&raw mut argument).cast()) }
}

/// A mounted ext4, to so many of its blocks.
pub(super) fn grow_ext4(dir: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    let mut blocks = blocks;
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64.
    unsafe { ask(dir, EXT4_IOC_RESIZE_FS, (&raw mut blocks).cast()) }
}

/// `struct xfs_fsop_geom_v1`, of which the first and eighth word matter.
#[repr(C)]
struct XfsGeometry {
    block_size: u32,
    unused: [u32; 6],
    inode_percent: u32,
    sizes: [u64; 4],
    uuid: [u8; 16],
    rest: [u32; 7],
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    inode_percent: u32,
}

/// A mounted xfs, to what a device of so many bytes holds.
pub(super) fn grow_xfs(dir: BorrowedFd<'_>, device_size: u64) -> io::Result<()> {
    let mut geometry = XfsGeometry {
        block_size: 0,
        unused: [0; 6],
        inode_percent: 0,
        sizes: [0; 4],
        uuid: [0; 16],
        rest: [0; 7],
    };
    // SAFETY: the kernel writes one geometry of version 1, 112 bytes.
    unsafe { ask(dir, XFS_IOC_FSGEOMETRY_V1, (&raw mut geometry).cast()) }?;
    if geometry.block_size == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let blocks = device_size / u64::from(geometry.block_size);
    if geometry.sizes[0] >= blocks {
        return Ok(());
    }
    let mut grow = XfsGrow { blocks, inode_percent: geometry.inode_percent };
    // SAFETY: the kernel reads one xfs_growfs_data.
    unsafe { ask(dir, XFS_IOC_FSGROWFSDATA, (&raw mut grow).cast()) }
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsArgument {
    fd: i64,
    name: [u8; 4088],
}

/// A mounted btrfs, as far as its first device goes.
pub(super) fn grow_btrfs(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mut argument = BtrfsArgument { fd: 0, name: [0; 4088] };
    argument.name[..3].copy_from_slice(b"max");
    // SAFETY: the kernel reads one argument, whose name ends with a NUL.
    unsafe { ask(dir, BTRFS_IOC_RESIZE, (&raw mut argument).cast()) }
}

/// Universal time, field by field; months and days of the week count from 0,
/// years from 1900 (linux/rtc.h, `struct rtc_time`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RtcTime {
    pub(super) second: c_int,
    pub(super) minute: c_int,
    pub(super) hour: c_int,
    pub(super) day: c_int,
    pub(super) month: c_int,
    pub(super) year: c_int,
    pub(super) week_day: c_int,
    pub(super) year_day: c_int,
    pub(super) summer: c_int,
}

pub(super) fn set_rtc(rtc: BorrowedFd<'_>, time: RtcTime) -> io::Result<()> {
    let mut time = time;
    // SAFETY: RTC_SET_TIME reads one rtc_time.
    unsafe { ask(rtc, RTC_SET_TIME, (&raw mut time).cast()) }
}

/// # Safety
/// `argument` must be what `request` reads and writes.
unsafe fn ask(fd: BorrowedFd<'_>, request: u32, argument: *mut c_void) -> io::Result<()> {
    // The type of a request differs between C libraries; its bits do not.
    let request = request as libc::Ioctl;
    // SAFETY: as the caller promises.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each ioctl's number holds the size of its argument in bits 16 to 29
    /// (asm-generic/ioctl.h).
    fn size_in(request: u32) -> usize {
        ((request >> 16) & 0x3FFF) as usize
    }

    #[test]
    fn layouts_are_as_large_as_the_kernel_says() {
        assert_eq!(size_of::<XfsGeometry>(), size_in(XFS_IOC_FSGEOMETRY_V1));
        assert_eq!(size_of::<XfsGrow>(), size_in(XFS_IOC_FSGROWFSDATA));
        assert_eq!(size_of::<BtrfsArgument>(), size_in(BTRFS_IOC_RESIZE));
        assert_eq!(size_of::<RtcTime>(), size_in(RTC_SET_TIME));
        assert_eq!(size_of::<u64>(), size_in(EXT4_IOC_RESIZE_FS));
        assert_eq!(size_of::<[c_int; 2]>(), size_in(RNDADDENTROPY));
        // 8 + 8 + 4 + 64 + 64, aligned to 8.
        assert_eq!(size_of::<BlkpgPartition>(), 152);
    }
}
