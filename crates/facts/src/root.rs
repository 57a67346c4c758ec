//! The directory below which a host's files are.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use inn_api::NotSeen;

/// No file that facts are read from is longer; pci.ids has 1.5 MB.
const LONGEST_FILE: u64 = 8 << 20;

/// The host that this runs on, or a tree of the files of another one.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    live: bool,
    denied: RefCell<Vec<NotSeen>>,
}

impl Root {
    pub fn host() -> Self {
        Self { dir: "/".into(), live: true, denied: RefCell::default() }
    }

    /// A tree: what a system call would tell is read from the files `statvfs`,
    /// and `nvml` in it.
    pub fn recorded(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), live: false, denied: RefCell::default() }
    }

    /// Whether system calls tell of this host.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    pub(crate) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        let read = File::open(self.path(path))
            .and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes));
        match read {
            Ok(_) => Some(bytes),
            Err(error) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.not_seen(&path.display().to_string(), &error.to_string());
                }
                None
            }
        }
    }

    /// A file's text without the white space around it.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path)?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The text, where there is any.
    pub(crate) fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        self.text(path).filter(|text| !text.is_empty())
    }

    pub(crate) fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Of a file that holds 0 or 1, or N or Y.
    pub(crate) fn flag(&self, path: impl AsRef<Path>) -> Option<bool> {
        match self.text(path)?.as_str() {
            "1" | "Y" | "y" => Some(true),
            "0" | "N" | "n" => Some(false),
            _ => None,
        }
    }

    /// What is in a directory, sorted as people would: `cpu2` before `cpu10`.
    pub(crate) fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(dir)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_cached_key(|name| (letters(name).to_owned(), digits(name), name.clone()));
        names
    }

    /// The last name of where a link leads.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    /// Where a link leads, as it is written.
    pub(crate) fn target(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        target.to_str().map(str::to_owned)
    }

    pub(crate) fn not_seen(&self, what: &str, why: &str) {
        let mut denied = self.denied.borrow_mut();
        if denied.iter().all(|one| one.what != what) {
            denied.push(NotSeen { what: what.to_owned(), why: why.to_owned() });
        }
    }

    pub(crate) fn take_not_seen(&self) -> Vec<NotSeen> {
        self.denied.take()
    }
}

fn letters(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit())
}

fn digits(name: &str) -> u64 {
    name[letters(name).len()..].parse().unwrap_or(0)
}

/// The numbers of a list such as `0-3,8`, as the kernel writes CPUs and nodes
/// (Documentation/core-api/printk-formats.rst, %*pbl).
pub(crate) fn list(text: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        // What no kernel has so many of is no list of theirs.
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>())
            && to.saturating_sub(from) < 1 << 16
        {
            all.extend(from..=to);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_ranges() {
        assert_eq!(list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(list(""), [0u32; 0]);
        assert_eq!(list("x,0-4294967295,5"), [5]);
    }

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "cpufreq", "cpu0"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let root = Root::recorded(dir.path());
        assert_eq!(root.names("/"), ["cpu0", "cpu2", "cpu10", "cpufreq"]);
    }
}
