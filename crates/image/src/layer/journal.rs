//! What an image's layers did to its tree, entry by entry, beside its disk: by
//! it a second image with the same lowest layers begins as a copy of the first
//! one's disk, without reading those layers again.
//!
//! ```text
//!   magic, first data block, number of layers, their diff_ids
//!   zstd:  layer { E entry }* B boundary, once for each layer
//!   flags (1 byte), SHA-256 of all before it (32 bytes)
//! ```
//! Numbers are LEB128. It is a cache: one of another version, or one whose sum
//! is wrong, is as good as none.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use inn_units::Digest;
use sha2::{Digest as _, Sha256};

use super::tar::{Entry, Kind};
use crate::ext4::{Boundary, Extent, FileData, Run, Timestamp};

/// Changes with the form, and with whatever applying a layer does.
const MAGIC: &[u8; 12] = b"inn-layers 1";
const TRAILER: u64 = 33;
const INTACT: u8 = 1;
/// An image has far fewer.
const MAX_LAYERS: u64 = 4096;
/// Longer names, values and lists than a layer can have.
const MAX_LEN: u64 = 8 << 20;

/// One entry with where its data lies, if it is a file.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) entry: Entry,
    pub(crate) kept: Option<Kept>,
}

/// A file's data that is on the disk already.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// How many bytes the layer had of it.
    pub(crate) stored: u64,
    pub(crate) data: FileData,
}

pub(crate) enum Step {
    Entry(Box<Recorded>),
    Boundary(Boundary),
}

/// Writes one, while layers are applied.
pub(crate) struct JournalWriter {
    out: zstd::Encoder<'static, Summed<io::BufWriter<File>>>,
}

impl JournalWriter {
    pub(crate) fn new(file: File, first_block: u64, diff_ids: &[Digest]) -> io::Result<Self> {
        let mut out = Summed { inner: io::BufWriter::new(file), sum: Sha256::new() };
        out.write_all(MAGIC)?;
        put_number(&mut out, first_block)?;
        put_number(&mut out, diff_ids.len() as u64)?;
        for id in diff_ids {
            out.write_all(id.as_bytes())?;
        }
        Ok(Self { out: zstd::Encoder::new(out, 1)? })
    }

    pub(crate) fn entry(&mut self, entry: &Entry, kept: Option<&Kept>) -> io::Result<()> {
        let out = &mut self.out;
        out.write_all(b"E")?;
        out.write_all(&[kind_code(entry.kind)])?;
        put_bytes(out, &entry.name)?;
        put_bytes(out, &entry.link)?;
        for number in [entry.mode, entry.uid, entry.gid] {
            put_number(out, number)?;
        }
        out.write_all(&entry.mtime.secs.to_le_bytes())?;
        put_number(out, u64::from(entry.mtime.nanos))?;
        put_number(out, entry.device.0)?;
        put_number(out, entry.device.1)?;
        put_number(out, entry.xattrs.len() as u64)?;
        for (name, value) in &entry.xattrs {
            put_bytes(out, name)?;
            put_bytes(out, value)?;
        }
        let Some(kept) = kept else { return out.write_all(&[0]) };
        out.write_all(&[1])?;
        put_number(out, kept.stored)?;
        put_number(out, kept.data.size)?;
        put_number(out, kept.data.extents.len() as u64)?;
        for extent in &kept.data.extents {
            put_number(out, u64::from(extent.logical))?;
            put_run(out, extent.run)?;
        }
        Ok(())
    }

    pub(crate) fn boundary(&mut self, boundary: &Boundary) -> io::Result<()> {
        let out = &mut self.out;
        out.write_all(b"B")?;
        put_number(out, boundary.end)?;
        for runs in [&boundary.holes, &boundary.retired] {
            put_number(out, runs.len() as u64)?;
            runs.iter().try_for_each(|&run| put_run(out, run))?;
        }
        Ok(())
    }

    /// `is_intact` says that a part of the layers can be copied, too.
    pub(crate) fn finish(self, is_intact: bool) -> io::Result<()> {
        let mut out = self.out.finish()?;
        out.write_all(&[if is_intact { INTACT } else { 0 }])?;
        let sum = out.sum.finalize();
        out.inner.write_all(&sum)?;
        out.inner.flush()
    }
}

/// Reads one, from the lowest layer on.
pub(crate) struct JournalReader {
    from: BufReader<zstd::Decoder<'static, BufReader<io::Take<File>>>>,
}

/// The layers that a journal has, if it is whole.
#[derive(Debug)]
pub(crate) struct JournalHead {
    pub(crate) first_block: u64,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) is_intact: bool,
    file: File,
    body: u64,
    end: u64,
}

impl JournalHead {
    /// `None` where there is none that this version can read. What it says is
    /// not checked before [`JournalHead::verified`].
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let Some(end) = file.metadata()?.len().checked_sub(TRAILER) else { return Ok(None) };
        let mut from = BufReader::new(file);
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Ok(None);
        }
        let first_block = number(&mut from)?;
        let count = number(&mut from)?;
        if count > MAX_LAYERS {
            return Ok(None);
        }
        let mut diff_ids = Vec::new();
        for _ in 0..count {
            let mut id = [0; 32];
            from.read_exact(&mut id)?;
            diff_ids.push(Digest::from_sha256(id));
        }
        let body = from.stream_position()?;
        let mut file = from.into_inner();
        file.seek(SeekFrom::Start(end))?;
        let mut flags = [0];
        file.read_exact(&mut flags)?;
        let is_intact = flags[0] & INTACT != 0;
        Ok(Some(Self { first_block, diff_ids, is_intact, file, body, end }))
    }

    /// How many of an image's lowest layers can be copied by it.
    pub(crate) fn shared(&self, diff_ids: &[Digest]) -> usize {
        let pairs = self.diff_ids.iter().zip(diff_ids);
        let same = pairs.take_while(|(ours, theirs)| ours == theirs).count();
        if self.is_intact || same == self.diff_ids.len() { same } else { 0 }
    }

    /// Checks the sum; `None` when it is wrong.
    pub(crate) fn verified(mut self) -> io::Result<Option<JournalReader>> {
        self.file.rewind()?;
        let mut hash = Sha256::new();
        let mut summed = (&mut self.file).take(self.end + 1);
        io::copy(&mut summed, &mut Hashing(&mut hash))?;
        let mut sum = [0; 32];
        self.file.read_exact(&mut sum)?;
        if hash.finalize()[..] != sum {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(self.body))?;
        let body = self.file.take(self.end - self.body);
        let decoder = zstd::Decoder::with_buffer(BufReader::new(body))?;
        Ok(Some(JournalReader { from: BufReader::new(decoder) }))
    }
}

impl JournalReader {
    pub(crate) fn next_step(&mut self) -> io::Result<Step> {
        let from = &mut self.from;
        match byte(from)? {
            b'B' => {
                let end = number(from)?;
                let (holes, retired) = (runs(from)?, runs(from)?);
                Ok(Step::Boundary(Boundary { end, holes, retired }))
            }
            b'E' => {
                let kind = kind_of(byte(from)?)?;
                let (name, link) = (bytes(from)?, bytes(from)?);
                let (mode, uid, gid) = (number(from)?, number(from)?, number(from)?);
                let mut secs = [0; 8];
                from.read_exact(&mut secs)?;
                let secs = i64::from_le_bytes(secs);
                let nanos = u32::try_from(number(from)?).map_err(|_| damaged())?;
                let device = (number(from)?, number(from)?);
                let mut xattrs = Vec::new();
                for _ in 0..length(from)? {
                    xattrs.push((bytes(from)?, bytes(from)?));
                }
                let kept = match byte(from)? {
                    0 => None,
                    _ => Some(kept(from)?),
                };
                let mtime = Timestamp { secs, nanos };
                let entry = Entry {
                    kind,
                    link,
                    size: 0,
                    mode,
                    uid,
                    gid,
                    mtime,
                    device,
                    xattrs,
                    sparse: None,
                    offset: 0,
                    name,
                };
                Ok(Step::Entry(Box::new(Recorded { entry, kept })))
            }
            _ => Err(damaged()),
        }
    }
}

fn kept(from: &mut impl BufRead) -> io::Result<Kept> {
    let (stored, size) = (number(from)?, number(from)?);
    let mut extents = Vec::new();
    for _ in 0..length(from)? {
        let logical = u32::try_from(number(from)?).map_err(|_| damaged())?;
        extents.push(Extent { logical, run: run(from)? });
    }
    Ok(Kept { stored, data: FileData { size, extents } })
}

fn runs(from: &mut impl BufRead) -> io::Result<Vec<Run>> {
    (0..length(from)?).map(|_| run(from)).collect()
}

fn run(from: &mut impl BufRead) -> io::Result<Run> {
    Ok(Run { start: number(from)?, len: number(from)? })
}

fn bytes(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length(from)?).map_err(|_| damaged())?];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn length(from: &mut impl BufRead) -> io::Result<u64> {
    Some(number(from)?).filter(|&n| n <= MAX_LEN).ok_or_else(damaged)
}

fn number(from: &mut impl BufRead) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn byte(from: &mut impl BufRead) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the journal of a root disk is damaged")
}

fn put_number(out: &mut impl Write, mut number: u64) -> io::Result<()> {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            return out.write_all(&[low]);
        }
        out.write_all(&[low | 0x80])?;
    }
}

fn put_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    put_number(out, bytes.len() as u64)?;
    out.write_all(bytes)
}

fn put_run(out: &mut impl Write, run: Run) -> io::Result<()> {
    put_number(out, run.start)?;
    put_number(out, run.len)
}

const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::HardLink,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::BlockDevice,
    Kind::Dir,
    Kind::Fifo,
];

fn kind_code(kind: Kind) -> u8 {
    let at = KINDS.iter().position(|&one| one == kind).expect("all kinds are listed");
    u8::try_from(at).expect("there are seven")
}

fn kind_of(code: u8) -> io::Result<Kind> {
    KINDS.get(usize::from(code)).copied().ok_or_else(damaged)
}

/// Hashes what is written through it.
struct Summed<W> {
    inner: W,
    sum: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
