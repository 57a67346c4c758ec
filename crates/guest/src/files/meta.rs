//! Attributes, listings, directories, names.

use std::fs;
use std::io;
use std::path::Path;

use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{
    DirEntry, DirPage, FailureKind, FileInfo, MakeDir, Rename, SetAttributes, Symlink,
};

use super::job::{Out, gone};
use super::write::Beside;
use crate::os::files::{self, Attributes, info};
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
            out.piece(std::mem::take(&mut page).to_bytes(), 0).map_err(gone)?;
            size = 0;
        }
    }
    if !page.entries.is_empty() {
        out.piece(page.to_bytes(), 0).map_err(gone)?;
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
    fs::DirBuilder::new().recursive(request.parents).create(path).or_refuse(what)?;
    files::set_mode(path, request.mode).or_refuse(what)
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

pub(super) fn rename(request: &Rename) -> Result<(), Refusal> {
    let Rename { from, to, replace } = request;
    match files::rename(absolute(from)?, absolute(to)?, *replace) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let what = format!("rename {from} to {to}, which is on another file system");
            Err(Refusal::io(what, &error).of_kind(FailureKind::Invalid))
        }
        renamed => renamed.or_refuse(|| format!("rename {from} to {to}")),
    }
}

/// With `replace`, at no time is there nothing. A directory is not replaced.
pub(super) fn symlink(request: &Symlink) -> Result<(), Refusal> {
    let path = absolute(&request.path)?;
    let what = || format!("make the link {}", request.path);
    if request.target.is_empty() || request.target.contains('\0') {
        return Err(Refusal::invalid(format!("link {} to nothing", request.path)));
    }
    if !request.replace {
        return files::symlink(&request.target, path).or_refuse(what);
    }
    let beside = Beside::new(path.parent().unwrap_or(Path::new("/")));
    files::symlink(&request.target, &beside.path).or_refuse(what)?;
    fs::rename(&beside.path, path).or_refuse(what)
}

pub(super) fn set_attributes(request: &SetAttributes) -> Result<(), Refusal> {
    let path = absolute(&request.path)?;
    let attributes = Attributes {
        mode: request.mode,
        owner: request.owner.as_ref().map(|owner| (owner.uid, owner.gid)),
        mtime: request.mtime.as_ref().map(|time| (time.s, time.ns)),
    };
    attributes.apply_to(path).or_refuse(|| format!("set the attributes of {}", request.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_a_directory_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link");
        let mut wanted =
            Symlink { path: path.to_str().unwrap().into(), target: "one".into(), replace: false };
        symlink(&wanted).unwrap();
        assert!(symlink(&wanted).is_err());
        wanted = Symlink { target: "two".into(), replace: true, ..wanted };
        symlink(&wanted).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("two"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(symlink(&wanted).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
