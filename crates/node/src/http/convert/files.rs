//! What a guest tells of its files, in the API's words, and what is asked of it.

use inn_api as api;
use jiff::Timestamp;

use crate::guest::{DirEntry, FileAttributes, FileChange, FileInfo, FileVersion, UploadId};

same_names!(kind, FileKind { File, Directory, Symlink, Other });
same_names!(change_kind, FileChangeKind { Created, Modified, Removed, Renamed, Attributes, Other });

pub(in crate::http) fn file_info(path: &str, info: &FileInfo) -> api::FileInfo {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = if name.is_empty() { "/" } else { name };
    named(name.to_owned(), info)
}

pub(in crate::http) fn dir_entry(entry: DirEntry) -> api::FileInfo {
    named(entry.name, &entry.info)
}

fn named(name: String, info: &FileInfo) -> api::FileInfo {
    api::FileInfo {
        name,
        kind: kind(info.kind),
        size_bytes: info.size,
        allocated_bytes: info.allocated,
        mode: format!("{:04o}", info.mode),
        uid: info.uid,
        gid: info.gid,
        modified_at: modified_at(info),
        target: info.target.clone(),
        etag: etag(&info.version()),
    }
}

/// A guest's clock says what it likes.
pub(in crate::http) fn modified_at(info: &FileInfo) -> Timestamp {
    let (seconds, nanos) = info.modified;
    let at = Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0));
    at.unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// A strong one (RFC 9110, 8.8.3), as far as a file system tells changes.
pub(in crate::http) fn etag(version: &FileVersion) -> String {
    let FileVersion { inode, size, modified: (seconds, nanos) } = version;
    format!("\"{inode:x}-{size:x}-{seconds:x}-{nanos:x}\"")
}

/// What one of our own names.
pub(in crate::http) fn version_of(etag: &str) -> Option<FileVersion> {
    let mut parts = etag.strip_prefix('"')?.strip_suffix('"')?.split('-');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let (inode, size, seconds) = (number()?, number()?, number()?.cast_signed());
    let nanos = u32::try_from(number()?).ok()?;
    parts.next().is_none().then_some(FileVersion { inode, size, modified: (seconds, nanos) })
}

/// Sixteen digits.
pub(in crate::http) fn upload_id(text: &str) -> Result<UploadId, String> {
    let digits = text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
    match u64::from_str_radix(text, 16) {
        Ok(id) if digits => Ok(UploadId(id.to_be_bytes())),
        _ => Err(format!("the upload `{text}` is not 16 hex digits")),
    }
}

/// chmod(2): twelve bits.
pub(in crate::http) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("the mode `{text}` is not octal up to 7777"))
}

/// chown(2) knows one of them alone; a guest does not.
pub(in crate::http) fn owner(
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<Option<(u32, u32)>, String> {
    match (uid, gid) {
        (Some(uid), Some(gid)) => Ok(Some((uid, gid))),
        (None, None) => Ok(None),
        _ => Err("give both uid and gid, or neither".to_owned()),
    }
}

pub(in crate::http) fn modified(at: Timestamp) -> (i64, u32) {
    // Floor: the nanoseconds of a guest's time are never negative.
    let nanos = at.subsec_nanosecond();
    match u32::try_from(nanos) {
        Ok(nanos) => (at.as_second(), nanos),
        Err(_) => (at.as_second() - 1, (1_000_000_000 + nanos).unsigned_abs()),
    }
}

pub(in crate::http) fn attributes(change: &api::FileAttributes) -> Result<FileAttributes, String> {
    Ok(FileAttributes {
        mode: change.mode.as_deref().map(mode).transpose()?,
        owner: owner(change.uid, change.gid)?,
        modified: change.modified_at.map(modified),
    })
}

pub(in crate::http) fn file_change(change: FileChange) -> api::FileChange {
    let FileChange { kind, path, from, directory } = change;
    api::FileChange { kind: change_kind(kind), path, from, directory }
}

pub(in crate::http) fn hex(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::FileKind;

    #[test]
    fn an_etag_names_one_version() {
        for modified in [(1_700_000_000, 999_999_999), (-1, 0), (i64::MIN, 5)] {
            let version = FileVersion { inode: u64::MAX, size: 7, modified };
            assert_eq!(version_of(&etag(&version)), Some(version));
        }
        for foreign in
            ["", "*", "\"\"", "W/\"1-2-3-4\"", "\"1-2-3\"", "\"1-2-3-4-5\"", "\"x-2-3-4\""]
        {
            assert_eq!(version_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn times_before_the_epoch_have_no_negative_part() {
        let at = Timestamp::new(-2, -500_000_000).unwrap();
        assert_eq!(modified(at), (-3, 500_000_000));
        assert_eq!(modified(Timestamp::new(2, 5).unwrap()), (2, 5));
        let info = FileInfo {
            kind: FileKind::File,
            size: 0,
            mode: 0o4755,
            uid: 0,
            gid: 0,
            modified: (i64::MAX, u32::MAX),
            target: None,
            inode: 1,
            allocated: 0,
            links: 1,
        };
        assert_eq!(file_info("/a/b/", &info).name, "b");
        assert_eq!(file_info("/", &info).name, "/");
        assert_eq!(file_info("/", &info).mode, "4755");
        assert_eq!(modified_at(&info), Timestamp::MAX);
    }

    #[test]
    fn what_a_guest_would_misread_is_refused() {
        assert_eq!(upload_id("00000000000000Ff").unwrap().0[7], 0xff);
        assert!(upload_id("ff").is_err() && upload_id("+000000000000001").is_err());
        assert_eq!((mode("0644"), mode("7777")), (Ok(0o644), Ok(0o7777)));
        assert!(mode("8").is_err() && mode("10000").is_err() && mode("").is_err());
        assert!(owner(Some(1), None).is_err());
    }
}
