//! Documentation/filesystems/ext4, "Index Nodes".

use super::super::tree::Timestamp;
use super::{Fields, ReadError, Volume, damaged};

const FLAG_ENCRYPT: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_EA_INODE: u32 = 0x20_0000;
const FLAG_INLINE_DATA: u32 = 0x1000_0000;

#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) kind: InodeKind,
    /// `0o7777` at most.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) links: u16,
    pub(crate) mtime: Timestamp,
    /// i_block: an extent tree's root, a short link's target, a device.
    pub(super) inner: [u8; 60],
    pub(super) has_extents: bool,
    /// What stands behind the fields.
    pub(super) rest: Vec<u8>,
    /// The block of its attributes, or 0.
    pub(super) xattr_block: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeKind {
    File,
    Dir,
    Symlink,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

impl Inode {
    /// Of overlayfs: what hides a name of the layer below.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind == InodeKind::CharDevice { major: 0, minor: 0 }
    }
}

impl Volume {
    pub(crate) fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let (block, at) = self.place_of(number)?;
        let block = self.block(block)?;
        let raw = &block[at..at + self.sb.inode_size];
        let (mode, flags) = (raw.u16_at(0x0), raw.u32_at(0x20));
        let refuse = |what: &str| Err(ReadError::Unsupported(what.to_owned()));
        if flags & FLAG_ENCRYPT != 0 {
            return refuse("encrypted files");
        }
        if flags & FLAG_INLINE_DATA != 0 {
            return refuse("files inside of inodes");
        }
        if flags & FLAG_EA_INODE != 0 {
            return refuse("attributes in inodes of their own");
        }
        let inner: [u8; 60] = raw.bytes_at(0x28);
        let kind = match mode & 0xf000 {
            0x1000 => InodeKind::Fifo,
            0x2000 => device(&inner, |major, minor| InodeKind::CharDevice { major, minor }),
            0x4000 => InodeKind::Dir,
            0x6000 => device(&inner, |major, minor| InodeKind::BlockDevice { major, minor }),
            0x8000 => InodeKind::File,
            0xa000 => InodeKind::Symlink,
            0xc000 => InodeKind::Socket,
            _ => return Err(damaged(format!("inode {number} is of no kind"))),
        };
        let links = raw.u16_at(0x1a);
        if links == 0 {
            return Err(damaged(format!("inode {number} has a name and is unused")));
        }
        let extra = if raw.len() > 0x82 { usize::from(raw.u16_at(0x80)) } else { 0 };
        if extra % 4 != 0 || 128 + extra > raw.len() {
            return Err(damaged(format!("inode {number} is larger than it may be")));
        }
        // fs/ext4/ext4.h, ext4_decode_extra_time: two more bits of seconds.
        let more = if extra >= 0xc { raw.u32_at(0x88) } else { 0 };
        let secs = i64::from(i32::from_le_bytes(raw.bytes_at(0x10))) + (i64::from(more & 3) << 32);
        Ok(Inode {
            number,
            kind,
            mode: mode & 0o7777,
            uid: u32::from(raw.u16_at(0x2)) | u32::from(raw.u16_at(0x78)) << 16,
            gid: u32::from(raw.u16_at(0x18)) | u32::from(raw.u16_at(0x7a)) << 16,
            size: raw.halves_at(0x4, 0x6c),
            links,
            mtime: Timestamp { secs, nanos: (more >> 2).min(999_999_999) },
            inner,
            has_extents: flags & FLAG_EXTENTS != 0,
            rest: raw[128 + extra..].to_vec(),
            xattr_block: u64::from(raw.u32_at(0x68)) | u64::from(raw.u16_at(0x76)) << 32,
        })
    }

    /// What a symbolic link says.
    pub(crate) fn target(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let wrong = || damaged(format!("the link {} has a wrong length", inode.number));
        let size = usize::try_from(inode.size).map_err(|_| wrong())?;
        let target = if !inode.has_extents && size < inode.inner.len() {
            inode.inner[..size].to_vec()
        } else {
            if size as u64 > self.sb.block {
                return Err(wrong());
            }
            let spans = self.spans(inode)?;
            let span = spans.first().filter(|span| span.offset == 0).ok_or_else(wrong)?;
            let mut bytes = self.block(span.block)?;
            bytes.truncate(size);
            bytes
        };
        if target.is_empty() || target.contains(&0) { Err(wrong()) } else { Ok(target) }
    }
}

/// fs/ext4/inode.c, ext4_iget: the old numbers in the first word, the new ones
/// in the second (linux/kdev_t.h).
fn device(inner: &[u8], kind: impl Fn(u32, u32) -> InodeKind) -> InodeKind {
    let (old, new) = (inner.u32_at(0), inner.u32_at(4));
    if old != 0 {
        kind((old >> 8) & 0xff, old & 0xff)
    } else {
        kind((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00))
    }
}
