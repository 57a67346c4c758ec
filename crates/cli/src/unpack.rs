//! A guest's tar, unpacked into a directory of this host and nowhere else.
//!
//! The guest is hostile. What holds it:
//! - every path is resolved below the destination by the kernel (cap-std, on
//!   Linux by openat2 with RESOLVE_BENEATH), and an entry is never written
//!   through a link: each parent must be a real directory;
//! - a symbolic link is made only if it stays inside, by a rule that needs no
//!   look at other links: relative, and `..` only at its beginning, no more of
//!   them than its own directory is deep. Each link being so, no chain of them
//!   leaves either;
//! - devices, pipes and sockets are left out, set-id and sticky bits dropped,
//!   owners ignored;
//! - a hard link is made to a regular file inside alone;
//! - an existing file is replaced and never written into;
//! - entries, bytes and depth are bounded.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions, OpenOptionsExt, PermissionsExt};
use tar::{Archive, Entry, EntryType};

const MOST_ENTRIES: u64 = 1_000_000;
const MOST_BYTES: u64 = 64 << 30;
const MOST_DEPTH: usize = 128;
/// More than this many refused entries are only counted.
const MOST_REMARKS: usize = 20;
/// 2200-01-01, past which some file systems wrap.
const LATEST_MTIME: u64 = 7_258_118_400;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub files: u64,
    pub bytes: u64,
    /// What was left out and why, for the user.
    pub remarks: Vec<String>,
    pub left_out: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("the VM sent an entry that points outside: {0}")]
    Outside(String),
    #[error("the VM sent more than {0}")]
    TooMuch(&'static str),
    #[error("cannot make {path}")]
    Write { path: String, source: io::Error },
    #[error("the VM's archive is damaged or incomplete")]
    Read(#[source] io::Error),
}

/// Unpacks all of `tar` into `dir`.
pub(crate) fn unpack(tar: impl Read, dir: &Dir) -> Result<Unpacked, UnpackError> {
    let mut archive = Archive::new(tar);
    Unpacker::new(dir).all(archive.entries().map_err(UnpackError::Read)?)
}

struct Unpacker<'d> {
    dir: &'d Dir,
    entries: u64,
    /// The parent that was last found to be a real directory all the way.
    sound: Option<PathBuf>,
    /// Directories' modes are set last: a read-only one must take its files.
    modes: Vec<(PathBuf, u32)>,
    done: Unpacked,
}

impl<'d> Unpacker<'d> {
    fn new(dir: &'d Dir) -> Self {
        Self { dir, entries: 0, sound: None, modes: Vec::new(), done: Unpacked::default() }
    }

    fn all<R: Read>(mut self, entries: tar::Entries<'_, R>) -> Result<Unpacked, UnpackError> {
        for entry in entries {
            let mut entry = entry.map_err(UnpackError::Read)?;
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return Err(UnpackError::TooMuch("a million files"));
            }
            self.one(&mut entry)?;
        }
        for (path, mode) in self.modes.iter().rev() {
            let permissions = cap_std::fs::Permissions::from_mode(*mode);
            self.dir.set_permissions(path, permissions).map_err(|e| write_error(path, e))?;
        }
        Ok(self.done)
    }

    fn one<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let path = self.place(&entry.path().map_err(UnpackError::Read)?)?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        if path.as_os_str().is_empty() {
            // The destination itself, whose mode is its owner's business.
            return Ok(());
        }
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => {
                self.make_parents(&path)?;
                self.make_dir(&path)?;
                self.modes.push((path, mode | 0o700));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_parents(&path)?;
                self.write(entry, &path, mode)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(UnpackError::Read)?.unwrap_or_default();
                if !stays_inside(&path, &target) {
                    self.leave_out(&path, format_args!("a link to {}", target.display()));
                    return Ok(());
                }
                self.make_parents(&path)?;
                self.clear(&path)?;
                self.dir.symlink(&target, &path).map_err(|e| write_error(&path, e))?;
                self.done.files += 1;
            }
            EntryType::Link => {
                let target = entry.link_name().map_err(UnpackError::Read)?.unwrap_or_default();
                let target = self.place(&target)?;
                self.make_parents(&target)?;
                // A second name for a symbolic link would have another depth,
                // and lead elsewhere from there.
                if !self.dir.symlink_metadata(&target).is_ok_and(|found| found.is_file()) {
                    self.leave_out(&path, format_args!("a hard link to {}", shown(&target)));
                    return Ok(());
                }
                self.make_parents(&path)?;
                self.clear(&path)?;
                self.dir.hard_link(&target, self.dir, &path).map_err(|e| write_error(&path, e))?;
                self.done.files += 1;
            }
            EntryType::XGlobalHeader => {}
            _ => self.leave_out(&path, "a device, pipe or socket"),
        }
        Ok(())
    }

    /// Where an entry goes: its name without `.` parts.
    fn place(&self, name: &Path) -> Result<PathBuf, UnpackError> {
        let mut parts: Vec<OsString> = Vec::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_owned()),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(UnpackError::Outside(shown(name)));
                }
            }
        }
        if parts.len() > MOST_DEPTH {
            return Err(UnpackError::TooMuch("128 directories in each other"));
        }
        Ok(parts.iter().collect())
    }

    /// Makes the directories above `path`; none of them may be a link.
    fn make_parents(&mut self, path: &Path) -> Result<(), UnpackError> {
        let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(());
        };
        if self.sound.as_deref() == Some(parent) {
            return Ok(());
        }
        let mut so_far = PathBuf::new();
        for part in parent {
            so_far.push(part);
            self.make_dir(&so_far)?;
        }
        self.sound = Some(parent.to_owned());
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> Result<(), UnpackError> {
        match self.dir.symlink_metadata(path) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(found) if found.is_symlink() => return Err(UnpackError::Outside(shown(path))),
            Ok(_) => return Err(write_error(path, io::ErrorKind::NotADirectory.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(write_error(path, e)),
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        self.dir.create_dir_with(path, &builder).map_err(|e| write_error(path, e))
    }

    /// Removes a file or link that stands where another is to be.
    fn clear(&mut self, path: &Path) -> Result<(), UnpackError> {
        match self.dir.remove_file(path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(write_error(path, e)),
        }
    }

    fn write<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        mode: u32,
    ) -> Result<(), UnpackError> {
        self.done.bytes = self.done.bytes.saturating_add(entry.size());
        if self.done.bytes > MOST_BYTES {
            return Err(UnpackError::TooMuch("64 GiB"));
        }
        self.clear(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file =
            self.dir.open_with(path, &options).map_err(|e| write_error(path, e))?.into_std();
        let written = io::copy(entry, &mut file).map_err(|e| write_error(path, e))?;
        if written != entry.size() {
            return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        file.set_permissions(permissions).map_err(|e| write_error(path, e))?;
        let mtime = entry.header().mtime().unwrap_or(0).min(LATEST_MTIME);
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime))
            .map_err(|e| write_error(path, e))?;
        self.done.files += 1;
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.done.left_out += 1;
        if self.done.remarks.len() < MOST_REMARKS {
            self.done.remarks.push(format!("left out {}: {what}", shown(path)));
        }
    }
}

/// Whether a link at `path` to `target` stays below the root: see the top.
fn stays_inside(path: &Path, target: &Path) -> bool {
    if target.as_os_str().is_empty() || target.as_os_str().as_bytes().contains(&0) {
        return false;
    }
    let depth = path.components().count() - 1;
    let mut climbs = 0;
    let mut below = false;
    for part in target.components() {
        match part {
            Component::ParentDir if below => return false,
            Component::ParentDir => climbs += 1,
            Component::CurDir => {}
            Component::Normal(_) => below = true,
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    climbs <= depth
}

fn shown(path: &Path) -> String {
    crate::failure::harmless(&path.to_string_lossy())
}

fn write_error(path: &Path, source: io::Error) -> UnpackError {
    UnpackError::Write { path: shown(path), source }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
