//! What layers do to one another, on images made by hand.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::collections::BTreeMap;

use support::debugfs::available;
use support::{Cache, Found, Tar};
use tar::EntryType;

fn names(tree: &BTreeMap<String, Found>) -> Vec<&str> {
    tree.keys().map(String::as_str).collect()
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    if !available("whiteouts_hide_lower_layers_only") {
        return;
    }
    let lower = Tar::new()
        .file("a/old", "1")
        .file("a/both", "1")
        .file("b/deep/old", "1")
        .file("c", "1")
        .end();
    // The whiteouts stand before and after what their own layer brings.
    let upper = Tar::new()
        .file("a/.wh.both", "")
        .file("a/both", "2")
        .file("b/deep/new", "2")
        .file(".wh.b", "")
        .file(".wh.c", "")
        .file(".wh.never-there", "")
        .file("nowhere/.wh.x", "")
        .end();
    let tree = Cache::new().tree(&[lower, upper]);
    assert_eq!(names(&tree), ["a", "a/both", "a/old", "b", "b/deep", "b/deep/new"]);
    assert_eq!(tree["a/both"].content, b"2");
}

#[test]
fn opaque_directories_keep_what_their_own_layer_brings_before_or_after() {
    if !available("opaque_directories_keep_what_their_own_layer_brings_before_or_after") {
        return;
    }
    let lower = Tar::new().file("d/x/1", "").file("d/y", "").file("d/sub/low", "").end();
    let upper = Tar::new()
        .file("d/before", "")
        .file("d/sub/up", "")
        .file("d/.wh..wh..opq", "")
        .file("d/after", "")
        .file("d/.wh..wh.plnk", "")
        .end();
    let tree = Cache::new().tree(&[lower.clone(), upper]);
    assert_eq!(names(&tree), ["d", "d/after", "d/before", "d/sub", "d/sub/up"]);

    // A link made in this layer to a file of a lower one is this layer's.
    let upper = Tar::new().hard_link("d/kept", "d/y").file("d/.wh..wh..opq", "").end();
    let tree = Cache::new().tree(&[lower, upper]);
    assert_eq!(names(&tree), ["d", "d/kept"]);
}

#[test]
fn kinds_replace_one_another() {
    if !available("kinds_replace_one_another") {
        return;
    }
    let lower = Tar::new()
        .file("dir/in", "")
        .file("file", "")
        .symlink("link", "dir")
        .dir("again")
        .file("again/in", "")
        .end();
    let upper = Tar::new().file("dir", "a file now").file("file/in", "").end();
    let error = Cache::new().refusal(support::layout(&[lower.clone(), upper]).path());
    assert!(
        error.contains("`file/in`") && error.contains("`file`, which is not a directory"),
        "{error}"
    );

    let upper = Tar::new()
        .file("dir", "a file now")
        .dir("file")
        .file("file/in", "")
        .dir("link")
        .dir("again")
        .end();
    let tree = Cache::new().tree(&[lower, upper]);
    assert_eq!(names(&tree), ["again", "again/in", "dir", "file", "file/in", "link"]);
    assert_eq!(tree["dir"].content, b"a file now");
    assert_eq!(tree["link"].mode, 0o40_755);
}

#[test]
fn hard_links_share_an_inode_across_layers() {
    if !available("hard_links_share_an_inode_across_layers") {
        return;
    }
    let lower = Tar::new().file("a", "x").hard_link("b", "a").symlink("s", "a").end();
    let upper = Tar::new().hard_link("./d/c", "./b").hard_link("t", "s").file(".wh.a", "").end();
    let tree = Cache::new().tree(&[lower, upper]);
    assert_eq!(names(&tree), ["b", "d", "d/c", "s", "t"]);
    assert_eq!((tree["b"].inode, tree["b"].links), (tree["d/c"].inode, 2));
    assert_eq!((tree["s"].inode, tree["t"].mode), (tree["t"].inode, 0o120_644));
}

#[test]
fn parents_that_are_links_are_followed_inside_the_root_only() {
    if !available("parents_that_are_links_are_followed_inside_the_root_only") {
        return;
    }
    let layer = Tar::new()
        .dir("usr")
        .symlink("bin", "usr/bin")
        .file("bin/tool", "1")
        .symlink("out", "../../../outside")
        .file("out/file", "2")
        .symlink("abs", "/usr/./abs")
        .file("abs/file", "3")
        .end();
    let tree = Cache::new().tree(&[layer]);
    assert_eq!(tree["usr/bin/tool"].content, b"1");
    assert_eq!(tree["outside/file"].content, b"2");
    assert_eq!(tree["usr/abs/file"].content, b"3");
    assert_eq!(tree["out"].content, b"../../../outside");
    let looping = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "").end();
    let error = Cache::new().refusal(support::layout(&[looping]).path());
    assert!(error.contains("`a/x`") && error.contains("symbolic links"), "{error}");
}

#[test]
fn the_roots_own_entry_and_odd_headers_are_read() {
    if !available("the_roots_own_entry_and_odd_headers_are_read") {
        return;
    }
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(255));
    let binary = [b"one\ntwo".as_slice(), &[0, 255]].concat();
    let layer = Tar::new()
        .pax(&[("uid", b"70000"), ("gid", b"3000000000"), ("mtime", b"-1.5")])
        .dir("./")
        .entry(EntryType::GNULongName, b"././@LongLink", b"", format!("{long}\0").as_bytes())
        .file("short", "gnu")
        .pax(&[("path", long.replace('f', "p").as_bytes()), ("SCHILY.xattr.user.bin", &binary)])
        .file("short", "pax")
        .pax(&[("linkpath", "t".repeat(300).as_bytes())])
        .symlink("link", "short")
        .entry(EntryType::XGlobalHeader, b"pax_global_header", b"", b"19 comment=whatever\n")
        .file("last", "")
        .end();
    let cache = Cache::new();
    let record = cache.import(support::layout(&[layer]).path()).unwrap();
    let tree = support::debugfs::read_tree(&record.root_disk);
    assert_eq!(
        (tree[""].uid, tree[""].gid, tree[""].mtime),
        (70_000, 3_000_000_000, (-2, 500_000_000))
    );
    assert_eq!(tree[&long].content, b"gnu");
    let pax = &tree[&long.replace('f', "p")];
    assert_eq!((pax.content.as_slice(), &pax.xattrs["user.bin"]), (b"pax".as_slice(), &binary));
    assert_eq!(tree["link"].content, "t".repeat(300).into_bytes());
    assert!(tree.contains_key("last"));
    assert_eq!(record.config.cmd, ["/bin/sh"]);
}

#[test]
fn a_tar_may_end_with_its_last_byte_of_data() {
    if !available("a_tar_may_end_with_its_last_byte_of_data") {
        return;
    }
    let mut layer = Tar::new().file("a", "12").file("b", "345").0;
    layer.truncate(512 + 512 + 512 + 3);
    let tree = Cache::new().tree(&[layer]);
    assert_eq!(
        (tree["a"].content.as_slice(), tree["b"].content.as_slice()),
        (&b"12"[..], &b"345"[..])
    );
}

#[test]
fn sparse_files_of_every_form_are_whole() {
    if !available("sparse_files_of_every_form_are_whole") {
        return;
    }
    let expected = |size: usize| {
        let mut bytes = vec![0; size];
        bytes[5000..5003].copy_from_slice(b"abc");
        bytes[20_000..20_004].copy_from_slice(b"defg");
        bytes
    };
    let map = "2\n5000\n3\n20000\n4\n";
    let mut in_data = map.as_bytes().to_vec();
    in_data.resize(512, 0);
    in_data.extend_from_slice(b"abcdefg");
    let layer = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one-zero"),
            ("GNU.sparse.realsize", b"30000"),
        ])
        .entry(EntryType::Regular, b"GNUSparseFile.0/x", b"", &in_data)
        .pax(&[
            ("GNU.sparse.size", b"20004"),
            ("GNU.sparse.map", b"5000,3,20000,4"),
            ("GNU.sparse.name", b"zero-one"),
        ])
        .file("x", "abcdefg")
        .pax(&[
            ("GNU.sparse.size", b"30000"),
            ("GNU.sparse.offset", b"5000"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"20000"),
            ("GNU.sparse.numbytes", b"4"),
        ])
        .file("zero-zero", "abcdefg")
        .end();
    let tree = Cache::new().tree(&[layer]);
    assert_eq!(tree["one-zero"].content, expected(30_000));
    assert_eq!(tree["zero-one"].content, expected(20_004));
    assert_eq!(tree["zero-zero"].content, expected(30_000));
}
