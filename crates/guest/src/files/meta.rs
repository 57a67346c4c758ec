//! Attributes, listings, directories.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{DirEntry, DirPage, FileInfo, FileKind, MakeDir};

use super::job::Out;
use crate::refusal::{OrRefuse, Refusal};

/// The most that an entry takes of a page: a name (255 bytes), a link's target
/// (4096) and numbers.
const LARGEST_ENTRY: usize = 4096 + 255 + 128;

pub(super) fn absolute(path: &str) -> Result<&Path, Refusal> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Refusal::invalid(format!("use {path:?}, which is no absolute path")));
    }
    Ok(Path::new(path))
}

pub(super) fn stat(path: &str, follow: bool) -> Result<FileInfo, Refusal> {
    let what = || format!("look at {path}");
    let path = absolute(path)?;
    let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
    let meta = meta.or_refuse(what)?;
    let target = if meta.is_symlink() { Some(fs::read_link(path).or_refuse(what)?) } else { None };
    Ok(info(&meta, target.as_deref()))
}

pub(super) fn info(meta: &Metadata, target: Option<&Path>) -> FileInfo {
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileInfo {
        kind: kind.into(),
        size: meta.size(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_s: meta.mtime(),
        mtime_ns: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        target: target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default(),
        inode: meta.ino(),
        allocated: meta.blocks() * 512,
        links: meta.nlink(),
    }
}

/// In the order of the directory. A name that is no UTF-8 is shown as near as
/// can be.
pub(super) fn list(path: &str, out: &mut Out) -> Result<(), Refusal> {
    let what = || format!("list {path}");
    let mut page = DirPage::default();
    let mut size = 0;
    for entry in fs::read_dir(absolute(path)?).or_refuse(what)? {
        let entry = entry.or_refuse(what)?;
        // Gone since it was listed.
        let Ok(meta) = entry.metadata() else { continue };
        let target = if meta.is_symlink() { fs::read_link(entry.path()).ok() } else { None };
        let name = entry.file_name().to_string_lossy().into_owned();
        let info = info(&meta, target.as_deref());
        size += name.len() + info.target.len() + 128;
        page.entries.push(DirEntry { name, info: Some(info) });
        if size + LARGEST_ENTRY > MAX_DATA {
            out.message(std::mem::take(&mut page).to_bytes()).or_refuse(what)?;
            size = 0;
        }
    }
    if !page.entries.is_empty() {
        out.message(page.to_bytes()).or_refuse(what)?;
    }
    Ok(())
}

pub(super) fn make_dir(request: &MakeDir) -> Result<(), Refusal> {
    let path = absolute(&request.path)?;
    let what = || format!("make {}", request.path);
    let there = request.parents && path.is_dir();
    if there {
        return Ok(());
    }
    let mode = request.mode & 0o7777;
    fs::DirBuilder::new().recursive(request.parents).mode(0o755).create(path).or_refuse(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).or_refuse(what)
}

/// A link is removed, never what it points to.
pub(super) fn remove(path: &str, recursive: bool) -> Result<(), Refusal> {
    let what = || format!("remove {path}");
    let path = absolute(path)?;
    let meta = fs::symlink_metadata(path).or_refuse(what)?;
    let removed: io::Result<()> = match (meta.is_dir(), recursive) {
        (true, true) => fs::remove_dir_all(path),
        (true, false) => fs::remove_dir(path),
        (false, _) => fs::remove_file(path),
    };
    removed.or_refuse(what)
}
