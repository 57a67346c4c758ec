//! On-disk numbers and records of ext4, as the kernel's
//! Documentation/filesystems/ext4 gives them ("Super Block", "Block Group
//! Descriptors", "Index Nodes") and fs/ext4/ext4.h names them.

pub(crate) const BLOCK: u64 = 4096;
pub(super) const BLOCK_BYTES: usize = 4096;
/// One block of bitmap: eight times its bytes.
pub(super) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
pub(super) const INODE_BYTES: usize = 256;
pub(super) const INODES_PER_BLOCK: u64 = BLOCK / 256;
pub(super) const ROOT_INODE: u32 = 2;
/// The first inode that is not reserved (EXT4_GOOD_OLD_FIRST_INO).
pub(super) const FIRST_INODE: u32 = 11;
const GROUP_DESCRIPTOR_BYTES: u64 = 32;
/// `i_extra_isize`: everything up to `i_projid`.
pub(super) const EXTRA_ISIZE: u16 = 32;
/// Where the extended attributes inside an inode begin.
pub(super) const INODE_XATTR_AT: usize = 128 + EXTRA_ISIZE as usize;
/// EXT4_LINK_MAX; with dir_nlink a directory beyond it shows 1.
pub(super) const LINK_MAX: u32 = 65000;

pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;

const COMPAT_EXT_ATTR: u32 = 0x8;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_FLEX_BG: u32 = 0x200;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_LARGE_FILE: u32 = 0x2;
const RO_COMPAT_DIR_NLINK: u32 = 0x20;
const RO_COMPAT_EXTRA_ISIZE: u32 = 0x40;

/// A little-endian record that is filled field by field.
pub(super) struct Record<'a>(pub(super) &'a mut [u8]);

impl Record<'_> {
    pub(super) fn u8(&mut self, at: usize, value: u8) {
        self.0[at] = value;
    }

    pub(super) fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, at: usize, value: &[u8]) {
        self.0[at..at + value.len()].copy_from_slice(value);
    }
}

/// The low and the high half of a number that the layout stores apart.
pub(super) fn halves(value: u64) -> (u32, u32) {
    ((value & 0xffff_ffff) as u32, (value >> 32) as u32)
}

pub(super) fn halves16(value: u32) -> (u16, u16) {
    ((value & 0xffff) as u16, (value >> 16) as u16)
}

/// How many blocks a table of descriptors for so many groups takes.
pub(super) fn descriptor_blocks(groups: u64) -> u64 {
    (groups * GROUP_DESCRIPTOR_BYTES).div_ceil(BLOCK)
}

/// What names a file system: all of it derived from its content.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u8; 16],
    /// At most 16 bytes.
    pub(crate) label: &'static str,
}

/// The sizes that a finished file system has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) inodes_per_group: u64,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
}

/// The super block's 1,024 bytes. No journal and no backups (sparse_super2
/// with both backup groups 0): the image is only ever mounted read-only and
/// can be made anew from the blobs.
pub(super) fn super_block(geometry: &Geometry, identity: &Identity) -> [u8; 1024] {
    let mut bytes = [0u8; 1024];
    let mut sb = Record(&mut bytes);
    let (blocks, _) = halves(geometry.blocks);
    let (inodes, _) = halves(geometry.groups * geometry.inodes_per_group);
    let (per_group, _) = halves(geometry.inodes_per_group);
    sb.u32(0x00, inodes);
    sb.u32(0x04, blocks);
    sb.u32(0x0c, halves(geometry.free_blocks).0);
    sb.u32(0x10, halves(geometry.free_inodes).0);
    sb.u32(0x18, 2); // log2(block size) - 10
    sb.u32(0x1c, 2); // cluster size, the same
    sb.u32(0x20, 32768);
    sb.u32(0x24, 32768);
    sb.u32(0x28, per_group);
    sb.u16(0x36, 0xffff); // no check after so many mounts
    sb.u16(0x38, 0xef53);
    sb.u16(0x3a, 1); // cleanly unmounted
    sb.u16(0x3c, 1); // on errors: continue
    sb.u32(0x4c, 1); // revision with dynamic inode sizes
    sb.u32(0x54, FIRST_INODE);
    sb.u16(0x58, 256);
    sb.u32(0x5c, COMPAT_EXT_ATTR | COMPAT_SPARSE_SUPER2);
    sb.u32(0x60, INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_FLEX_BG);
    sb.u32(
        0x64,
        RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE | RO_COMPAT_DIR_NLINK | RO_COMPAT_EXTRA_ISIZE,
    );
    sb.bytes(0x68, &identity.uuid);
    sb.bytes(0x78, identity.label.as_bytes());
    sb.bytes(0xec, &identity.hash_seed);
    sb.u8(0xfc, 1); // default hash: half MD4
    sb.u16(0x15c, EXTRA_ISIZE);
    sb.u16(0x15e, EXTRA_ISIZE);
    sb.u32(0x160, 2); // unsigned directory hash
    sb.u8(0x174, 4); // 16 groups to a flex group
    bytes
}

/// One group's descriptor, as far as a file system without checksums uses it.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupDescriptor {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_blocks: u16,
    pub(super) free_inodes: u16,
    pub(super) directories: u16,
}

impl GroupDescriptor {
    pub(super) fn encode(&self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        let mut gd = Record(&mut bytes);
        gd.u32(0x00, halves(self.block_bitmap).0);
        gd.u32(0x04, halves(self.inode_bitmap).0);
        gd.u32(0x08, halves(self.inode_table).0);
        gd.u16(0x0c, self.free_blocks);
        gd.u16(0x0e, self.free_inodes);
        gd.u16(0x10, self.directories);
        bytes
    }
}
