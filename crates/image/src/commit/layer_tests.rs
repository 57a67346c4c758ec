//! Two disks made with e2fsprogs, as a guest's overlayfs would leave them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "test code: a panic is a failure, and e2fsprogs makes what is read"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

fn has(test: &str) -> bool {
    let there = ["mkfs.ext4", "debugfs"].iter().all(|program| {
        Command::new(program).arg("-V").stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    });
    if !there {
        println!("SKIPPED {test}: e2fsprogs is not there");
    }
    there
}

/// A disk made by commands of debugfs, in which `write NAME` has that name as
/// its content.
fn disk(dir: &TempDir, name: &str, commands: &str) -> Volume {
    let image: PathBuf = dir.path().join(name);
    let path = image.to_str().unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-O", "^metadata_csum,^resize_inode", path, "16M"])
        .status()
        .unwrap();
    assert!(made.success());
    let mut debugfs = Command::new("debugfs")
        .args(["-w", "-f", "-", path])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut script = String::new();
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("write ") {
            Some(name) => {
                let content = dir.path().join(name.replace('/', "_"));
                fs::write(&content, name).unwrap();
                script.push_str(&format!("write {} {name}\n", content.display()));
            }
            None => script.push_str(&format!("{line}\n")),
        }
    }
    debugfs.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(debugfs.wait().unwrap().success());
    Volume::open(fs::File::open(&image).unwrap()).unwrap()
}

/// Names with what they are.
fn layer(upper: &Volume, lower: &Volume, scope: LayerScope) -> BTreeMap<String, String> {
    let mut tar = Vec::new();
    pack(upper, lower, scope, &mut tar).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Regular => drop(entry.read_to_string(&mut text).unwrap()),
            EntryType::Link | EntryType::Symlink => {
                text = format!("-> {}", entry.link_name().unwrap().unwrap().display());
            }
            other => text = format!("{other:?}"),
        }
        assert!(found.insert(name, text).is_none());
    }
    found
}

const LOWER: &str = "mkdir etc
    write etc/hosts
    write etc/passwd
    mkdir kept
    write kept/file
    mkdir gone
    write gone/file
    mkdir moved
    mkdir moved/inner
    write moved/file
    write moved/inner/deep
    mkdir a
    mkdir a/b
    write a/b/far";

#[test]
fn what_was_removed_replaced_and_renamed_is_told() {
    let test = "what_was_removed_replaced_and_renamed_is_told";
    if !has(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lower = disk(&dir, "lower", LOWER);
    let upper = disk(
        &dir,
        "upper",
        "mkdir work
        mkdir upper
        mkdir upper/etc
        write upper/etc/hosts
        write upper/etc/hostname
        write upper/etc/group
        mkdir upper/kept
        write upper/kept/new
        cd upper
        mknod gone c 0 0
        ln kept/new again
        set_inode_field again links_count 2
        symlink link kept/new
        cd ..
        mkdir upper/a
        mkdir upper/a/b
        write upper/a/b/near
        ea_set upper/a/b trusted.overlay.opaque y
        mkdir upper/renamed
        ea_set upper/renamed trusted.overlay.redirect /moved
        write upper/renamed/more
        cd upper/renamed
        mknod file c 0 0
        cd ../..
        cd upper
        mknod moved c 0 0
        cd ..",
    );
    let changes = layer(&upper, &lower, LayerScope::Changes);
    let expected: BTreeMap<String, String> = [
        (".", "Directory"),
        (".wh.gone", ""),
        (".wh.moved", ""),
        ("a", "Directory"),
        ("a/b", "Directory"),
        ("a/b/.wh..wh..opq", ""),
        ("a/b/near", "upper/a/b/near"),
        ("again", "upper/kept/new"),
        ("etc", "Directory"),
        ("etc/group", "upper/etc/group"),
        ("kept", "Directory"),
        ("kept/new", "-> again"),
        ("link", "-> kept/new"),
        ("renamed", "Directory"),
        ("renamed/.wh..wh..opq", ""),
        ("renamed/inner", "Directory"),
        ("renamed/inner/deep", "moved/inner/deep"),
        ("renamed/more", "upper/renamed/more"),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    assert_eq!(changes, expected);

    let whole = layer(&upper, &lower, LayerScope::Whole);
    assert!(whole.keys().all(|name| !name.contains(".wh.")), "{whole:?}");
    assert_eq!(whole["etc/hosts"], "etc/hosts", "the image's, not the VM's");
    assert_eq!(whole["kept/file"], "kept/file");
    assert!(whole.contains_key("a/b/near") && !whole.contains_key("a/b/far"));
    assert!(!whole.contains_key("gone/file") && !whole.contains_key("moved/file"));
}

#[test]
fn a_vm_that_never_ran_has_changed_nothing() {
    if !has("a_vm_that_never_ran_has_changed_nothing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (lower, upper) = (disk(&dir, "lower", LOWER), disk(&dir, "upper", ""));
    assert!(layer(&upper, &lower, LayerScope::Changes).is_empty());
    assert_eq!(layer(&upper, &lower, LayerScope::Whole)["moved/inner/deep"], "moved/inner/deep");
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    if !has("what_a_layer_cannot_say_is_refused") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lower = disk(&dir, "lower", LOWER);
    for (commands, word) in [
        ("mkdir upper\nwrite upper/.wh.own", "rename it"),
        ("mkdir upper\nmkdir upper/x\nea_set upper/x trusted.overlay.redirect /nowhere", "renamed"),
        ("mkdir upper\nwrite upper/f\nea_set upper/f trusted.overlay.metacopy x", "metacopy"),
    ] {
        let upper = disk(&dir, "upper", commands);
        let error = pack(&upper, &lower, LayerScope::Changes, io::sink()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn times_before_1970_have_their_sign_in_front() {
    assert_eq!(decimal(5, 7), "5.000000007");
    assert_eq!(decimal(-1, 500_000_000), "-0.500000000");
    assert_eq!(decimal(-86_400, 0), "-86400.000000000");
}
