//! Writable disks: copies of an empty ext4 file system, made once for each
//! size by mkfs.ext4.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_host::process::{Program, RunError, run_blocking};
use inn_units::{Bytes, MIB};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::cache::renew;
use crate::error::ImageError;

const MIN: Bytes = Bytes::mib(16);
/// The largest that ext4 has without the 64bit feature.
const MAX: Bytes = Bytes::gib(16 * 1024 - 1);
/// mkfs.ext4 takes about 20 ms; a disk that hangs is another matter.
const DEADLINE: Duration = Duration::from_secs(120);

/// What mkfs.ext4 is told, and why:
/// - a journal, although it costs a millisecond at the mount: a VM may be
///   killed at any time, the guest has no e2fsck, and the disk is mounted
///   again by `vm start`. 4 MiB is the smallest;
/// - lazy_itable_init=0: otherwise the guest's kernel writes the inode tables
///   in the background after the first mount. Here they are holes already;
/// - lazy_journal_init=1: the journal is not zeroed, since a new sparse file
///   reads as zeros;
/// - no resize_inode and no reserved blocks: nobody grows the disk in place,
///   and root in the guest is its only user;
/// - no metadata_csum: each block would be summed in software on both ways;
/// - packed_meta_blocks=1: what a mount reads lies together.
const OPTIONS: [&str; 13] = [
    "-q",
    "-F",
    "-m",
    "0",
    "-L",
    "inn-rw",
    "-J",
    "size=4",
    "-O",
    "^metadata_csum,^resize_inode,^64bit",
    "-E",
    "lazy_itable_init=0,lazy_journal_init=1,nodiscard,packed_meta_blocks=1",
    "-b4096",
];

#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    /// Held while an empty disk is made, so that many VMs at once make one.
    making: Mutex<()>,
}

impl Scratch {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("scratch");
        fs::create_dir_all(&dir).map_err(|err| ImageError::io("create", &dir, err))?;
        Ok(Self { dir, making: Mutex::default() })
    }

    /// Makes a disk of this size, rounded up to whole MiB; what stood at
    /// `path` is replaced.
    pub(crate) fn make(&self, path: &Path, size: Bytes, tmp: &Path) -> Result<(), ImageError> {
        let refuse = |why: String| Err(ImageError::invalid(format!("a disk of {size}"), why));
        if size < MIN {
            return refuse(format!("is too small for a file system; give it at least {MIN}"));
        }
        let rounded = size.checked_round_up(MIB).filter(|&rounded| rounded <= MAX);
        let Some(size) = rounded else {
            return refuse(format!("is too large; give it at most {MAX}"));
        };
        let template = self.template(size, tmp)?;
        copy_sparse(&template, path)
    }

    fn template(&self, size: Bytes, tmp: &Path) -> Result<PathBuf, ImageError> {
        let path = self.dir.join(format!("{}.img", size.get()));
        if renew(&path).map_err(|err| ImageError::io("renew", &path, err))? {
            return Ok(path);
        }
        // Guards no value: whoever panicked with it has left nothing behind.
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if path.exists() {
            return Ok(path);
        }
        let fail = |err| ImageError::io("make the empty disk", &path, err);
        let file = tempfile::NamedTempFile::new_in(tmp).map_err(fail)?;
        file.as_file().set_len(size.get()).map_err(fail)?;
        let mut args: Vec<&std::ffi::OsStr> = OPTIONS.iter().map(AsRef::as_ref).collect();
        args.push(file.path().as_os_str());
        run_blocking(Program::MKFS_EXT4, args, DEADLINE).map_err(|err| mkfs_error(err, &path))?;
        // mkfs.ext4 zeroes the inode tables by allocating them, 16 MiB for each
        // GiB; a copy of what is data leaves them out.
        let packed = tempfile::NamedTempFile::new_in(tmp).map_err(fail)?;
        copy_sparse(file.path(), packed.path())?;
        packed.as_file().sync_all().map_err(fail)?;
        fail_point(Point::ScratchFormatted);
        packed.persist(&path).map_err(|err| fail(err.error))?;
        Ok(path)
    }
}

fn mkfs_error(err: RunError, path: &Path) -> ImageError {
    match err {
        RunError::Missing(missing) => {
            ImageError::MissingProgram { program: missing.program, hint: missing.hint }
        }
        RunError::Failed { ref stderr, .. } if stderr.contains("No space left") => {
            ImageError::io("make", path, Errno::NOSPC.into())
        }
        other => ImageError::io("make the empty disk", path, io::Error::other(other)),
    }
}

/// A copy of a disk, at a moment when nobody writes to it.
pub fn copy_disk(from: &Path, to: &Path) -> Result<(), ImageError> {
    copy_sparse(from, to)
}

/// Copies only what is data. Where the file systems can, the kernel shares
/// the blocks.
fn copy_sparse(from: &Path, to: &Path) -> Result<(), ImageError> {
    let copied = (|| {
        let source = File::open(from)?;
        let target = File::create(to)?;
        let len = source.metadata()?.len();
        target.set_len(len)?;
        fail_point(Point::ScratchSized);
        let mut at = 0;
        loop {
            at = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => return Ok(()), // only a hole is left
                Err(errno) => return Err(errno.into()),
            };
            let end = rustix::fs::seek(&source, SeekFrom::Hole(at))?;
            copy_range(&source, &target, at, end)?;
            at = end;
        }
    })();
    copied.map_err(|err| {
        // A half disk must not look like one.
        let _ = fs::remove_file(to);
        ImageError::io("make the disk", to, err)
    })
}

/// Copies bytes to the same place of another file, by the kernel where it can.
pub(crate) fn copy_range(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    const CHUNK: usize = 256 * 1024;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX);
        let (mut from, mut to) = (at, at);
        let copied =
            rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), want);
        let n = match copied {
            Ok(n) if n > 0 => n,
            // Older kernels refuse across file systems; some copy nothing.
            Ok(_) | Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                let mut chunk = vec![0; want.min(CHUNK)];
                source.read_exact_at(&mut chunk, at)?;
                target.write_all_at(&chunk, at)?;
                chunk.len()
            }
            Err(errno) => return Err(errno.into()),
        };
        at += n as u64;
    }
    Ok(())
}
