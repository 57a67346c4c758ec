//! Reading qcow2, versions 2 and 3 (docs/interop/qcow2.txt in QEMU).
//!
//! ```text
//!   header ─▶ L1 table ─▶ L2 tables ─▶ clusters: data, compressed data, zeros, nothing
//! ```
//!
//! A hostile image costs no more than an honest one of its size: every offset
//! has to lie in the file, buffers are one cluster (2 MiB at most), and no part
//! of the file is used twice, as an honest image's active tables never do;
//! without that a small file could stand for any amount of data. What needs
//! another file, or a feature that is not known here, is refused by name.

use std::fs::File;
use std::io::{self, Read};

use super::{check_size, read_up_to};

/// Up to and with the compression type.
pub(super) const LONGEST_HEADER: usize = 112;

const MAGIC: &[u8] = b"QFI\xfb";

/// As QEMU has it (block/qcow2.h: QCOW_MAX_L1_SIZE).
const LONGEST_L1: u64 = 32 << 20;

/// Bytes of tables that a quick look goes through: those of a disk of 64 GiB
/// in the usual clusters.
const QUICK: u64 = 8 << 20;

/// A frame of one cluster needs no larger window.
const LARGEST_WINDOW_LOG: u32 = 23;

/// Bits 9 to 55 of an entry of either table.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Version 3 alone.
const ZERO: u64 = 1;

const SECTOR: u64 = 512;

#[derive(Debug)]
pub(super) enum Problem {
    /// Completes "the disk image PATH …".
    Bad(String),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::Bad(why.into())
}

fn damaged(what: &str) -> Problem {
    bad(format!("is damaged or cut off: {what}; get it again"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Deflate,
    Zstd,
}

/// What a cluster of the guest's is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Zeros.
    Nothing,
    Data {
        offset: u64,
    },
    Compressed {
        offset: u64,
        length: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    version: u32,
    cluster_bits: u32,
    size: u64,
    l1_entries: u32,
    l1_offset: u64,
    compression: Compression,
}

#[derive(Debug)]
pub(super) struct Qcow2 {
    file: File,
    length: u64,
    header: Header,
    l1: Vec<u64>,
}

pub(super) fn is_qcow2(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Header {
    pub(super) fn parse(head: &[u8]) -> Result<Self, Problem> {
        let cut = || damaged("its header ends early");
        let u32_at = |at: usize| -> Result<u32, Problem> {
            let bytes = head.get(at..at + 4).ok_or_else(cut)?;
            bytes.try_into().map(u32::from_be_bytes).map_err(|_| cut())
        };
        let u64_at = |at: usize| -> Result<u64, Problem> {
            let bytes = head.get(at..at + 8).ok_or_else(cut)?;
            bytes.try_into().map(u64::from_be_bytes).map_err(|_| cut())
        };
        if !is_qcow2(head) {
            return Err(bad("is no qcow2 any more"));
        }
        let version = u32_at(4)?;
        if !(2..=3).contains(&version) {
            return Err(bad(format!("is qcow2 of version {version}, where 2 and 3 are known")));
        }
        if u64_at(8)? != 0 {
            return Err(bad("has a backing file; make it whole first: qemu-img convert -O qcow2"));
        }
        let cluster_bits = u32_at(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged("its clusters have an impossible size"));
        }
        let size = u64_at(24)?;
        check_size(size).map_err(bad)?;
        if u32_at(32)? != 0 {
            return Err(bad("is encrypted; decrypt it first: qemu-img convert"));
        }
        let compression = if version == 2 {
            Compression::Deflate
        } else {
            features(u64_at(72)?)?;
            // The field is there if the header is long enough: "compression type".
            match u32_at(100)? {
                ..=104 => Compression::Deflate,
                _ => match head.get(104).ok_or_else(cut)? {
                    0 => Compression::Deflate,
                    1 => Compression::Zstd,
                    other => return Err(bad(format!("is compressed in the unknown way {other}"))),
                },
            }
        };
        let header = Self {
            version,
            cluster_bits,
            size,
            l1_entries: u32_at(36)?,
            l1_offset: u64_at(40)?,
            compression,
        };
        if u64::from(header.l1_entries) * 8 > LONGEST_L1 {
            return Err(damaged("its table is too long"));
        }
        if u64::from(header.l1_entries) < header.l1_needed() {
            return Err(damaged("its table is shorter than its disk"));
        }
        Ok(header)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table, which is one cluster.
    fn l2_entries(&self) -> u64 {
        self.cluster() / 8
    }

    fn l1_needed(&self) -> u64 {
        self.size.div_ceil(self.cluster() * self.l2_entries())
    }
}

/// Incompatible features: "an implementation must fail to open an image if an
/// unknown bit is set".
fn features(bits: u64) -> Result<(), Problem> {
    /// 0: its reference counts, which nobody reads here, may be off.
    /// 3: the header names its compression.
    const FINE: u64 = 1 | 1 << 3;
    for (bit, why) in [
        (1, "is marked as corrupt; repair it first: qemu-img check -r all"),
        (2, "keeps its data in another file; make it whole first: qemu-img convert -O qcow2"),
        (4, "has extended L2 entries; convert it first: qemu-img convert -O qcow2"),
    ] {
        if bits & (1 << bit) != 0 {
            return Err(bad(why));
        }
    }
    match bits & !FINE {
        0 => Ok(()),
        unknown => Err(bad(format!("has unknown features ({unknown:#x}); convert it first"))),
    }
}

impl Qcow2 {
    pub(super) fn open(file: File, length: u64, head: &[u8]) -> Result<Self, Problem> {
        let header = Header::parse(head)?;
        let entries = header.l1_needed();
        let bytes = usize::try_from(entries * 8).map_err(|_| damaged("its table is too long"))?;
        let end = header.l1_offset.checked_add(entries * 8);
        if !header.l1_offset.is_multiple_of(header.cluster()) || end.is_none_or(|end| end > length)
        {
            return Err(damaged("its first table lies outside of it"));
        }
        let mut table = vec![0; bytes];
        if read_up_to(&file, &mut table, header.l1_offset)? < bytes {
            return Err(damaged("its first table ends early"));
        }
        Ok(Self { file, length, header, l1: entries_of(&table) })
    }

    pub(super) fn virtual_size(&self) -> u64 {
        self.header.size
    }

    /// Room for a cluster.
    pub(super) fn buffer(&self) -> Vec<u8> {
        vec![0; 1 << self.header.cluster_bits]
    }

    /// How much of a cluster at this offset of the guest's disk is the disk's.
    pub(super) fn within(&self, at: u64) -> usize {
        let length = self.header.cluster().min(self.header.size.saturating_sub(at));
        usize::try_from(length).unwrap_or(0)
    }

    /// Goes through the tables, if they are short enough for a quick look.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let tables = self.l1.iter().filter(|entry| **entry & OFFSET != 0).count() as u64;
        if tables * self.header.cluster() > QUICK {
            return Ok(());
        }
        let mut walk = self.walk();
        while walk.next()?.is_some() {}
        Ok(())
    }

    /// All clusters in order, but for those of absent tables.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk { image: self, next: 0, table: Vec::new(), used: 0 }
    }

    /// Fills the buffer of one cluster.
    pub(super) fn read(&self, content: Content, cluster: &mut [u8]) -> Result<(), Problem> {
        match content {
            Content::Nothing => cluster.fill(0),
            Content::Data { offset } => {
                let read = read_up_to(&self.file, cluster, offset)?;
                // As QEMU has it: a file may end within its last cluster.
                cluster[read..].fill(0);
            }
            Content::Compressed { offset, length } => {
                let length = usize::try_from(length).map_err(|_| damaged("a cluster"))?;
                let mut packed = vec![0; length];
                let read = read_up_to(&self.file, &mut packed, offset)?;
                unpack(self.header.compression, &packed[..read], cluster)
                    .map_err(|_| damaged("a compressed cluster cannot be unpacked"))?;
            }
        }
        Ok(())
    }

    fn content(&self, entry: u64) -> Result<(Content, u64), Problem> {
        let cluster = self.header.cluster();
        if entry & COMPRESSED != 0 {
            // "x = 62 - (cluster_bits - 8)": below it an offset in bytes, from
            // it on the number of further sectors.
            let x = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << x) - 1);
            let sectors = ((entry & (COMPRESSED - 1)) >> x) + 1;
            let length = sectors * SECTOR - offset % SECTOR;
            if offset >= self.length || length > 2 * cluster {
                return Err(damaged("a compressed cluster lies outside of it"));
            }
            // Neighbours share a sector; and no cluster takes no room at all.
            let room = length.saturating_sub(SECTOR).max(8);
            return Ok((Content::Compressed { offset, length }, room));
        }
        let offset = entry & OFFSET;
        if offset == 0 || self.header.version >= 3 && entry & ZERO != 0 {
            return Ok((Content::Nothing, 0));
        }
        if !offset.is_multiple_of(cluster) || offset >= self.length {
            return Err(damaged("a cluster lies outside of it"));
        }
        Ok((Content::Data { offset }, cluster))
    }
}

/// Where a walk through the tables stands.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    image: &'a Qcow2,
    /// Of the guest's clusters.
    next: u64,
    /// The L2 table of the cluster before.
    table: Vec<u64>,
    /// Bytes of the file that all this has come from.
    used: u64,
}

impl Walk<'_> {
    /// The next cluster: its offset on the guest's disk, and what it is.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Content)>, Problem> {
        let Qcow2 { header, l1, .. } = self.image;
        loop {
            let at = self.next << header.cluster_bits;
            if at >= header.size {
                return Ok(None);
            }
            let (first, second) =
                (self.next / header.l2_entries(), self.next % header.l2_entries());
            if second == 0 {
                // The table was counted against the disk's size.
                let entry = usize::try_from(first).ok().and_then(|first| l1.get(first));
                let offset = entry.copied().unwrap_or(0) & OFFSET;
                if offset == 0 {
                    self.next += header.l2_entries();
                    continue;
                }
                self.load(offset)?;
            }
            self.next += 1;
            let entry = usize::try_from(second).ok().and_then(|second| self.table.get(second));
            let (content, room) = self.image.content(entry.copied().unwrap_or(0))?;
            self.count(room)?;
            return Ok(Some((at, content)));
        }
    }

    fn load(&mut self, offset: u64) -> Result<(), Problem> {
        let Qcow2 { header, length, file, .. } = self.image;
        let cluster = header.cluster();
        let end = offset.checked_add(cluster);
        if !offset.is_multiple_of(cluster) || end.is_none_or(|end| end > *length) {
            return Err(damaged("a table lies outside of it"));
        }
        self.count(cluster)?;
        let mut bytes = self.image.buffer();
        if read_up_to(file, &mut bytes, offset)? < bytes.len() {
            return Err(damaged("a table ends early"));
        }
        self.table = entries_of(&bytes);
        Ok(())
    }

    fn count(&mut self, room: u64) -> Result<(), Problem> {
        self.used += room;
        // Its last cluster may be cut off.
        if self.used > self.image.length + self.image.header.cluster() {
            return Err(damaged("its tables use the same data twice"));
        }
        Ok(())
    }
}

fn entries_of(table: &[u8]) -> Vec<u64> {
    table
        .chunks_exact(8)
        .map(|bytes| bytes.iter().fold(0, |entry, byte| entry << 8 | u64::from(*byte)))
        .collect()
}

/// `packed` ends with the rest of a sector that may be anything.
fn unpack(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
    match compression {
        Compression::Deflate => flate2::bufread::DeflateDecoder::new(packed).read_exact(cluster),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(packed)?.single_frame();
            decoder.window_log_max(LARGEST_WINDOW_LOG)?;
            decoder.read_exact(cluster)
        }
    }
}
