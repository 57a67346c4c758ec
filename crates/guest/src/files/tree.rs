//! Whole trees as tar streams.
//!
//! Extraction never leaves its directory: every parent of an entry is opened
//! beneath it (openat2(2), RESOLVE_BENEATH), so neither `..` nor a link that
//! the archive itself brought leads out.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use inn_guest_proto::wire::Transferred;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::content::copy;
use super::job::{In, Out};
use super::meta;
use crate::refusal::{OrRefuse, Refusal};

/// Directories below one another that are followed: deeper is no tree that
/// somebody made on purpose.
const MAX_DEPTH: usize = 256;

pub(super) fn read(path: &str, out: &mut Out) -> Result<Transferred, Refusal> {
    let what = || format!("read {path}");
    let path = meta::absolute(path)?;
    let meta = fs::symlink_metadata(path).or_refuse(what)?;
    out.info(meta::info(&meta, None)).or_refuse(what)?;
    let mut builder = Builder::new(&mut *out);
    builder.follow_symlinks(false);
    if meta.is_dir() {
        append_children(&mut builder, path, Path::new(""), 0).or_refuse(what)?;
    } else {
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        append(&mut builder, path, &name, &meta).or_refuse(what)?;
    }
    builder.finish().or_refuse(what)?;
    drop(builder);
    out.finish().or_refuse(what)
}

fn append_children(
    builder: &mut Builder<&mut Out>,
    dir: &Path,
    inside: &Path,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("directories are too deep"));
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // What vanished meanwhile is not there.
        let Ok(meta) = entry.metadata() else { continue };
        let name = inside.join(entry.file_name());
        append(builder, &entry.path(), &name, &meta)?;
        if meta.is_dir() {
            append_children(builder, &entry.path(), &name, depth + 1)?;
        }
    }
    Ok(())
}

fn append(
    builder: &mut Builder<&mut Out>,
    path: &Path,
    name: &Path,
    meta: &fs::Metadata,
) -> io::Result<()> {
    let kind = meta.file_type();
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    if kind.is_symlink() {
        header.set_size(0);
        return builder.append_link(&mut header, name, fs::read_link(path)?);
    }
    if kind.is_file() {
        // A file that grows or shrinks meanwhile would break the archive: what
        // was promised is what is sent.
        let promised = meta.size();
        let file = File::open(path)?;
        let padded = file.take(promised).chain(io::repeat(0)).take(promised);
        return builder.append_data(&mut header, name, padded);
    }
    if kind.is_socket() {
        return Ok(());
    }
    header.set_size(0);
    builder.append_data(&mut header, name, io::empty())
}

pub(super) fn write(path: &str, input: &mut In) -> Result<Transferred, Refusal> {
    let dir = meta::absolute(path)?;
    let what = || format!("extract into {path}");
    fs::create_dir_all(dir).or_refuse(|| format!("make {path}"))?;
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).or_refuse(what)?;
    let mut archive = Archive::new(&mut *input);
    let mut late = Vec::new();
    for entry in archive.entries().or_refuse(what)? {
        let mut entry = entry.or_refuse(what)?;
        let name = entry.path().or_refuse(what)?.into_owned();
        extract(&root, &name, &mut entry, &mut late)
            .or_refuse(|| format!("extract {} into {path}", name.display()))?;
    }
    let transferred = input.verified(path)?;
    // Last, deepest first: a directory may be read-only to whoever fills it.
    for (name, mode) in late.into_iter().rev() {
        set_dir_mode(&root, &name, mode).or_refuse(what)?;
    }
    Ok(transferred)
}

fn extract(
    root: &OwnedFd,
    name: &Path,
    entry: &mut Entry<'_, &mut In>,
    late: &mut Vec<(PathBuf, u32)>,
) -> io::Result<()> {
    let Some((parents, last)) = split(name)? else {
        return Ok(());
    };
    let parent = open_parents(root, &parents)?;
    let header = entry.header().clone();
    let mode = header.mode()? & 0o7777;
    let kind = header.entry_type();
    if kind == EntryType::Directory {
        make_dir(&parent, last)?;
        late.push((parents.join(last), mode));
        return own(&parent, last, &header);
    }
    remove_other(&parent, last)?;
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, last, flags, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(file);
            copy(entry, &mut file)?;
            file.flush()?;
            own(&parent, last, &header)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            return touch(&file, &header);
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            rustix::fs::symlinkat(target.as_os_str().as_bytes(), &parent, last)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            let (dirs, file) = split(&target)?.ok_or(io::ErrorKind::InvalidData)?;
            let from = open_parents(root, &dirs)?;
            rustix::fs::linkat(&from, file, &parent, last, AtFlags::empty())?;
            return Ok(());
        }
        EntryType::Fifo | EntryType::Char | EntryType::Block => {
            let kind = match kind {
                EntryType::Fifo => rustix::fs::FileType::Fifo,
                EntryType::Char => rustix::fs::FileType::CharacterDevice,
                _ => rustix::fs::FileType::BlockDevice,
            };
            let device = rustix::fs::makedev(
                header.device_major()?.unwrap_or(0),
                header.device_minor()?.unwrap_or(0),
            );
            rustix::fs::mknodat(&parent, last, kind, Mode::from_raw_mode(mode), device)?;
        }
        // Headers of extensions are the parser's; others say nothing to us.
        _ => return Ok(()),
    }
    own(&parent, last, &header)
}

/// Parents and last name of an entry; `None` for the directory itself.
fn split(name: &Path) -> io::Result<Option<(PathBuf, &Path)>> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name with .. in it"));
            }
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(io::Error::other("directories are too deep"));
    }
    Ok(parts.pop().map(|last| (parts.iter().collect(), Path::new(last))))
}

/// Opens the directory of an entry beneath the root, making what is missing.
fn open_parents(root: &OwnedFd, parents: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let open =
        |path: &Path| rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH);
    if parents.as_os_str().is_empty() {
        return Ok(open(Path::new("."))?);
    }
    match open(parents) {
        Ok(dir) => return Ok(dir),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut so_far = PathBuf::new();
    let mut dir = open(Path::new("."))?;
    for part in parents.components() {
        make_dir(&dir, part.as_ref())?;
        so_far.push(part);
        dir = open(&so_far)?;
    }
    Ok(dir)
}

/// One that is there already is as good, a link to one included.
fn make_dir(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => {
            let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::empty())?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// A file or link in the way is replaced; a directory is not.
fn remove_other(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Only root can give files away; anybody else keeps what they extract.
fn own(parent: &OwnedFd, name: &Path, header: &Header) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (Ok(uid), Ok(gid)) = (u32::try_from(header.uid()?), u32::try_from(header.gid()?)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an owner that is no number"));
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn touch(file: &File, header: &Header) -> io::Result<()> {
    let seconds = i64::try_from(header.mtime()?).unwrap_or(0);
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::futimens(file.as_fd(), &times)?)
}

fn set_dir_mode(root: &OwnedFd, name: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, name, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(dir) => Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?),
        // A later entry replaced it.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
