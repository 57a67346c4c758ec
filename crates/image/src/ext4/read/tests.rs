//! Against what mke2fs and debugfs make, and against damaged copies of it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "test code: a panic is a failure, and e2fsprogs makes what is read"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proptest::prelude::*;
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

fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{program}: {said}");
    said
}

/// A directory with a bit of everything that a file system has.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("many")).unwrap();
    for n in 0..700 {
        fs::write(dir.join(format!("many/a name that is long enough to fill blocks {n}")), "")
            .unwrap();
    }
    fs::write(dir.join("small"), "small\n").unwrap();
    fs::set_permissions(dir.join("small"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(dir.join("small"), dir.join("other")).unwrap();
    symlink("small", dir.join("fast")).unwrap();
    symlink("x".repeat(300), dir.join("slow")).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    for part in 0..40u64 {
        sparse.write_all_at(&[part as u8 + 1; 5000], part * 200_000).unwrap();
    }
    rustix::fs::setxattr(dir.join("small"), "user.short", b"1", rustix::fs::XattrFlags::empty())
        .unwrap();
    rustix::fs::setxattr(
        dir.join("other"),
        "user.long",
        &[7; 900],
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

fn made(dir: &TempDir, options: &[&str]) -> PathBuf {
    let (source, image) = (dir.path().join("source"), dir.path().join("image"));
    tree(&source);
    let mut args = options.to_vec();
    let (from, to) = (source.to_str().unwrap(), image.to_str().unwrap());
    args.extend(["-q", "-F", "-d", from, to, "32M"]);
    run("mkfs.ext4", &args, "");
    image
}

fn open(image: &Path) -> Volume {
    Volume::open(fs::File::open(image).unwrap()).unwrap()
}

fn content(volume: &Volume, inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; inode.size as usize];
    for span in volume.spans(inode).unwrap() {
        let mut part = Vec::new();
        volume.read(&span, 0, span.len, &mut part).unwrap();
        bytes[span.offset as usize..][..part.len()].copy_from_slice(&part);
    }
    bytes
}

fn find(volume: &Volume, name: &str) -> Inode {
    let root = volume.inode(ROOT).unwrap();
    volume.lookup(&root, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn reads_what_mke2fs_has_made_in_every_shape() {
    let test = "reads_what_mke2fs_has_made_in_every_shape";
    if !has(test) {
        return;
    }
    let shapes: [&[&str]; 5] = [
        &["-b", "4096", "-O", "^metadata_csum,^resize_inode,^64bit", "-E", "packed_meta_blocks=1"],
        &["-b", "4096", "-O", "metadata_csum,64bit"],
        &["-b", "1024", "-O", "meta_bg,^resize_inode"],
        &["-b", "2048", "-I", "128", "-O", "^flex_bg"],
        &["-b", "1024", "-O", "sparse_super2", "-g", "1024"],
    ];
    for shape in shapes {
        let dir = tempfile::tempdir().unwrap();
        let image = made(&dir, shape);
        let volume = open(&image);
        let source = dir.path().join("source");
        let small = find(&volume, "small");
        assert_eq!(
            (small.kind, small.mode, small.links),
            (InodeKind::File, 0o4751, 2),
            "{shape:?}"
        );
        assert_eq!(small.number, find(&volume, "other").number);
        assert_eq!(content(&volume, &small), b"small\n");
        let xattrs = volume.xattrs(&small).unwrap();
        assert_eq!(xattrs[&b"user.short"[..]], b"1");
        assert_eq!(xattrs[&b"user.long"[..]], [7; 900]);
        assert_eq!(volume.target(&find(&volume, "fast")).unwrap(), b"small");
        assert_eq!(volume.target(&find(&volume, "slow")).unwrap(), "x".repeat(300).as_bytes());
        let sparse = find(&volume, "sparse");
        assert!(content(&volume, &sparse) == fs::read(source.join("sparse")).unwrap(), "{shape:?}");
        let stored: u64 = volume.spans(&sparse).unwrap().iter().map(|span| span.len).sum();
        assert!(stored < 1 << 20, "{stored} bytes of holes are read");
        let many = volume.list(&find(&volume, "many")).unwrap();
        assert_eq!(many.len(), 700);
        let names = volume.list(&volume.inode(ROOT).unwrap()).unwrap();
        assert!(names.contains_key(&b"many"[..]) && !names.contains_key(&b".."[..]));
    }
}

#[test]
fn devices_and_access_lists_are_as_they_were_made() {
    let test = "devices_and_access_lists_are_as_they_were_made";
    if !has(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = made(&dir, &["-b", "4096"]);
    let commands = "mknod white c 0 0\nmknod null c 1 3\nmknod disk b 8 17\nmknod pipe p\n\
                    set_inode_field small mtime_extra 0x1\n";
    run("debugfs", &["-w", "-f", "-", image.to_str().unwrap()], commands);
    let volume = open(&image);
    assert!(find(&volume, "white").is_whiteout());
    assert_eq!(find(&volume, "null").kind, InodeKind::CharDevice { major: 1, minor: 3 });
    assert_eq!(find(&volume, "disk").kind, InodeKind::BlockDevice { major: 8, minor: 17 });
    assert_eq!(find(&volume, "pipe").kind, InodeKind::Fifo);
    assert!(find(&volume, "small").mtime.secs > 1 << 32, "34 bits of seconds");
}

/// What our own writer makes is what our own reader finds.
#[test]
fn the_writer_s_disks_are_read() {
    use crate::ext4::{Attr, Content, Ext4Builder, Identity, Timestamp, Tree, Xattr};
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = Ext4Builder::new(file.reopen().unwrap(), 1 << 30).unwrap();
    let acl = [&[2, 0, 0, 0, 1, 0, 6, 0][..], &[255; 4], &[2, 0, 4, 0, 232, 3, 0, 0]].concat();
    let attr = Attr {
        mode: 0o6755,
        uid: 3_000_000_000,
        gid: 100_000,
        mtime: Timestamp { secs: -86_400, nanos: 5 },
        xattrs: vec![
            Xattr::new(b"system.posix_acl_access", &acl).unwrap(),
            Xattr::new(b"security.capability", &[9; 20]).unwrap(),
        ],
    };
    let mut put = |name: &str, content| {
        builder.tree.put(Tree::ROOT, name.as_bytes(), attr.clone(), content, 1).unwrap()
    };
    put("disk", Content::BlockDevice { major: 259, minor: 300_000 });
    put("long", Content::Symlink(vec![b'l'; 4000].into()));
    let data = builder.store(10_000, &mut &[3; 10_000][..]).unwrap();
    builder.tree.put(Tree::ROOT, b"file", attr, Content::File(data), 1).unwrap();
    let identity = Identity { uuid: [1; 16], hash_seed: [2; 16], label: "test" };
    builder.finish(&identity).unwrap();
    let volume = open(file.path());
    let disk = find(&volume, "disk");
    assert_eq!(disk.kind, InodeKind::BlockDevice { major: 259, minor: 300_000 });
    assert_eq!((disk.mode, disk.uid, disk.gid), (0o6755, 3_000_000_000, 100_000));
    assert_eq!(disk.mtime, Timestamp { secs: -86_400, nanos: 5 });
    let xattrs = volume.xattrs(&disk).unwrap();
    assert_eq!(xattrs[&b"system.posix_acl_access"[..]], acl);
    assert_eq!(xattrs[&b"security.capability"[..]], [9; 20]);
    assert_eq!(volume.target(&find(&volume, "long")).unwrap(), [b'l'; 4000]);
    assert_eq!(content(&volume, &find(&volume, "file")), [3; 10_000]);
}

/// debugfs writes a transaction into the journal and does not replay it: the
/// directory's block in it has a name that the disk itself does not have.
#[test]
fn a_journal_is_replayed_and_what_it_revokes_is_not() {
    let test = "a_journal_is_replayed_and_what_it_revokes_is_not";
    if !has(test) {
        return;
    }
    for (options, open_log) in [
        ("^metadata_csum,^64bit", "jo"),
        ("^metadata_csum,64bit", "jo"),
        ("metadata_csum,64bit", "jo -c -v 3"),
        ("metadata_csum,^64bit", "jo -c -v 2"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = made(&dir, &["-b", "4096", "-O", options]);
        let path = image.to_str().unwrap();
        let inode = find(&open(&image), "slow");
        let block = open(&image).spans(&inode).unwrap()[0].block;
        let new = dir.path().join("new");
        fs::write(&new, [&b"y".repeat(300)[..], &[0; 3796]].concat()).unwrap();
        let write = format!("{open_log}\njw -b {block} {}\njc\n", new.display());
        run("debugfs", &["-w", "-f", "-", path], &write);
        let on_disk = fs::read(&image).unwrap();
        assert_eq!(on_disk[block as usize * 4096], b'x', "debugfs has replayed it itself");
        let target = open(&image);
        let target = target.target(&find(&target, "slow")).unwrap();
        assert_eq!(target, "y".repeat(300).as_bytes(), "{options}");

        let revoke = format!("{open_log}\njw -r {block}\njc\n");
        run("debugfs", &["-w", "-f", "-", path], &revoke);
        let target = open(&image);
        let target = target.target(&find(&target, "slow")).unwrap();
        assert_eq!(target, "x".repeat(300).as_bytes(), "{options}, revoked");
    }
}

#[test]
fn what_is_no_volume_of_ours_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, [0; 100]).unwrap();
    assert!(Volume::open(fs::File::open(&empty).unwrap()).is_err());
    fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let error = Volume::open(fs::File::open(&empty).unwrap()).unwrap_err();
    assert!(error.to_string().contains("no super block"), "{error}");
    if !has("what_is_no_volume_of_ours_is_named") {
        return;
    }
    let image = made(&dir, &["-b", "4096", "-O", "inline_data"]);
    let error = Volume::open(fs::File::open(&image).unwrap()).unwrap_err();
    assert!(error.to_string().contains("inline_data"), "{error}");
}

/// Everything that can be asked of a volume, as long as it has answers.
fn walk(volume: &Volume) -> Result<usize, ReadError> {
    let (mut pending, mut met, mut seen) = (vec![ROOT], 0, std::collections::HashSet::new());
    while let Some(number) = pending.pop() {
        if !seen.insert(number) {
            continue;
        }
        let inode = volume.inode(number)?;
        met += 1;
        volume.xattrs(&inode)?;
        match inode.kind {
            InodeKind::Dir => pending.extend(volume.list(&inode)?.into_values()),
            InodeKind::Symlink => drop(volume.target(&inode)?),
            InodeKind::File => {
                for span in volume.spans(&inode)? {
                    volume.read(&span, 0, span.len.min(1 << 16), &mut Vec::new())?;
                }
            }
            _ => {}
        }
    }
    Ok(met)
}

/// A small image with a journal that wants to be replayed.
fn sample() -> Option<&'static Vec<u8>> {
    static SAMPLE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let make = || {
        if !has("damaged_volumes_end_in_an_error_or_a_tree") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image =
            made(&dir, &["-b", "1024", "-O", "^metadata_csum", "-J", "size=1", "-N", "1024"]);
        let volume = open(&image);
        let block = volume.spans(&find(&volume, "slow")).unwrap()[0].block;
        let new = dir.path().join("new");
        fs::write(&new, [b'y'; 1024]).unwrap();
        let write = format!("jo\njw -b {block} {}\njc\n", new.display());
        run("debugfs", &["-w", "-f", "-", image.to_str().unwrap()], &write);
        let bytes = fs::read(&image).unwrap();
        assert!(walk(&open(&image)).unwrap() > 700);
        Some(bytes)
    };
    SAMPLE.get_or_init(make).as_ref()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Bytes of what describes the file system, turned over: it is read, or an
    /// error says why not; nothing panics, and nothing goes on for ever.
    #[test]
    fn damaged_volumes_end_in_an_error_or_a_tree(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..40),
        sparse in any::<bool>(),
    ) {
        let Some(sample) = sample() else { return Ok(()) };
        // Non-zero bytes are those that mean something.
        static MEANT: OnceLock<Vec<usize>> = OnceLock::new();
        let meant = MEANT.get_or_init(|| {
            (0..sample.len()).filter(|&at| sample[at] != 0 && at < 6 << 20).collect()
        });
        let mut bytes = sample.clone();
        for (index, flip) in flips {
            let at = if sparse { index.index(64 << 10) } else { meant[index.index(meant.len())] };
            bytes[at] ^= flip;
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        if let Ok(volume) = Volume::open(file) {
            let _ = walk(&volume);
        }
    }
}
