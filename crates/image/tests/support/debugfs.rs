//! Reads an ext4 image back with e2fsprogs, which knows nothing of our
//! writer: `e2fsck` checks it, `debugfs` says what is in it.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What one name of the image stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// As in `st_mode`, with the type.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// A file's bytes or a link's target.
    pub(crate) content: Vec<u8>,
    pub(crate) device: Option<(u32, u32)>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) inode: u64,
}

fn tool(name: &str) -> PathBuf {
    let dirs = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(name))
}

/// Whether e2fsprogs is there; otherwise says that `test` was skipped.
pub(crate) fn available(test: &str) -> bool {
    let there = tool("e2fsck").exists() && tool("debugfs").exists();
    if !there {
        println!("SKIPPED {test}: e2fsprogs is not installed");
    }
    there
}

/// Fails unless a forced check finds nothing at all to say.
#[expect(clippy::disallowed_methods, reason = "tests call the tools that they compare with")]
pub(crate) fn assert_clean(image: &Path) {
    let out = Command::new(tool("e2fsck")).arg("-fn").arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "e2fsck says:\n{text}");
    assert!(!text.contains("? no"), "e2fsck would change something:\n{text}");
}

/// Runs debugfs commands; one answer for each.
#[expect(clippy::disallowed_methods, reason = "tests call the tools that they compare with")]
fn debugfs(image: &Path, commands: &[String]) -> Vec<String> {
    if commands.is_empty() {
        return Vec::new();
    }
    let mut script = tempfile::NamedTempFile::new().unwrap();
    script.write_all(commands.join("\n").as_bytes()).unwrap();
    script.write_all(b"\n").unwrap();
    let out =
        Command::new(tool("debugfs")).arg("-f").arg(script.path()).arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // Each command is echoed behind its prompt.
    let answers: Vec<String> = text
        .split("debugfs: ")
        .skip(1)
        .map(|answer| answer.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned()))
        .collect();
    assert_eq!(answers.len(), commands.len(), "debugfs says:\n{text}");
    answers
}

/// Every path below the root, which is the empty path.
pub(crate) fn read_tree(image: &Path) -> BTreeMap<String, Found> {
    let mut inodes: BTreeMap<String, u64> = BTreeMap::from([(String::new(), 2)]);
    let mut dirs = vec![(String::new(), 2)];
    while !dirs.is_empty() {
        let commands: Vec<String> =
            dirs.iter().map(|(_, inode)| format!("ls -p <{inode}>")).collect();
        let mut below = Vec::new();
        for (answer, (path, _)) in debugfs(image, &commands).iter().zip(&dirs) {
            for line in answer.lines() {
                // /inode/mode/uid/gid/name/size/
                let fields: Vec<&str> = line.split('/').collect();
                let [_, inode, mode, _, _, name, ..] = fields[..] else { continue };
                if matches!(name, "." | "..") {
                    continue;
                }
                let inode: u64 = inode.parse().unwrap();
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                if mode.starts_with("04") {
                    below.push((path.clone(), inode));
                }
                assert!(inodes.insert(path.clone(), inode).is_none(), "{path} is there twice");
            }
        }
        dirs = below;
    }
    let mut unique: Vec<u64> = inodes.values().copied().collect();
    unique.sort_unstable();
    unique.dedup();
    let details = read_inodes(image, &unique);
    inodes.into_iter().map(|(path, inode)| (path, details[&inode].clone())).collect()
}

fn read_inodes(image: &Path, inodes: &[u64]) -> BTreeMap<u64, Found> {
    let stats: Vec<String> = inodes.iter().map(|inode| format!("stat <{inode}>")).collect();
    let mut found: BTreeMap<u64, Found> = debugfs(image, &stats)
        .iter()
        .zip(inodes)
        .map(|(text, &inode)| (inode, parse_stat(inode, text)))
        .collect();

    let scratch = tempfile::tempdir().unwrap();
    let file_of = |inode: u64| scratch.path().join(inode.to_string());
    let has_data = |found: &Found| {
        matches!(found.mode & 0o170_000, 0o100_000)
            || (found.mode & 0o170_000 == 0o120_000 && found.content.is_empty())
    };
    let dumped: Vec<u64> =
        found.values().filter(|one| has_data(one)).map(|one| one.inode).collect();
    let dumps: Vec<String> = dumped
        .iter()
        .map(|inode| format!("dump <{inode}> {}", file_of(*inode).display()))
        .collect();
    debugfs(image, &dumps);
    for inode in dumped {
        found.get_mut(&inode).unwrap().content = fs::read(file_of(inode)).unwrap();
    }

    let lists: Vec<String> = inodes.iter().map(|inode| format!("ea_list <{inode}>")).collect();
    let mut wanted: Vec<(u64, String)> = Vec::new();
    for (text, &inode) in debugfs(image, &lists).iter().zip(inodes) {
        for line in text.lines().skip_while(|line| !line.starts_with("Extended attributes")).skip(1)
        {
            if let Some((name, _)) = line.trim().split_once(" (") {
                wanted.push((inode, name.to_owned()));
            }
        }
    }
    let value_of = |n: usize| scratch.path().join(format!("value-{n}"));
    let gets: Vec<String> = wanted
        .iter()
        .enumerate()
        .map(|(n, (inode, name))| format!("ea_get -f {} <{inode}> {name}", value_of(n).display()))
        .collect();
    debugfs(image, &gets);
    for (n, (inode, name)) in wanted.into_iter().enumerate() {
        let value = fs::read(value_of(n)).unwrap();
        found.get_mut(&inode).unwrap().xattrs.insert(name, value);
    }
    found
}

fn parse_stat(inode: u64, text: &str) -> Found {
    let word_after = |key: &str| {
        let at = text.find(key).unwrap_or_else(|| panic!("no {key} in:\n{text}")) + key.len();
        text[at..].split_whitespace().next().unwrap()
    };
    let kind = match word_after("Type:") {
        "FIFO" => 0o010_000,
        "character" => 0o020_000,
        "directory" => 0o040_000,
        "block" => 0o060_000,
        "regular" => 0o100_000,
        "symlink" => 0o120_000,
        "socket" => 0o140_000,
        other => panic!("inode {inode} is a {other}"),
    };
    // "mtime: 0x5f5e0fff:3b9ac9fc -- …": seconds and the extra word.
    let (secs, extra) = word_after(" mtime: 0x").split_once(':').unwrap();
    let secs = i64::from(u32::from_str_radix(secs, 16).unwrap().cast_signed());
    let extra = u32::from_str_radix(extra, 16).unwrap();
    let device = text.contains("Device major/minor number:").then(|| {
        // "Device major/minor number: 08:01 (hex 08:01)": the first in decimal
        let (major, minor) = word_after("Device major/minor number:").split_once(':').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    });
    let fast_link = text.split_once("Fast link dest: \"").map(|(_, rest)| {
        let size: usize = word_after("Size:").parse().unwrap();
        rest.as_bytes()[..size].to_vec()
    });
    // debugfs prints ids as signed numbers.
    let id = |text: &str| text.parse::<i64>().unwrap().rem_euclid(1 << 32) as u32;
    Found {
        mode: kind | u32::from_str_radix(word_after("Mode:"), 8).unwrap(),
        uid: id(word_after("User:")),
        gid: id(word_after("Group:")),
        links: word_after("Links:").parse().unwrap(),
        mtime: (secs + (i64::from(extra & 3) << 32), extra >> 2),
        content: fast_link.unwrap_or_default(),
        device,
        xattrs: BTreeMap::new(),
        inode,
    }
}
