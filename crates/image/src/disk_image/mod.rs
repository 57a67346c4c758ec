//! Disk images that boot by themselves: what a full VM is made from.
//!
//! ```text
//!   inspect ── header ──▶ ImageFormat, size       (and whether its tables make sense)
//!   copy_to ── SHA-256 ──▶ NAME.new, sparse ──▶ grown ──▶ on the disk ──▶ NAME
//! ```
//!
//! An image comes from anywhere and is believed nothing: it is read by our own
//! code (`qcow2`), never opened by what would follow the names in its header,
//! and what a VM gets is a raw copy of its own.

mod cache;
pub mod checksum;
mod partitions;
mod qcow2;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_units::{Architecture, Bytes, Digest};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::error::free_bytes;
use crate::watch::{ImportProgress, ImportStep, ImportWatch};
pub use cache::{CachedDisk, DiskImages, Fetched, Partial, PartialRecord};
use qcow2::{Content, Qcow2};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskInfo {
    pub format: ImageFormat,
    /// What the guest sees of it.
    pub virtual_size: Bytes,
    /// What its system is for, where its partitions say so.
    pub architecture: Option<Architecture>,
}

/// What is wrong with an image, or with its copy. Every sentence names the
/// file; the source is never repeated in it.
#[derive(Debug, thiserror::Error)]
pub enum DiskImageError {
    /// It is no disk image, is damaged, or wants what it cannot have.
    #[error("the disk image {} {why}", path.display())]
    Invalid { path: PathBuf, why: String },
    #[error(
        "the disk image {} has the digest {got} where {expected} was expected; it is damaged or is another one, get it again",
        path.display()
    )]
    DigestMismatch { path: PathBuf, expected: Digest, got: Digest },
    #[error("the file system of {} is full{}; free some space there", path.display(), free.map(|free| format!(" ({free} free)")).unwrap_or_default())]
    DiskFull { path: PathBuf, free: Option<Bytes> },
    #[error("the copy of the disk image was cancelled")]
    Cancelled,
    #[error("cannot {step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// As the smallest unit that a disk is read in.
const SECTOR: u64 = 512;

/// What is read, hashed and looked at for zeros at a time.
const CHUNK: usize = 256 << 10;

/// What the kernel copies at a time: between two, the copy can be given up.
const EXTENT: usize = 16 << 20;

/// ext4's and the page cache's: what a hole is made of.
const BLOCK: usize = 4096;

/// Beyond what any host has and ext4 can hold in one file.
const LARGEST: u64 = 16 << 40;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Formats that are not taken, by what their files begin with: as a raw disk
/// none of them would boot.
const OTHERS: [(&[u8], &str); 9] = [
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"QED\0", "QED"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
];

/// Looks at an image's header, and at its tables where that is quick. Opens
/// nothing that they name.
pub fn inspect(path: &Path) -> Result<DiskInfo, DiskImageError> {
    let (file, length) = open(path)?;
    let mut head = [0; qcow2::LONGEST_HEADER];
    let read = read_up_to(&file, &mut head, 0).map_err(io_error("read", path))?;
    let head = &head[..read];
    let refused = |why: String| invalid(path, why);
    if qcow2::is_qcow2(head) {
        let image = Qcow2::open(file, length, head).map_err(refuse(path))?;
        image.check().map_err(refuse(path))?;
        let virtual_size = Bytes(image.virtual_size());
        let architecture = partitions::architecture(&head_of(&image));
        return Ok(DiskInfo { format: ImageFormat::Qcow2, virtual_size, architecture });
    }
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(refused(format!(
            "is {name}; convert it first: qemu-img convert -O qcow2, or unpack it (`inn image pull` does)"
        )));
    }
    check_size(length).map_err(refused)?;
    let mut head = vec![0; partitions::HEAD];
    let read = read_up_to(&file, &mut head, 0).map_err(io_error("read", path))?;
    let architecture = partitions::architecture(&head[..read]);
    Ok(DiskInfo { format: ImageFormat::Raw, virtual_size: Bytes(length), architecture })
}

/// Where a disk has its partitions, as far as that can be read: what cannot is
/// the copy's to say.
fn head_of(image: &Qcow2) -> Vec<u8> {
    let mut head = vec![0; partitions::HEAD];
    let (mut cluster, mut walk) = (image.buffer(), image.walk());
    while let Ok(Some((at, content))) = walk.next() {
        let Some(rest) = usize::try_from(at).ok().and_then(|at| head.get_mut(at..)) else { break };
        if content != Content::Nothing && image.read(content, &mut cluster).is_ok() {
            let length = rest.len().min(image.within(at));
            rest[..length].copy_from_slice(&cluster[..length]);
        }
    }
    head
}

/// Makes a raw disk of `size` from an image, for its owner's eyes only. It
/// appears whole or not at all. With a digest the file's bytes must have it.
/// Blocking, and as long as the disk is slow.
pub fn copy_to(
    source: &Path,
    format: ImageFormat,
    digest: Option<&Digest>,
    target: &Path,
    size: Bytes,
    watch: &dyn ImportWatch,
) -> Result<(), DiskImageError> {
    let (file, length) = open(source)?;
    let before = stamp(&file).map_err(io_error("look at", source))?;
    let fresh = Fresh::create(target)?;
    let copy = Copy { source, watch, fresh, sparse: false, done: 0, total: length };
    fail_point(Point::ImageCopyBegun);
    let finished = copy.run(file, length, format, digest, size)?;
    // What was read under the digest is what is kept, if nobody wrote to it.
    let after = File::open(source).and_then(|file| stamp(&file));
    if after.map_err(io_error("look at", source))? != before {
        return Err(invalid(source, "was changed while it was copied; try again".to_owned()));
    }
    finished.keep()
}

/// The same of a raw disk of this cache's, which is sparse as it is: by
/// reference where the file system shares blocks, else by the kernel.
pub fn clone_to(
    source: &Path,
    target: &Path,
    size: Bytes,
    watch: &dyn ImportWatch,
) -> Result<(), DiskImageError> {
    let (file, length) = open(source)?;
    let fresh = Fresh::create(target)?;
    let copy = Copy { source, watch, fresh, sparse: true, done: 0, total: length };
    fail_point(Point::ImageCopyBegun);
    copy.run(file, length, ImageFormat::Raw, None, size)?.keep()
}

/// One copy under way.
struct Copy<'a> {
    source: &'a Path,
    watch: &'a dyn ImportWatch,
    fresh: Fresh<'a>,
    /// The source has no zeros in it that could be holes.
    sparse: bool,
    done: u64,
    total: u64,
}

impl<'a> Copy<'a> {
    fn run(
        mut self,
        file: File,
        length: u64,
        format: ImageFormat,
        digest: Option<&Digest>,
        size: Bytes,
    ) -> Result<Fresh<'a>, DiskImageError> {
        let virtual_size = match format {
            ImageFormat::Raw => {
                check_size(length).map_err(|why| invalid(self.source, why))?;
                self.fits(length, size)?;
                self.copy_raw(&file, length, digest)?;
                length
            }
            ImageFormat::Qcow2 => {
                let mut head = [0; qcow2::LONGEST_HEADER];
                let read =
                    read_up_to(&file, &mut head, 0).map_err(io_error("read", self.source))?;
                if let Some(digest) = digest {
                    self.verify(&file, length, digest)?;
                }
                let image =
                    Qcow2::open(file, length, &head[..read]).map_err(refuse(self.source))?;
                let virtual_size = image.virtual_size();
                self.fits(virtual_size, size)?;
                self.copy_qcow2(&image)?;
                virtual_size
            }
        };
        self.fresh.grow(size.get().max(virtual_size))?;
        self.step(ImportStep::Finishing, 0)?;
        Ok(self.fresh)
    }

    fn fits(&self, virtual_size: u64, size: Bytes) -> Result<(), DiskImageError> {
        if virtual_size <= size.get() {
            return Ok(());
        }
        let why = format!("has {}, which is more than the disk of {size}", Bytes(virtual_size));
        Err(invalid(self.source, why))
    }

    /// Hashes what it copies; without a digest it passes over holes.
    fn copy_raw(
        &mut self,
        file: &File,
        length: u64,
        digest: Option<&Digest>,
    ) -> Result<(), DiskImageError> {
        let fail = io_error("read", self.source);
        if self.sparse && rustix::fs::ioctl_ficlone(&self.fresh.file, file).is_ok() {
            // All of it, at no cost, where the file system can share blocks.
            return Ok(());
        }
        let mut hash = digest.map(|_| Sha256::new());
        let mut by_kernel = self.sparse;
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while at < length {
            if hash.is_none() {
                at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                    Ok(data) => data - data % BLOCK as u64,
                    // Only a hole is left.
                    Err(Errno::NXIO) => break,
                    // A file system that knows of no holes.
                    Err(_) => at,
                };
            }
            if by_kernel {
                match self.copy_extent(file, at, length) {
                    Ok(copied) if copied > at => {
                        at = copied;
                        self.done = at;
                        self.step(ImportStep::Unpacking, 0)?;
                        continue;
                    }
                    // From another file system, or by one that cannot: what is
                    // really wrong, the next write says.
                    _ => by_kernel = false,
                }
            }
            let room = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
            let read = read_up_to(file, &mut chunk[..room], at).map_err(&fail)?;
            if read < room {
                return Err(invalid(self.source, "has become shorter meanwhile".to_owned()));
            }
            if let Some(hash) = &mut hash {
                hash.update(&chunk[..read]);
            }
            self.fresh.write(&chunk[..read], at)?;
            at += read as u64;
            self.done = at;
            self.step(ImportStep::Unpacking, 0)?;
        }
        match (hash, digest) {
            (Some(hash), Some(digest)) => self.compare(hash, digest),
            _ => Ok(()),
        }
    }

    /// From data at `at` up to the next hole, without a copy in our memory;
    /// where it has got to.
    fn copy_extent(&self, file: &File, at: u64, length: u64) -> io::Result<u64> {
        let hole = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(at))?.min(length);
        let most = usize::try_from(hole.saturating_sub(at)).unwrap_or(EXTENT).min(EXTENT);
        let (mut from, mut to) = (at, at);
        let copied = rustix::fs::copy_file_range(
            file,
            Some(&mut from),
            &self.fresh.file,
            Some(&mut to),
            most,
        )?;
        Ok(at + copied as u64)
    }

    fn verify(&mut self, file: &File, length: u64, digest: &Digest) -> Result<(), DiskImageError> {
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while at < length {
            let read = read_up_to(file, &mut chunk, at).map_err(io_error("read", self.source))?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            at += read as u64;
            self.step(ImportStep::Verifying, read as u64)?;
        }
        self.done = 0;
        self.compare(hash, digest)
    }

    fn compare(&self, hash: Sha256, expected: &Digest) -> Result<(), DiskImageError> {
        let got = Digest::from_sha256(hash.finalize().into());
        if got == *expected {
            return Ok(());
        }
        let path = self.source.to_owned();
        Err(DiskImageError::DigestMismatch { path, expected: *expected, got })
    }

    fn copy_qcow2(&mut self, image: &Qcow2) -> Result<(), DiskImageError> {
        self.total = image.virtual_size();
        let mut cluster = image.buffer();
        let mut walk = image.walk();
        while let Some((at, content)) = walk.next().map_err(refuse(self.source))? {
            let length = image.within(at);
            if content != Content::Nothing {
                image.read(content, &mut cluster).map_err(refuse(self.source))?;
                self.fresh.write(&cluster[..length], at)?;
            }
            let done = at + length as u64;
            // A cluster may be as small as a sector.
            if done - self.done >= CHUNK as u64 || done >= self.total {
                self.done = done;
                self.step(ImportStep::Unpacking, 0)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: ImportStep, more: u64) -> Result<(), DiskImageError> {
        self.done += more;
        let (done, total) = (Bytes(self.done), Bytes(self.total));
        self.watch.progress(ImportProgress { step, done, total });
        if self.watch.cancelled() { Err(DiskImageError::Cancelled) } else { Ok(()) }
    }
}

/// The copy under its other name, which goes with it unless it is kept.
struct Fresh<'a> {
    file: File,
    path: PathBuf,
    target: &'a Path,
    kept: bool,
}

impl<'a> Fresh<'a> {
    fn create(target: &'a Path) -> Result<Self, DiskImageError> {
        let mut path = target.as_os_str().to_owned();
        path.push(".new");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            // What a dead process has left half done.
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| write_error("make", &path, error))?;
        Ok(Self { file, path, target, kept: false })
    }

    /// Zeros become holes.
    fn write(&self, bytes: &[u8], at: u64) -> Result<(), DiskImageError> {
        let mut start = 0;
        while start < bytes.len() {
            let is_zero = |block: &[u8]| *block == ZEROS[..block.len()];
            let blocks = || bytes[start..].chunks(BLOCK);
            start += blocks().take_while(|block| is_zero(block)).map(<[u8]>::len).sum::<usize>();
            let data: usize = bytes[start..]
                .chunks(BLOCK)
                .take_while(|block| !is_zero(block))
                .map(<[u8]>::len)
                .sum();
            self.file
                .write_all_at(&bytes[start..start + data], at + start as u64)
                .map_err(|error| write_error("write", &self.path, error))?;
            start += data;
        }
        Ok(())
    }

    fn grow(&self, size: u64) -> Result<(), DiskImageError> {
        self.file.set_len(size).map_err(|error| write_error("make", &self.path, error))
    }

    fn keep(mut self) -> Result<(), DiskImageError> {
        // A guest has no other copy: after the host's crash it is whole.
        self.file
            .sync_all()
            .and_then(|()| {
                fail_point(Point::ImageCopyWhole);
                fs::rename(&self.path, self.target)
            })
            .map_err(|error| write_error("finish", &self.path, error))?;
        self.kept = true;
        fail_point(Point::ImageCopyNamed);
        Ok(())
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "half a disk stays behind");
        }
    }
}

/// A regular file and its length. Never waits for a writer, as a FIFO would.
fn open(path: &Path) -> Result<(File, u64), DiskImageError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0))
        .open(path)
        .map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("look at", path))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(invalid(path, "is a directory".to_owned()));
    }
    if !kind.is_file() || kind.is_fifo() {
        return Err(invalid(path, "is no ordinary file".to_owned()));
    }
    Ok((file, metadata.len()))
}

/// What changes when somebody writes to a file or puts another in its place.
fn stamp(file: &File) -> io::Result<(u64, u64, u64, i64, i64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

fn check_size(size: u64) -> Result<(), String> {
    match size {
        0 => Err("is empty".to_owned()),
        size if size > LARGEST => {
            Err(format!("has {}, where {} is the most", Bytes(size), Bytes(LARGEST)))
        }
        size if !size.is_multiple_of(SECTOR) => {
            Err(format!("is no disk: {size} bytes are no whole sectors of {SECTOR}"))
        }
        _ => Ok(()),
    }
}

/// Fills the buffer, or as much of it as the file has from `at`.
fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn invalid(path: &Path, why: String) -> DiskImageError {
    DiskImageError::Invalid { path: path.to_owned(), why }
}

fn refuse(path: &Path) -> impl Fn(qcow2::Problem) -> DiskImageError {
    move |problem| match problem {
        qcow2::Problem::Bad(why) => invalid(path, why),
        qcow2::Problem::Io(source) => io_error("read", path)(source),
    }
}

fn io_error(step: &'static str, path: &Path) -> impl Fn(io::Error) -> DiskImageError {
    move |source| DiskImageError::Io { step, path: path.to_owned(), source }
}

fn write_error(step: &'static str, path: &Path, source: io::Error) -> DiskImageError {
    let full = [Errno::NOSPC, Errno::DQUOT].map(Errno::raw_os_error);
    if source.raw_os_error().is_some_and(|code| full.contains(&code)) {
        return DiskImageError::DiskFull { path: path.to_owned(), free: free_bytes(path) };
    }
    DiskImageError::Io { step, path: path.to_owned(), source }
}
