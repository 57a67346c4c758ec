//! Documentation/filesystems/ext4, "Extended Attributes"; fs/ext4/xattr.h.

use std::collections::BTreeMap;

use super::inode::Inode;
use super::{Fields, ReadError, Volume, damaged};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

/// Values by full names, access lists as system calls have them.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl Volume {
    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<Xattrs, ReadError> {
        let wrong = |why: &str| damaged(format!("the attributes of inode {} {why}", inode.number));
        let mut all = Xattrs::new();
        if inode.rest.len() >= 4 && inode.rest.u32_at(0) == MAGIC {
            // Values are found from the first entry on.
            entries(&inode.rest[4..], 0, &mut all).map_err(wrong)?;
        }
        if inode.xattr_block != 0 {
            let block = self.block(inode.xattr_block)?;
            if block.u32_at(0) != MAGIC || block.u32_at(8) != 1 {
                return Err(wrong("have a strange block"));
            }
            entries(&block, BLOCK_HEADER, &mut all).map_err(wrong)?;
        }
        Ok(all)
    }
}

fn entries(area: &[u8], first: usize, all: &mut Xattrs) -> Result<(), &'static str> {
    let mut at = first;
    while at + 4 <= area.len() && area.u32_at(at) != 0 {
        let entry = &area[at..];
        if entry.len() < ENTRY {
            return Err("end too early");
        }
        let [name_len, space] = entry.bytes_at::<2>(0);
        let (offset, size) = (usize::from(entry.u16_at(2)), entry.u32_at(8));
        if entry.u32_at(4) != 0 {
            return Err("are in inodes of their own, which is not read here");
        }
        let name = entry.get(ENTRY..ENTRY + usize::from(name_len)).ok_or("have a long name")?;
        let size = usize::try_from(size).map_err(|_| "have a long value")?;
        let value = match size {
            0 => &[][..],
            _ => area
                .get(offset..offset.saturating_add(size))
                .ok_or("have a value outside of their place")?,
        };
        let prefix: &[u8] = match space {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            // What the kernel keeps for itself is no attribute of the file's.
            _ => b"",
        };
        if !prefix.is_empty() && !name.contains(&0) {
            let value = match space {
                2 | 3 => given_acl(value).ok_or("have a strange access list")?,
                _ => value.to_vec(),
            };
            all.insert([prefix, name].concat(), value);
        }
        at += (ENTRY + usize::from(name_len)).next_multiple_of(4);
    }
    Ok(())
}

/// fs/ext4/acl.h: version 1 with an id only where the entry has one, into what
/// getxattr(2) gives: version 2 with one in each.
fn given_acl(stored: &[u8]) -> Option<Vec<u8>> {
    let (version, mut rest) = stored.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 1 {
        return None;
    }
    let mut out = 2u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (entry, after) = rest.split_first_chunk::<4>()?;
        out.extend_from_slice(entry);
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == ACL_USER || tag == ACL_GROUP {
            let (id, after) = after.split_first_chunk::<4>()?;
            out.extend_from_slice(id);
            rest = after;
        } else {
            out.extend_from_slice(&u32::MAX.to_le_bytes());
            rest = after;
        }
    }
    Some(out)
}
