//! Files by path: what their attributes are called here, and the calls that
//! differ by operating system.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use bytes::BytesMut;
use inn_guest_proto::wire::{FileInfo, FileKind, FileVersion};
use rustix::fs::{AtFlags, CWD, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::raw;

/// Of a file that nobody but its maker may see yet.
const PRIVATE: u32 = 0o600;

pub(crate) fn info(meta: &Metadata, target: Option<&Path>) -> FileInfo {
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileInfo {
        kind: kind.into(),
        size: meta.size(),
        mode: mode(meta),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_s: meta.mtime(),
        mtime_ns: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        target: target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default(),
        inode: meta.ino(),
        allocated: allocated(meta),
        links: meta.nlink(),
    }
}

pub(crate) fn version(meta: &Metadata) -> FileVersion {
    FileVersion {
        inode: meta.ino(),
        size: meta.size(),
        mtime_s: meta.mtime(),
        mtime_ns: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
    }
}

/// In bytes; stat(2) counts in 512.
pub(crate) fn allocated(meta: &Metadata) -> u64 {
    meta.blocks() * 512
}

/// Permissions with setuid, setgid and sticky.
pub(crate) fn mode(meta: &Metadata) -> u32 {
    meta.mode() & 0o7777
}

pub(crate) fn owner(meta: &Metadata) -> (u32, u32) {
    (meta.uid(), meta.gid())
}

/// What all names of a file with several have in common.
pub(crate) fn link_key(meta: &Metadata) -> Option<(u64, u64)> {
    (meta.is_file() && meta.nlink() > 1).then(|| (meta.dev(), meta.ino()))
}

pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    // Opening a FIFO would wait for a writer for ever.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Opens a file to write into it. The second value says whether it is new.
pub(crate) fn open_to_write(path: &Path, mode: u32) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.write(true).mode(mode).custom_flags(libc::O_NONBLOCK);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.map(|file| (file, false)),
    }
    match options.create_new(true).open(path) {
        // Somebody was faster, or it is a link to nowhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = options.create_new(false).create(true).truncate(false).open(path)?;
            Ok((file, false))
        }
        other => other.map(|file| (file, true)),
    }
}

pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)
}

/// Opens what an earlier [`create_private`] of ours left, or makes it. Its
/// directory may be everybody's: what another has put there is refused.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.read(true).write(true).mode(PRIVATE).custom_flags(flags);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return options.create_new(true).open(path);
        }
        other => other?,
    };
    let meta = file.metadata()?;
    let ours = meta.is_file()
        && meta.nlink() == 1
        && meta.uid() == rustix::process::geteuid().as_raw()
        && mode(&meta) == PRIVATE;
    if ours { Ok(file) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Appends at most `limit` bytes from where the file's position is.
pub(crate) fn read_some(file: &File, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
    loop {
        match raw::read_spare(file.as_fd(), buffer, limit) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// What is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<(u32, u32)>,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: Option<(i64, u32)>,
}

impl Attributes {
    pub(crate) fn apply(&self, file: &File) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            fchown(file, Some(uid), Some(gid))?;
        }
        // After the owner, since a change of owner drops setuid.
        if let Some(mode) = self.mode {
            file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some(mtime) = self.mtime {
            rustix::fs::futimens(file, &times(mtime))?;
        }
        Ok(())
    }

    /// Owner and time are those of a link itself, which has no mode of its
    /// own: that is its target's.
    pub(crate) fn apply_to(&self, path: &Path) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            lchown(path, Some(uid), Some(gid))?;
        }
        if let Some(mode) = self.mode {
            fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some(mtime) = self.mtime {
            rustix::fs::utimensat(CWD, path, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

pub(super) fn times((s, ns): (i64, u32)) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps { last_access: omit, last_modification: Timespec { tv_sec: s, tv_nsec: ns.into() } }
}

/// Where data begin at or after `from`; `None` where only a hole follows. A
/// file system that knows no holes says that all is data. Moves the position.
pub(crate) fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// Where a hole begins at or after `from`, the end of the file being one.
pub(crate) fn next_hole(file: &File, from: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(from)) {
        Ok(at) => Ok(at),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok(u64::MAX),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that we may still use of the file system that `path` is on.
pub(crate) fn available(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    let root = rustix::process::geteuid().is_root();
    let blocks = if root { stat.f_bfree } else { stat.f_bavail };
    Ok(blocks.saturating_mul(stat.f_frsize))
}

/// Whether there is no room for more: on the disk, for this user, or in one
/// file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

/// Without `replace`, what is at `to` is `AlreadyExists`.
pub(crate) fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot (rename(2)): the next best, with a gap
        // between the look and the deed. What else is invalid stays so.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        other => Ok(other?),
    }
}

pub(crate) fn symlink(target: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))
}

/// An attribute's value that is passed on: larger ones exist only on file
/// systems of their own kind (xattr(7) names 64 KiB as the VFS's limit).
const MAX_XATTR: usize = 64 * 1024;

/// The extended attributes of a file, not of what a link points to: names
/// that are no text are left out, and so is what may not be read.
pub(crate) fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = [0_u8; 4096];
    // Most files have none. More than fit, or a file system without: none.
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return Vec::new() };
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.filter_map(|name| std::str::from_utf8(name).ok().filter(|n| !n.is_empty()));
    names
        .filter_map(|name| {
            let mut value = vec![0; MAX_XATTR];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name.to_owned(), value))
        })
        .collect()
}

pub(crate) fn set_xattr(file: &File, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn a_rename_replaces_only_what_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        let error = rename(&from, &to, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        rename(&from, &to, true).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        rename(&to, &from, false).unwrap();
        assert!(!to.exists());
    }

    #[test]
    fn a_hole_is_found() {
        let mut file = tempfile::tempfile().unwrap();
        file.seek(io::SeekFrom::Start(1 << 20)).unwrap();
        file.write_all(b"data").unwrap();
        file.set_len(4 << 20).unwrap();
        let at = next_data(&file, 0).unwrap().unwrap();
        assert!(at <= 1 << 20);
        assert!(next_hole(&file, 1 << 20).unwrap() >= (1 << 20) + 4);
        assert!(next_data(&file, 3 << 20).unwrap().is_none_or(|at| at == 3 << 20));
    }

    #[test]
    fn what_another_has_put_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        drop(open_private(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(open_private(&path).unwrap());
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(open_private(&path).is_err());
        let link = dir.path().join("link");
        symlink("part", &link).unwrap();
        assert!(open_private(&link).is_err());
    }

    #[test]
    fn the_attributes_of_a_link_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink("file", &link).unwrap();
        let wanted = Attributes { mode: Some(0o640), mtime: Some((1_000, 5)), owner: None };
        wanted.apply_to(&link).unwrap();
        assert_eq!(mode(&fs::metadata(&file).unwrap()), 0o640);
        assert_ne!(fs::metadata(&file).unwrap().mtime(), 1_000);
        let own = fs::symlink_metadata(&link).unwrap();
        assert_eq!((own.mtime(), own.mtime_nsec()), (1_000, 5));
    }
}
