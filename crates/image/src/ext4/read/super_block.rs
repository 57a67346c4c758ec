//! Documentation/filesystems/ext4, "Super Block" and "Block Group Descriptors";
//! fs/ext4/balloc.c for who has a copy of what.

use super::device::Device;
use super::{Fields, ReadError, Volume, damaged};

const MAGIC: u16 = 0xef53;

const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// filetype, recover, meta_bg, extents, 64bit, flex_bg, csum_seed, largedir.
const KNOWN: u32 = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000;
/// Those that may be met, by what mke2fs calls them.
const FOREIGN: [(u32, &str); 7] = [
    (0x1, "compression"),
    (0x8, "a journal on another disk"),
    (0x100, "multiple mount protection"),
    (0x400, "attributes in inodes of their own (ea_inode)"),
    (0x8000, "files inside of inodes (inline_data)"),
    (0x1_0000, "encryption"),
    (0x2_0000, "names without case (casefold)"),
];
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_SPARSE_SUPER: u32 = 0x1;

#[derive(Debug)]
pub(super) struct SuperBlock {
    pub(super) block: u64,
    pub(super) blocks: u64,
    pub(super) first_data_block: u64,
    pub(super) inodes: u32,
    pub(super) inode_size: usize,
    pub(super) needs_recovery: bool,
    pub(super) journal_inode: u32,
    inodes_per_group: u32,
    blocks_per_group: u64,
    descriptor: u64,
    first_meta_bg: u64,
    copies: Copies,
}

/// Which groups begin with a copy of the super block.
#[derive(Debug)]
enum Copies {
    All,
    /// Those whose numbers are powers of 3, 5 and 7.
    Sparse,
    Two([u64; 2]),
}

impl SuperBlock {
    pub(super) fn read(device: &Device) -> Result<Self, ReadError> {
        let sb = device.head()?;
        let sb = &sb[..];
        if sb.u16_at(0x38) != MAGIC {
            return Err(damaged("it has no super block"));
        }
        let incompat = sb.u32_at(0x60);
        if let Some((_, name)) = FOREIGN.iter().find(|(bit, _)| incompat & bit != 0) {
            return Err(ReadError::Unsupported((*name).to_owned()));
        }
        if incompat & !KNOWN != 0 {
            return Err(ReadError::Unsupported(format!("features {:#x}", incompat & !KNOWN)));
        }
        // A guest of this architecture mounts none with larger blocks than its pages.
        let block = match sb.u32_at(0x18) {
            shift @ 0..=2 => 1024u64 << shift,
            _ => return Err(ReadError::Unsupported("blocks of more than 4 KiB".into())),
        };
        let wide = incompat & INCOMPAT_64BIT != 0;
        let blocks = if wide { sb.halves_at(0x4, 0x150) } else { u64::from(sb.u32_at(0x4)) };
        let blocks_per_group = u64::from(sb.u32_at(0x20));
        let inodes_per_group = sb.u32_at(0x28);
        let inode_size = if sb.u32_at(0x4c) == 0 { 128 } else { usize::from(sb.u16_at(0x58)) };
        let descriptor = if wide { u64::from(sb.u16_at(0xfe)) } else { 32 };
        let first_data_block = u64::from(sb.u32_at(0x14));
        let sound = blocks.checked_mul(block).is_some_and(|bytes| bytes <= device.bytes)
            && first_data_block == u64::from(block == 1024)
            && blocks > first_data_block
            && (1..=8 * block).contains(&blocks_per_group)
            && (1..=8 * block).contains(&u64::from(inodes_per_group))
            && inode_size.is_power_of_two()
            && (128..=block).contains(&(inode_size as u64))
            && descriptor.is_power_of_two()
            && (32..=1024.min(block)).contains(&descriptor);
        if !sound {
            return Err(damaged("the numbers of its super block do not fit together"));
        }
        let copies = if sb.u32_at(0x5c) & COMPAT_SPARSE_SUPER2 != 0 {
            Copies::Two([u64::from(sb.u32_at(0x24c)), u64::from(sb.u32_at(0x250))])
        } else if sb.u32_at(0x64) & RO_SPARSE_SUPER != 0 {
            Copies::Sparse
        } else {
            Copies::All
        };
        let meta_bg = incompat & INCOMPAT_META_BG != 0;
        Ok(Self {
            block,
            blocks,
            first_data_block,
            inodes: sb.u32_at(0x0),
            inode_size,
            needs_recovery: incompat & INCOMPAT_RECOVER != 0,
            journal_inode: sb.u32_at(0xe0),
            inodes_per_group,
            blocks_per_group,
            descriptor,
            first_meta_bg: if meta_bg { u64::from(sb.u32_at(0x104)) } else { u64::MAX },
            copies,
        })
    }

    fn has_copy(&self, group: u64) -> bool {
        let is_power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        match self.copies {
            Copies::Two(groups) => group == 0 || groups.contains(&group),
            Copies::Sparse => group <= 1 || [3, 5, 7].into_iter().any(is_power_of),
            Copies::All => true,
        }
    }

    /// descriptor_loc of fs/ext4/super.c.
    fn descriptor_block(&self, group: u64) -> u64 {
        let in_block = self.block / self.descriptor;
        let number = group / in_block;
        if number < self.first_meta_bg {
            return self.first_data_block + 1 + number;
        }
        let first = number * in_block;
        self.first_data_block + first * self.blocks_per_group + u64::from(self.has_copy(first))
    }
}

impl Volume {
    /// The block of an inode, and where it is in there.
    pub(super) fn place_of(&self, inode: u32) -> Result<(u64, usize), ReadError> {
        let sb = &self.sb;
        if inode == 0 || inode > sb.inodes {
            return Err(damaged(format!("it has no inode {inode}")));
        }
        let (group, index) = ((inode - 1) / sb.inodes_per_group, (inode - 1) % sb.inodes_per_group);
        let group = u64::from(group);
        let block = self.block(sb.descriptor_block(group))?;
        let within = (group % (sb.block / sb.descriptor)) * sb.descriptor;
        let within = usize::try_from(within).map_err(|_| damaged("its descriptors"))?;
        let descriptor = &block[within..];
        let table = if sb.descriptor >= 64 {
            descriptor.halves_at(0x8, 0x28)
        } else {
            u64::from(descriptor.u32_at(0x8))
        };
        let at = u64::from(index) * sb.inode_size as u64;
        let place = table.checked_add(at / sb.block).ok_or_else(|| damaged("its inode tables"))?;
        Ok((place, usize::try_from(at % sb.block).map_err(|_| damaged("its inode tables"))?))
    }
}
