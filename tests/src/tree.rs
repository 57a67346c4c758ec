//! Two root file systems, entry by entry: one unpacked on this host by umoci,
//! one as a guest sees it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Prints one [`Entry`] as JSON for everything on a guest's root file system.
pub const LISTER: &str = include_str!("list_tree.py");

/// All that can be told of one entry but its inode number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Hex of the path's bytes, relative to the root.
    pub path: String,
    pub kind: String,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of files, 0 otherwise.
    pub size: u64,
    /// Seconds; 0 for directories, which making their entries changes.
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Hex of a link's target.
    pub target: Option<String>,
    /// Hex of each value by name.
    pub xattrs: BTreeMap<String, String>,
    pub sha256: Option<String>,
    /// The first path, in order, of a file with several names.
    pub same_as: Option<String>,
}

impl Entry {
    /// The path for people.
    pub fn shown(&self) -> String {
        let bytes: Vec<u8> = (0..self.path.len())
            .step_by(2)
            .filter_map(|i| u8::from_str_radix(&self.path[i..i + 2], 16).ok())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Reads what [`LISTER`] printed.
pub fn parse(lines: &str) -> Vec<Entry> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let mut entries: Vec<Entry> = lines.lines().map(parse).collect();
    sort_and_link(&mut entries);
    entries
}

/// Lists a directory of this host, as root.
pub fn list(root: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let described = describe(root, &path);
            if described.kind == "dir" {
                pending.push(path);
            }
            entries.push(described);
        }
    }
    sort_and_link(&mut entries);
    entries
}

fn describe(root: &Path, path: &Path) -> Entry {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let is_file = kind.is_file();
    let name = if kind.is_dir() {
        "dir"
    } else if is_file {
        "file"
    } else if kind.is_symlink() {
        "link"
    } else if kind.is_char_device() {
        "char"
    } else if kind.is_block_device() {
        "block"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        "socket"
    };
    let device = (name == "char" || name == "block")
        .then(|| (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())));
    Entry {
        path: hex(path.strip_prefix(root).unwrap().as_os_str().as_bytes()),
        kind: name.into(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: if is_file { meta.size() } else { 0 },
        mtime: if kind.is_dir() { 0 } else { meta.mtime() },
        device,
        target: kind
            .is_symlink()
            .then(|| hex(std::fs::read_link(path).unwrap().as_os_str().as_bytes())),
        xattrs: xattrs(path),
        sha256: is_file.then(|| hex(&Sha256::digest(std::fs::read(path).unwrap()))),
        same_as: (is_file && meta.nlink() > 1).then(|| format!("{}:{}", meta.dev(), meta.ino())),
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 65536];
    let n = llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65536];
        let n = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.insert(String::from_utf8_lossy(name).into_owned(), hex(&value[..n]));
    }
    found
}

/// Orders by path, and says by path which names are one file: inode numbers
/// are another file system's own.
fn sort_and_link(entries: &mut [Entry]) {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for entry in entries {
        if let Some(inode) = entry.same_as.take() {
            entry.same_as = Some(first.entry(inode).or_insert_with(|| entry.path.clone()).clone());
        }
    }
}

/// What differs, one line each; `ignore` names paths that need not be equal.
pub fn differences(expected: &[Entry], seen: &[Entry], ignore: &[&str]) -> Vec<String> {
    let ignored = |e: &&Entry| {
        let path = e.shown();
        !ignore.iter().any(|i| path == *i || path.starts_with(&format!("{i}/")))
    };
    let by_path = |all: &'_ [Entry]| -> BTreeMap<String, Entry> {
        all.iter().filter(ignored).map(|e| (e.path.clone(), e.clone())).collect()
    };
    let (expected, seen) = (by_path(expected), by_path(seen));
    let mut found = Vec::new();
    for (path, entry) in &expected {
        match seen.get(path) {
            None => found.push(format!("missing: {}", entry.shown())),
            Some(other) if other != entry => {
                found.push(format!("differs: {}\n  {entry:?}\n  {other:?}", entry.shown()));
            }
            Some(_) => {}
        }
    }
    let extra = seen.values().filter(|e| !expected.contains_key(&e.path));
    found.extend(extra.map(|e| format!("not in the image: {}", e.shown())));
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small tree with a file of two names, a link and an attribute.
    fn sample() -> (tempfile::TempDir, Vec<Entry>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), "content").unwrap();
        std::fs::hard_link(dir.path().join("d/file"), dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink("d/file", dir.path().join("link")).unwrap();
        let entries = list(dir.path());
        (dir, entries)
    }

    fn change(entries: &[Entry], path: &str, change: impl Fn(&mut Entry)) -> Vec<String> {
        let mut changed = entries.to_vec();
        change(changed.iter_mut().find(|e| e.shown() == path).unwrap());
        differences(entries, &changed, &[])
    }

    #[test]
    fn lists_what_is_there() {
        let (_dir, entries) = sample();
        let paths: Vec<_> = entries.iter().map(Entry::shown).collect();
        assert_eq!(paths, ["d", "d/file", "link", "other"]);
        assert_eq!(entries[3].same_as.as_ref(), Some(&entries[1].path));
        assert_eq!(entries[2].target.as_deref(), Some("642f66696c65"));
        assert_eq!(entries[1].size, 7);
        assert!(differences(&entries, &entries, &[]).is_empty());
    }

    #[test]
    fn every_kind_of_difference_is_one() {
        let (_dir, entries) = sample();
        assert_eq!(change(&entries, "d/file", |e| e.mode ^= 0o4000).len(), 1);
        assert_eq!(change(&entries, "d/file", |e| e.uid += 1).len(), 1);
        assert_eq!(change(&entries, "d/file", |e| e.mtime += 1).len(), 1);
        assert_eq!(change(&entries, "d/file", |e| e.sha256 = Some("0".into())).len(), 1);
        assert_eq!(change(&entries, "other", |e| e.same_as = None).len(), 1);
        assert_eq!(change(&entries, "link", |e| e.target = None).len(), 1);
        let xattr = |e: &mut Entry| drop(e.xattrs.insert("user.x".into(), "00".into()));
        assert_eq!(change(&entries, "d", xattr).len(), 1);
        assert_eq!(differences(&entries, &entries[1..], &[]).len(), 1);
        assert_eq!(differences(&entries[1..], &entries, &[]).len(), 1);
    }

    #[test]
    fn what_is_ignored_is_ignored_with_all_below() {
        let (_dir, entries) = sample();
        let without: Vec<_> = entries[2..].to_vec();
        assert!(differences(&entries, &without, &["d", "other"]).is_empty());
        assert_eq!(differences(&entries, &without, &["dd"]).len(), 2);
    }
}
