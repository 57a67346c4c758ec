//! Files, by every kind of guest.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use inn_tests::wait;
use rustix::process::Signal;
use serde_json::Value;

use crate::guests::Guest;

const MIB: usize = 1 << 20;

/// Bytes of which no block is like another.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.chunks_mut(8) {
        // xorshift64 (Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    bytes
}

pub(crate) fn stat(guest: &Guest, path: &str) -> Value {
    guest.inn(&["files", "stat", "-o", "json", &guest.at(path)]).json()
}

pub(crate) fn names(guest: &Guest, dir: &str) -> Vec<String> {
    let list = guest.inn(&["files", "ls", "-o", "json", &guest.at(dir)]).json();
    let names = list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned());
    names.collect()
}

pub(crate) fn large_file_both_ways(guest: &Guest) {
    let (dir, here) = (guest.dir("large"), guest.host_dir("large"));
    let data = noise(104 * MIB + 4321);
    fs::write(here.join("in"), &data).unwrap();
    fs::set_permissions(here.join("in"), fs::Permissions::from_mode(0o640)).unwrap();
    let there = guest.at(&format!("{dir}/file"));
    let long = Duration::from_secs(300);
    guest.inn(&["cp", "-p", "in", &there]).dir(&here).limit(long).ok();
    let seen = guest.sh(&format!("stat -c '%s %a %Y' {dir}/file"));
    let modified = fs::metadata(here.join("in")).unwrap().mtime();
    assert_eq!(seen, format!("{} 640 {modified}\n", data.len()));
    guest.inn(&["cp", "-p", &there, "out"]).dir(&here).limit(long).ok();
    assert!(fs::read(here.join("out")).unwrap() == data, "the file came back another");
    let back = fs::metadata(here.join("out")).unwrap();
    assert_eq!((back.mode() & 0o777, back.mtime()), (0o640, modified));
    guest.inn(&["files", "rm", "-r", &guest.at(&dir)]).ok();
    fs::remove_dir_all(here).unwrap();
}

/// A gibibyte that is nearly all hole crosses as little as it holds.
pub(crate) fn holes_stay_holes(guest: &Guest) {
    let (dir, here) = (guest.dir("sparse"), guest.host_dir("sparse"));
    let file = fs::File::create(here.join("in")).unwrap();
    let size = 1 << 30;
    file.set_len(size).unwrap();
    let end = size - 7;
    std::os::unix::fs::FileExt::write_all_at(&file, b"the end", end).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 300 << 20).unwrap();
    let there = guest.at(&format!("{dir}/file"));
    guest.inn(&["cp", "in", &there]).dir(&here).ok();
    let seen = stat(guest, &format!("{dir}/file"));
    assert_eq!(seen["sizeBytes"], size, "{seen}");
    assert!(seen["allocatedBytes"].as_u64().unwrap() < 1 << 20, "{seen}");
    guest.inn(&["cp", &there, "out"]).dir(&here).ok();
    let out = fs::File::open(here.join("out")).unwrap();
    let metadata = out.metadata().unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    let mut bytes = [0; 7];
    std::os::unix::fs::FileExt::read_exact_at(&out, &mut bytes, end).unwrap();
    assert_eq!(&bytes, b"the end");
    std::os::unix::fs::FileExt::read_exact_at(&out, &mut bytes, 300 << 20).unwrap();
    assert_eq!(&bytes, b"middle\0");
    guest.inn(&["files", "rm", "-r", &guest.at(&dir)]).ok();
    fs::remove_dir_all(here).unwrap();
}

pub(crate) fn single_files_are_looked_at_and_changed(guest: &Guest) {
    let dir = guest.dir("single");
    let at = |path: &str| guest.at(&format!("{dir}/{path}"));
    guest.inn(&["cp", "-", &at("a")]).stdin("content").ok();
    guest.inn(&["files", "chmod", "4750", "--uid", "12", "--gid", "34", &at("a")]).ok();
    let seen = stat(guest, &format!("{dir}/a"));
    assert_eq!(seen["kind"], "file", "{seen}");
    assert_eq!(
        (&seen["uid"], &seen["gid"], &seen["sizeBytes"]),
        (&12.into(), &34.into(), &7.into())
    );
    assert_eq!(guest.sh(&format!("stat -c '%a %u %g' {dir}/a")), "4750 12 34\n");

    guest.inn(&["files", "mkdir", &at("x/y")]).refused(1, &["x/y"]);
    guest.inn(&["files", "mkdir", "-p", "--mode", "0710", &at("x/y")]).ok();
    guest.inn(&["files", "mkdir", "-p", &at("x/y")]).ok();
    assert_eq!(guest.sh(&format!("stat -c %a {dir}/x/y")), "710\n");

    guest.inn(&["files", "mv", &at("a"), &format!("{dir}/b")]).ok();
    guest.inn(&["cp", "-", &at("a")]).stdin("another").ok();
    guest.inn(&["files", "mv", &at("a"), &format!("{dir}/b")]).refused(1, &["b"]);
    assert_eq!(guest.sh(&format!("cat {dir}/a {dir}/b")), "anothercontent");
    guest.inn(&["files", "mv", "--replace", &at("a"), &format!("{dir}/b")]).ok();
    assert_eq!(guest.sh(&format!("cat {dir}/b")), "another");

    guest.inn(&["files", "ln", "b", &at("link")]).ok();
    assert_eq!(stat(guest, &format!("{dir}/link"))["target"], "b");
    let followed = guest.inn(&["files", "stat", "-L", "-o", "json", &at("link")]).json();
    assert_eq!(followed["sizeBytes"], 7, "{followed}");
    guest.inn(&["files", "ln", "x", &at("link")]).refused(1, &["link"]);
    guest.inn(&["files", "ln", "--replace", "x", &at("link")]).ok();
    assert_eq!(guest.sh(&format!("readlink {dir}/link")), "x\n");

    assert_eq!(names(guest, &dir), ["b", "link", "x"]);
    guest.inn(&["files", "rm", &at("x")]).refused(1, &["x"]);
    guest.inn(&["files", "rm", "-r", &at("x")]).ok();
    guest.inn(&["files", "rm", &at("link")]).ok();
    guest.inn(&["files", "rm", &at("not-there")]).refused(1, &["not-there"]);
    assert_eq!(names(guest, &dir), ["b"]);
}

/// A copy that is given up leaves what was there, whole, and nothing else.
pub(crate) fn a_file_is_replaced_whole_or_not_at_all(guest: &Guest) {
    let dir = guest.dir("atomic");
    let there = guest.at(&format!("{dir}/file"));
    guest.inn(&["cp", "-", &there]).stdin("the old one").ok();
    let mut copy = guest.inn(&["cp", "-", &there]).start();
    copy.write(&noise(3 * MIB));
    wait::until("the new one has begun to arrive", || {
        let bytes = guest.sh(&format!("du -k {dir} | tail -n 1"));
        let kib: u64 = bytes.split_whitespace().next()?.parse().ok()?;
        (kib >= 1024).then_some(())
    });
    assert_eq!(guest.sh(&format!("cat {dir}/file")), "the old one");
    copy.signal(Signal::KILL);
    copy.wait(wait::PATIENCE);
    wait::until("the half is gone", || (names(guest, &dir) == ["file"]).then_some(()));
    assert_eq!(guest.sh(&format!("cat {dir}/file")), "the old one");
    guest.inn(&["cp", "-", &there]).stdin("the new one").ok();
    assert_eq!(guest.sh(&format!("cat {dir}/file; ls -A {dir}")), "the new onefile\n");
}

pub(crate) fn trees_both_ways(guest: &Guest) {
    let (dir, here) = (guest.dir("trees"), guest.host_dir("trees"));
    let site = here.join("site");
    fs::create_dir_all(site.join("deep/er")).unwrap();
    fs::create_dir(site.join("empty")).unwrap();
    fs::write(site.join("deep/er/large"), noise(3 * MIB + 5)).unwrap();
    for n in 0..200 {
        fs::write(site.join(format!("deep/{n}")), n.to_string()).unwrap();
    }
    fs::write(site.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(site.join("run.sh"), fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("../up", site.join("deep/link")).unwrap();
    guest.inn(&["cp", "./site", &guest.at(&format!("{dir}/"))]).dir(&here).ok();
    let script = format!(
        "cd {dir}/site; ls deep | wc -l; cat deep/17; readlink deep/link; stat -c %a run.sh"
    );
    assert_eq!(guest.sh(&script), "202\n17../up\n751\n");
    guest.inn(&["cp", &guest.at(&format!("{dir}/site")), "./back"]).dir(&here).ok();
    assert_eq!(tree_of(&here.join("back")), tree_of(&site));
    fs::remove_dir_all(here).unwrap();
}

/// Relative path, permissions, and what it holds or leads to.
fn tree_of(root: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        found.push((name, metadata.mode(), content));
    }
    found.sort();
    found
}

pub(crate) fn changes_are_told(guest: &Guest) {
    let dir = guest.dir("watched");
    guest.inn(&["files", "mkdir", &guest.at(&format!("{dir}/sub"))]).ok();
    let watch = ["files", "watch", "-r", "-o", "json", &guest.at(&dir)];
    let mut watch = guest.inn(&watch).start();
    // Nothing says that it watches, but a change that it tells of.
    let mut tries = 0..;
    wait::until("the watch has begun", || {
        let name = format!("try-{}", tries.next()?);
        guest.sh(&format!("echo x > {dir}/{name}"));
        watch.stdout_has(&name, Duration::from_millis(500)).then_some(())
    });
    let script = format!(
        "cd {dir}; echo a > sub/made; mv sub/made renamed; chmod 600 renamed; rm renamed; touch last"
    );
    guest.sh(&script);
    watch.until_stdout("last");
    watch.signal(Signal::INT);
    let told = watch.wait(wait::PATIENCE).stdout;
    let events: Vec<Value> = told.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let has = |kind: &str, path: &str| {
        let path = format!("{dir}/{path}");
        events.iter().any(|e| e["kind"] == kind && e["path"] == *path)
    };
    assert!(has("created", "sub/made") && has("modified", "sub/made"), "{told}");
    let renamed =
        events.iter().find(|e| e["kind"] == "renamed").unwrap_or_else(|| panic!("{told}"));
    assert_eq!(renamed["from"], format!("{dir}/sub/made"), "{told}");
    assert_eq!(renamed["path"], format!("{dir}/renamed"), "{told}");
    assert!(has("attributes", "renamed") && has("removed", "renamed"), "{told}");
}

pub(crate) fn a_full_disk_is_said_and_no_half_is_left(guest: &Guest) {
    let (dir, here) = (guest.dir("full"), guest.host_dir("full"));
    guest.sh(&format!("mount -t tmpfs -o size=8m none {dir}"));
    fs::write(here.join("large"), noise(20 * MIB)).unwrap();
    let there = guest.at(&format!("{dir}/large"));
    let refused = guest.inn(&["cp", "large", &there]).dir(&here).refused(1, &["large"]);
    assert!(refused.stderr.contains("full") || refused.stderr.contains("space"), "{refused}");
    assert_eq!(names(guest, &dir), [""; 0], "{refused}");
    fs::create_dir(here.join("tree")).unwrap();
    fs::rename(here.join("large"), here.join("tree/large")).unwrap();
    let refused = guest.inn(&["cp", "tree", &there]).dir(&here).refused(1, &[]);
    assert!(refused.stderr.contains("full") || refused.stderr.contains("space"), "{refused}");
    let left = guest.sh(&format!("find {dir} -type f"));
    assert_eq!(left, "", "{refused}");
    guest.sh(&format!("umount {dir}"));
    fs::remove_dir_all(here).unwrap();
}
