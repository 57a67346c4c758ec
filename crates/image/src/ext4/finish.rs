//! The end of an image: everything that describes the data.

use std::collections::BTreeMap;

use super::alloc::Run;
use super::dir::{DirBlocks, EntryType};
use super::extent;
use super::layout::{
    BLOCK, BLOCK_BYTES, BLOCKS_PER_GROUP, EXTRA_ISIZE, FIRST_INODE, FLAG_EXTENTS, Geometry,
    GroupDescriptor, INODE_BYTES, INODE_XATTR_AT, INODES_PER_BLOCK, Identity, LINK_MAX, ROOT_INODE,
    Record, descriptor_blocks, halves, halves16, super_block,
};
use super::tree::{Attr, Content, FileData, NodeId, Timestamp, Tree};
use super::{Ext4Builder, Ext4Error, xattr};

/// Longest target that fits into an inode's `i_block` with its final NUL.
const FAST_SYMLINK: usize = 59;

/// Data begins behind the super block and room for the descriptors of as
/// many groups as the limit allows.
pub(super) fn first_data_block(limit: u64) -> u64 {
    1 + descriptor_blocks(limit.div_ceil(BLOCKS_PER_GROUP))
}

/// What of files that higher layers removed may stay on a disk, for other
/// images to be copied from: a package list and the like in each layer, not
/// whole toolchains.
const MAX_RETIRED: u64 = 128 << 20;

/// A complete image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    /// Whether what each layer brought is still there, also where a higher one
    /// removed it.
    pub(crate) is_intact: bool,
}

/// What an inode needs besides its attributes: where its content is.
struct Placed {
    i_block: [u8; 60],
    /// Beside those of its data, as a directory always has.
    took_blocks: bool,
    size: u64,
    flags: u32,
    /// All blocks that it owns.
    blocks: u64,
    xattr_block: u64,
    links: u32,
    file_type: EntryType,
}

/// All inodes in their order.
struct Inodes {
    order: Vec<(NodeId, NodeId)>,
    inode_of: Vec<u32>,
    /// Those that blocks were taken for, by their place in the order.
    apart: BTreeMap<usize, Placed>,
}

impl Ext4Builder {
    /// Completes the image, durably.
    pub(crate) fn finish(mut self, identity: &Identity) -> Result<Finished, Ext4Error> {
        let order = numbered(&self.tree);
        let mut inode_of = vec![0u32; self.tree.slots()];
        for (i, &(id, _)) in order.iter().enumerate() {
            inode_of[id.index()] = inode_number(i)?;
        }
        // Most files need no block but those of their data: what is known of
        // them is found again when it is written, and takes no memory until then.
        let mut apart = BTreeMap::new();
        for (i, &(id, parent)) in order.iter().enumerate() {
            let placed = self.place(id, parent, &inode_of)?;
            if placed.took_blocks {
                apart.insert(i, placed);
            }
        }
        let inodes = Inodes { order, inode_of, apart };
        self.write_metadata(&inodes, identity)
    }

    /// Writes what of an inode lies in blocks of its own.
    fn place(&mut self, id: NodeId, parent: NodeId, inode_of: &[u32]) -> Result<Placed, Ext4Error> {
        let node = self.tree.node(id);
        let file_type = entry_type(&node.content);
        let mut placed = Placed {
            i_block: [0; 60],
            took_blocks: false,
            size: 0,
            flags: 0,
            blocks: 0,
            xattr_block: 0,
            links: node.links,
            file_type,
        };
        let xattrs = xattr::encode(&node.attr.xattrs)
            .ok_or_else(|| Ext4Error::XattrsTooLarge(path_of(&self.tree, id)))?;
        match node.content.clone() {
            Content::Dir => {
                let (bytes, subdirs) = self.directory(id, parent, inode_of);
                placed.links = if 2 + subdirs > LINK_MAX { 1 } else { 2 + subdirs };
                self.place_bytes(&mut placed, &bytes)?;
            }
            Content::File(data) => self.place_extents(&mut placed, &data)?,
            Content::Symlink(target) if target.len() <= FAST_SYMLINK => {
                placed.i_block[..target.len()].copy_from_slice(&target);
                placed.size = target.len() as u64;
            }
            Content::Symlink(target) => {
                self.place_bytes(&mut placed, &target)?;
            }
            Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } => {
                placed.i_block = device(major, minor);
            }
            Content::Fifo | Content::Socket => {}
        }
        if let Some(block) = xattrs.block {
            let run = self.take(1)?;
            self.sink.write(run.start * BLOCK, &block[..])?;
            placed.xattr_block = run.start;
            placed.took_blocks = true;
            placed.blocks += 1;
        }
        Ok(placed)
    }

    fn place_bytes(&mut self, placed: &mut Placed, bytes: &[u8]) -> Result<(), Ext4Error> {
        let mut data = bytes;
        placed.took_blocks = true;
        let stored = self.store(bytes.len() as u64, &mut data)?;
        self.place_extents(placed, &stored)
    }

    fn place_extents(&mut self, placed: &mut Placed, data: &FileData) -> Result<(), Ext4Error> {
        let (root, index) = extent::build(&data.extents, &mut |block| {
            let run = self.take(1)?;
            self.sink.write(run.start * BLOCK, block)?;
            Ok(run.start)
        })?;
        placed.i_block = root;
        placed.flags = FLAG_EXTENTS;
        placed.size = data.size;
        placed.took_blocks |= index > 0;
        placed.blocks += index + data.extents.iter().map(|extent| extent.run.len).sum::<u64>();
        Ok(())
    }

    /// A directory's blocks and how many directories are in it.
    fn directory(&self, id: NodeId, parent: NodeId, inode_of: &[u32]) -> (Vec<u8>, u32) {
        let mut blocks = DirBlocks::default();
        let mut subdirs = 0;
        blocks.push(inode_of[id.index()], EntryType::Dir, b".");
        blocks.push(inode_of[parent.index()], EntryType::Dir, b"..");
        for (name, entry) in self.tree.node(id).names.iter() {
            let kind = entry_type(&self.tree.node(entry.node).content);
            subdirs += u32::from(kind == EntryType::Dir);
            blocks.push(inode_of[entry.node.index()], kind, name);
        }
        (blocks.finish(), subdirs)
    }

    fn write_metadata(mut self, all: &Inodes, identity: &Identity) -> Result<Finished, Ext4Error> {
        let inodes = u64::from(FIRST_INODE) - 1 + all.order.len() as u64 - 1;
        let used_end = self.blocks.end();
        let (groups, inodes_per_group, blocks) = shape(used_end, inodes);
        if blocks > self.limit {
            return Err(Ext4Error::Full);
        }
        let table_blocks = inodes_per_group / INODES_PER_BLOCK;
        let table = used_end;
        let block_bitmaps = table + groups * table_blocks;
        let inode_bitmaps = block_bitmaps + groups;

        let mut free: Vec<Run> = self.blocks.holes().collect();
        // Old data is nobody's to read, and the tables count on zeros.
        for run in free.iter().copied().chain([self.blocks.behind()]) {
            self.sink.erase(run)?;
        }
        let retired = self.tree.retired().to_vec();
        let bytes_kept = retired.iter().map(|run| run.len * BLOCK).sum::<u64>();
        let is_intact = bytes_kept <= MAX_RETIRED;
        if !is_intact {
            for &run in &retired {
                self.sink.erase(run)?;
            }
        }
        free.extend(retired);
        let described = 1 + descriptor_blocks(groups);
        free.push(Run { start: described, len: first_data_block(self.limit) - described });
        free.push(Run { start: inode_bitmaps + groups, len: blocks - inode_bitmaps - groups });

        self.write_inodes(table, all)?;
        let block_map = bitmap(groups, BLOCKS_PER_GROUP, |map| {
            map.bytes.fill(0xff); // also what lies behind the last block
            free.iter().for_each(|run| map.clear(run.start..run.start + run.len));
        });
        self.sink.write(block_bitmaps * BLOCK, &block_map.bytes)?;
        let inode_map = bitmap(groups, inodes_per_group, |map| map.set(0..inodes));
        self.sink.write(inode_bitmaps * BLOCK, &inode_map.bytes)?;

        let mut directories = vec![0u16; usize::try_from(groups).map_err(|_| Ext4Error::Full)?];
        for (i, inode) in &all.apart {
            if inode.file_type == EntryType::Dir {
                let group = u64::from(inode_number(*i)? - 1) / inodes_per_group;
                directories[usize::try_from(group).expect("below the number of groups")] += 1;
            }
        }
        let mut table_of_groups = Vec::new();
        let mut free_blocks = 0;
        let mut free_inodes = 0;
        for (group, directories) in (0u64..).zip(directories) {
            let in_group = BLOCKS_PER_GROUP.min(blocks - group * BLOCKS_PER_GROUP);
            let descriptor = GroupDescriptor {
                block_bitmap: block_bitmaps + group,
                inode_bitmap: inode_bitmaps + group,
                inode_table: table + group * table_blocks,
                free_blocks: block_map.zeros(group, in_group),
                free_inodes: inode_map.zeros(group, inodes_per_group),
                directories,
            };
            free_blocks += u64::from(descriptor.free_blocks);
            free_inodes += u64::from(descriptor.free_inodes);
            table_of_groups.extend_from_slice(&descriptor.encode());
        }
        let geometry = Geometry { blocks, groups, inodes_per_group, free_blocks, free_inodes };
        self.sink.write(1024, &super_block(&geometry, identity))?;
        self.sink.write(BLOCK, &table_of_groups)?;
        let bytes = blocks * BLOCK;
        self.sink.finish(bytes)?;
        Ok(Finished { is_intact })
    }

    fn write_inodes(&mut self, table: u64, all: &Inodes) -> Result<(), Ext4Error> {
        for (i, &(id, parent)) in all.order.iter().enumerate() {
            let bytes = match all.apart.get(&i) {
                Some(placed) => encode_inode(placed, &self.tree.node(id).attr),
                None => {
                    let placed = self.place(id, parent, &all.inode_of)?;
                    encode_inode(&placed, &self.tree.node(id).attr)
                }
            };
            let slot = u64::from(inode_number(i)? - 1);
            self.sink.write(table * BLOCK + slot * INODE_BYTES as u64, &bytes)?;
        }
        Ok(())
    }
}

/// The inode number of the n-th in order: the root first, then those that
/// are not reserved.
fn inode_number(index: usize) -> Result<u32, Ext4Error> {
    match index {
        0 => Ok(ROOT_INODE),
        n => u32::try_from(n - 1)
            .ok()
            .and_then(|n| n.checked_add(FIRST_INODE))
            .ok_or(Ext4Error::Full),
    }
}

/// All inodes, each once, with the directory where it was met: a directory's
/// own entries stand together, as a listing that stats them will ask.
fn numbered(tree: &Tree) -> Vec<(NodeId, NodeId)> {
    let mut seen = vec![false; tree.slots()];
    let mut order = vec![(Tree::ROOT, Tree::ROOT)];
    let mut dirs = vec![Tree::ROOT];
    seen[Tree::ROOT.index()] = true;
    while let Some(dir) = dirs.pop() {
        let mut below = Vec::new();
        for (_, entry) in tree.node(dir).names.iter() {
            if !std::mem::replace(&mut seen[entry.node.index()], true) {
                order.push((entry.node, dir));
                if tree.is_dir(entry.node) {
                    below.push(entry.node);
                }
            }
        }
        dirs.extend(below.into_iter().rev());
    }
    order
}

/// Groups, inodes per group and blocks in all, for data that ends at `end`.
/// The tables are part of what the groups have to hold, hence the loop; it
/// only ever grows.
fn shape(end: u64, inodes: u64) -> (u64, u64, u64) {
    let mut groups = 1;
    loop {
        let per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
        if per_group > BLOCKS_PER_GROUP {
            groups += 1; // one block of bitmap counts no more inodes
            continue;
        }
        let metadata = groups * (2 + per_group / INODES_PER_BLOCK);
        let blocks = (end + metadata).max((groups - 1) * BLOCKS_PER_GROUP + 1);
        let needed = blocks.div_ceil(BLOCKS_PER_GROUP);
        if needed <= groups {
            return (groups, per_group, blocks);
        }
        groups = needed;
    }
}

fn encode_inode(placed: &Placed, attr: &Attr) -> [u8; INODE_BYTES] {
    let mut bytes = [0u8; INODE_BYTES];
    let mut inode = Record(&mut bytes);
    let (uid, uid_high) = halves16(attr.uid);
    let (gid, gid_high) = halves16(attr.gid);
    let (size, size_high) = halves(placed.size);
    let (sectors, sectors_high) = halves(placed.blocks * (BLOCK / 512));
    let (seconds, extra) = encode_time(attr.mtime);
    inode.u16(0, type_bits(placed.file_type) | (attr.mode & 0o7777));
    inode.u16(2, uid);
    inode.u32(4, size);
    inode.u32(8, seconds); // accessed
    inode.u32(12, seconds); // changed
    inode.u32(16, seconds); // modified
    inode.u16(24, gid);
    inode.u16(26, u16::try_from(placed.links).expect("links are at most 65,000"));
    inode.u32(28, sectors);
    inode.u32(32, placed.flags);
    inode.bytes(40, &placed.i_block);
    inode.u32(104, halves(placed.xattr_block).0);
    inode.u32(108, size_high);
    inode.u16(116, halves16(sectors_high).0);
    inode.u16(120, uid_high);
    inode.u16(122, gid_high);
    inode.u16(128, EXTRA_ISIZE);
    inode.u32(132, extra); // changed
    inode.u32(136, extra); // modified
    inode.u32(140, extra); // accessed
    inode.u32(144, seconds); // created
    inode.u32(148, extra);
    let xattrs = xattr::encode(&attr.xattrs).expect("they were encoded before");
    inode.bytes(INODE_XATTR_AT, &xattrs.inode);
    bytes
}

/// 34 bits of seconds from 1901 on and 30 of nanoseconds
/// (Documentation/filesystems/ext4, "Inode Timestamps").
fn encode_time(time: Timestamp) -> (u32, u32) {
    let low = i64::from(i32::MIN);
    let secs = time.secs.clamp(low, low + (1 << 34) - 1);
    let seconds = u32::from_le_bytes(secs.to_le_bytes()[..4].try_into().expect("four of eight"));
    let epoch = (secs - low) >> 32;
    let epoch = u32::try_from(epoch & 3).expect("two bits");
    (seconds, epoch | (time.nanos.min(999_999_999) << 2))
}

/// `old_encode_dev` and `new_encode_dev` of the kernel's linux/kdev_t.h.
fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut i_block = [0u8; 60];
    let mut record = Record(&mut i_block);
    if major < 256 && minor < 256 {
        record.u32(0, (major << 8) | minor);
    } else {
        record.u32(4, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12));
    }
    i_block
}

fn entry_type(content: &Content) -> EntryType {
    match content {
        Content::Dir => EntryType::Dir,
        Content::File(_) => EntryType::File,
        Content::Symlink(_) => EntryType::Symlink,
        Content::CharDevice { .. } => EntryType::CharDevice,
        Content::BlockDevice { .. } => EntryType::BlockDevice,
        Content::Fifo => EntryType::Fifo,
        Content::Socket => EntryType::Socket,
    }
}

fn type_bits(file_type: EntryType) -> u16 {
    match file_type {
        EntryType::Fifo => 0o010_000,
        EntryType::CharDevice => 0o020_000,
        EntryType::Dir => 0o040_000,
        EntryType::BlockDevice => 0o060_000,
        EntryType::File => 0o100_000,
        EntryType::Symlink => 0o120_000,
        EntryType::Socket => 0o140_000,
    }
}

/// A path of an inode, for a message.
fn path_of(tree: &Tree, wanted: NodeId) -> String {
    let mut parts = Vec::new();
    let mut at = wanted;
    let parents = numbered(tree);
    while at != Tree::ROOT {
        let Some(&(_, parent)) = parents.iter().find(|(id, _)| *id == at) else { break };
        let names = &tree.node(parent).names;
        let name = names.iter().find(|(_, entry)| entry.node == at).map(|(name, _)| name);
        parts.push(String::from_utf8_lossy(name.unwrap_or_default()).into_owned());
        at = parent;
    }
    parts.reverse();
    crate::error::shown(parts.join("/").as_bytes())
}

/// Bitmaps of all groups, one block each. `per_group` counts of each block
/// are in use; the rest is padding and has to be set.
struct Bitmap {
    bytes: Vec<u8>,
    per_group: u64,
}

fn bitmap(groups: u64, per_group: u64, fill: impl FnOnce(&mut Bitmap)) -> Bitmap {
    let bytes = usize::try_from(groups).expect("groups are few") * BLOCK_BYTES;
    let mut map = Bitmap { bytes: vec![0; bytes], per_group };
    fill(&mut map);
    for group in 0..groups {
        for bit in per_group..BLOCKS_PER_GROUP {
            map.put(group * BLOCKS_PER_GROUP + bit, true);
        }
    }
    map
}

impl Bitmap {
    fn set(&mut self, range: std::ops::Range<u64>) {
        range.for_each(|n| self.put(self.place(n), true));
    }

    fn clear(&mut self, range: std::ops::Range<u64>) {
        range.for_each(|n| self.put(self.place(n), false));
    }

    /// The bit of the n-th thing.
    fn place(&self, n: u64) -> u64 {
        n / self.per_group * BLOCKS_PER_GROUP + n % self.per_group
    }

    fn put(&mut self, bit: u64, value: bool) {
        let byte = &mut self.bytes[usize::try_from(bit / 8).expect("within the bitmap")];
        let mask = 1u8 << (bit % 8);
        *byte = if value { *byte | mask } else { *byte & !mask };
    }

    /// Unset bits among the first `count` of a group.
    fn zeros(&self, group: u64, count: u64) -> u16 {
        let from = group * BLOCKS_PER_GROUP;
        let free = (from..from + count).filter(|bit| {
            let byte = self.bytes[usize::try_from(bit / 8).expect("within the bitmap")];
            byte & (1 << (bit % 8)) == 0
        });
        u16::try_from(free.count()).expect("a group has 32,768 blocks")
    }
}
