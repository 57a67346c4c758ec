//! Making files beneath one directory and nowhere else: every parent is
//! opened with openat2(2) and RESOLVE_BENEATH, so neither `..` nor a link that
//! an archive itself brought leads out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::files::{Attributes, times};

const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const DIR_PATH: OFlags = DIR.union(OFlags::PATH);

/// The directory that nothing leaves.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
}

/// A directory in it, to make things in. A name has no slash.
#[derive(Debug)]
pub(crate) struct Dir {
    dir: OwnedFd,
}

/// What is neither a file, a directory nor a link.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Special {
    Fifo,
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: rustix::fs::open(path, DIR_PATH, Mode::empty())? })
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), ResolveFlags::BENEATH)
    }

    /// Opens a directory, making what is missing of it.
    pub(crate) fn dir(&self, path: &Path) -> io::Result<Dir> {
        let here = Path::new(".");
        let wanted = if path.as_os_str().is_empty() { here } else { path };
        match self.open_beneath(wanted, DIR_PATH) {
            Ok(dir) => return Ok(Dir { dir }),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut so_far = PathBuf::new();
        let mut dir = Dir { dir: self.open_beneath(here, DIR_PATH)? };
        for part in path.components() {
            dir.make_dir(part.as_ref())?;
            so_far.push(part);
            dir.dir = self.open_beneath(&so_far, DIR_PATH)?;
        }
        Ok(dir)
    }

    /// What a directory is given once it is filled. One that something else
    /// has replaced meanwhile is left alone.
    pub(crate) fn finish_dir(
        &self,
        path: &Path,
        attributes: &Attributes,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        match self.open_beneath(path, DIR.union(OFlags::RDONLY)) {
            Ok(dir) => {
                let dir = File::from(dir);
                for (name, value) in xattrs {
                    let _not_here = super::files::set_xattr(&dir, name, value);
                }
                attributes.apply(&dir)
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Dir {
    /// One that is there already is as good, a link to one included.
    pub(crate) fn make_dir(&self, name: &Path) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                rustix::fs::openat(&self.dir, name, DIR_PATH, Mode::empty())?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// For nobody else yet.
    pub(crate) fn create(&self, name: &Path) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    pub(crate) fn symlink(&self, name: &Path, target: &Path) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target.as_os_str().as_bytes(), &self.dir, name)?)
    }

    pub(crate) fn link(&self, name: &Path, from: &Dir, file: &Path) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.dir, file, &self.dir, name, AtFlags::empty())?)
    }

    pub(crate) fn make_special(&self, name: &Path, special: Special, mode: u32) -> io::Result<()> {
        let (kind, device) = match special {
            Special::Fifo => (FileType::Fifo, 0),
            Special::Character { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Special::Block { major, minor } => {
                (FileType::BlockDevice, rustix::fs::makedev(major, minor))
            }
        };
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::mknodat(&self.dir, name, kind, mode, device)?)
    }

    /// A file or link in the way goes; a directory does not.
    pub(crate) fn remove_other(&self, name: &Path) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Of the thing itself, never of what a link points to.
    pub(crate) fn own(&self, name: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(&self.dir, name, Some(uid), Some(gid), flags)?)
    }

    /// Likewise.
    pub(crate) fn touch(&self, name: &Path, mtime: (i64, u32)) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(&self.dir, name, &times(mtime), flags)?)
    }
}

/// Only root can give files away; anybody else keeps what they make.
pub(crate) fn may_give_away() -> bool {
    rustix::process::geteuid().is_root()
}
