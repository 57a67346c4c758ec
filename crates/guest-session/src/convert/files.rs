use inn_guest_proto::wire;

use super::{Bytes, MAX_BYTES, misdirected, undecodable};
use crate::{
    DirEntry, FileAttributes, FileChange, FileChangeKind, FileChanges, FileInfo, FileKind,
    FileVersion, GuestError, ReadSpec, UploadId, WriteSpec,
};

/// Entries of a directory and execs that are listed at most: a hostile guest
/// could go on for ever.
pub const MAX_LISTED: usize = 100_000;

/// Bytes of names and targets in one listing. Names of ordinary length fill
/// [`MAX_LISTED`] entries with a tenth of it.
const MAX_LISTED_BYTES: usize = 32 << 20;

/// Linux's limits, include/uapi/linux/limits.h.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;

pub(crate) fn read_file(path: &str, spec: &ReadSpec) -> wire::ReadFile {
    wire::ReadFile {
        path: path.to_owned(),
        offset: spec.offset,
        limit: spec.limit,
        sparse: spec.sparse,
        expect: spec.expect.map(version),
    }
}

fn version(version: FileVersion) -> wire::FileVersion {
    let (mtime_s, mtime_ns) = version.modified;
    wire::FileVersion { inode: version.inode, size: version.size, mtime_s, mtime_ns }
}

/// `knows_length`: whether the guest's agent heeds the length to come.
pub(crate) fn write_file(path: &str, spec: &WriteSpec, knows_length: bool) -> wire::WriteFile {
    wire::WriteFile {
        path: path.to_owned(),
        mode: spec.mode,
        owner: spec.owner.map(owner),
        offset: spec.offset,
        make_parents: spec.make_parents,
        upload: spec.upload.map(upload_id).unwrap_or_default(),
        sparse: spec.sparse || spec.upload.is_some(),
        mtime: spec.modified.map(timestamp),
        length: spec.length.filter(|_| knows_length),
    }
}

fn owner((uid, gid): (u32, u32)) -> wire::Owner {
    wire::Owner { uid, gid }
}

fn timestamp((s, ns): (i64, u32)) -> wire::Timestamp {
    wire::Timestamp { s, ns }
}

pub(crate) fn attributes(path: &str, change: &FileAttributes) -> wire::SetAttributes {
    wire::SetAttributes {
        path: path.to_owned(),
        mode: change.mode,
        owner: change.owner.map(owner),
        mtime: change.modified.map(timestamp),
    }
}

pub(crate) fn upload_id(id: UploadId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

/// At most `length`, where the content's length is known.
pub(crate) fn upload_offset(
    state: wire::UploadState,
    length: Option<u64>,
) -> Result<u64, GuestError> {
    if state.offset > length.unwrap_or(MAX_BYTES) {
        return Err(misdirected("more of an upload than there is"));
    }
    Ok(state.offset)
}

pub(crate) fn file_info(info: wire::FileInfo) -> FileInfo {
    let kind = match info.kind() {
        wire::FileKind::File => FileKind::File,
        wire::FileKind::Directory => FileKind::Directory,
        wire::FileKind::Symlink => FileKind::Symlink,
        wire::FileKind::Other => FileKind::Other,
    };
    FileInfo {
        kind,
        size: info.size.min(MAX_BYTES),
        mode: info.mode & 0o7777,
        uid: info.uid,
        gid: info.gid,
        modified: (info.mtime_s, info.mtime_ns.min(999_999_999)),
        target: (1..=PATH_MAX).contains(&info.target.len()).then_some(info.target),
        inode: info.inode,
        allocated: info.allocated.min(MAX_BYTES),
        links: info.links,
    }
}

/// A directory as it arrives, page by page.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<DirEntry>,
    bytes: usize,
}

impl Listing {
    /// Refuses names that no directory can hold: they become paths on the
    /// host.
    pub(crate) fn extend(&mut self, page: Bytes, path: &str) -> Result<(), GuestError> {
        let page = wire::DirPage::from_bytes(page).map_err(undecodable)?;
        for entry in page.entries {
            let name = entry.name;
            let no_name = matches!(name.as_str(), "" | "." | "..");
            if no_name || name.len() > NAME_MAX || name.contains(['/', '\0']) {
                return Err(misdirected("a directory entry that is no name"));
            }
            let info = file_info(entry.info.unwrap_or_default());
            self.bytes += name.len() + info.target.as_ref().map_or(0, String::len);
            if self.entries.len() >= MAX_LISTED || self.bytes > MAX_LISTED_BYTES {
                return Err(GuestError::TooLarge {
                    what: format!("the directory {path}"),
                    size: self.entries.len() + 1,
                    limit: MAX_LISTED,
                });
            }
            self.entries.push(DirEntry { name, info });
        }
        Ok(())
    }
}

/// Changes that are named by no absolute path are an overflow: something
/// changed, and it cannot be told what.
pub(crate) fn file_changes(bytes: Bytes) -> Result<FileChanges, GuestError> {
    let told = wire::FileChanges::from_bytes(bytes).map_err(undecodable)?;
    let mut changes = FileChanges { changes: Vec::new(), overflow: told.overflow };
    for change in told.changes {
        match file_change(change) {
            Some(change) => changes.changes.push(change),
            None => changes.overflow = true,
        }
    }
    Ok(changes)
}

fn file_change(change: wire::FileChange) -> Option<FileChange> {
    let kind = match change.kind() {
        wire::FileChangeKind::Created => FileChangeKind::Created,
        wire::FileChangeKind::Modified => FileChangeKind::Modified,
        wire::FileChangeKind::Removed => FileChangeKind::Removed,
        wire::FileChangeKind::Renamed => FileChangeKind::Renamed,
        wire::FileChangeKind::Attributes => FileChangeKind::Attributes,
        wire::FileChangeKind::Other => FileChangeKind::Other,
    };
    let is_path = |path: &str| path.starts_with('/') && path.len() <= PATH_MAX;
    let from = (!change.from.is_empty()).then_some(change.from);
    if !is_path(&change.path) || !from.as_deref().is_none_or(is_path) {
        return None;
    }
    Some(FileChange { kind, path: change.path, from, directory: change.directory })
}
