//! Hostile layers, one named test for each kind: an import either succeeds,
//! with a file system that e2fsck has nothing to say about and the content that
//! a container's engine would show, or it ends in one sentence; and it never
//! touches anything outside its cache, nor takes more time or memory than it
//! may.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::debugfs::{assert_clean, available, read_tree};
use support::{Cache, Found, Tar, digest, host_architecture, layout, layout_of};
use tar::EntryType;

/// For one import, by a build without optimisation on a busy machine: what is
/// bounded ends long before, what is not never does.
const PATIENCE: Duration = Duration::from_secs(240);

/// Beyond what this process had before.
const MEMORY: u64 = 512 << 20;

/// The longest sentence that a refusal may be.
const SENTENCE: usize = 1000;

/// A cache beside a directory that is none of its business.
struct Fence {
    dir: tempfile::TempDir,
    cache: Cache,
    began: Instant,
    memory: u64,
}

impl Fence {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "the host's own").unwrap();
        let inner = tempfile::tempdir_in(dir.path()).unwrap();
        let cache = Cache::at(inner);
        Self { dir, cache, began: Instant::now(), memory: most_memory() }
    }

    /// A path of the host that layers try to reach.
    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// The tree of an image that is good for all its hostility.
    fn taken(self, layers: &[Vec<u8>]) -> BTreeMap<String, Found> {
        let record = self.cache.import(layout(layers).path()).unwrap_or_else(|e| panic!("{e}"));
        self.cache.assert_no_leftovers();
        assert_clean(&record.root_disk);
        let tree = read_tree(&record.root_disk);
        self.untouched();
        tree
    }

    fn refused(self, layers: &[Vec<u8>], parts: &[&str]) {
        self.refused_from(layout(layers).path(), parts);
    }

    fn refused_from(self, image: &Path, parts: &[&str]) {
        let sentence = self.cache.refusal(image);
        for part in parts {
            assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
        }
        assert!(sentence.len() <= SENTENCE && !sentence.contains('\n'), "{sentence:?}");
        self.untouched();
    }

    fn untouched(self) {
        let took = self.began.elapsed();
        assert!(took < PATIENCE, "it took {took:?}");
        let grown = most_memory().saturating_sub(self.memory);
        assert!(grown < MEMORY, "it took {} MiB", grown >> 20);
        let names: Vec<_> =
            fs::read_dir(self.outside()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        let secret = fs::read_to_string(self.outside().join("secret")).unwrap();
        assert_eq!(secret, "the host's own");
        // Beside it there is the cache and nothing else.
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }
}

/// VmHWM of proc(5).
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

fn names(tree: &BTreeMap<String, Found>) -> Vec<&str> {
    tree.keys().map(String::as_str).filter(|name| !name.is_empty()).collect()
}

/// With the first header's checksum made right again.
fn rechecked(mut tar: Vec<u8>) -> Vec<u8> {
    let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
    header.set_cksum();
    tar[..512].copy_from_slice(header.as_bytes());
    tar
}

#[test]
fn parents_that_escape_by_dots() {
    for name in ["../pwned", "a/../../pwned", "./../pwned", "a/b/../../../pwned", ".."] {
        let layer = Tar::new().dir("a").dir("a/b").file(name, "x").end();
        Fence::new().refused(&[layer], &["`..`", "layer 1"]);
    }
    Fence::new().refused(&[Tar::new().dir("..").end()], &["`..`"]);
    let fence = Fence::new();
    let absolute = fence.outside().join("pwned");
    let layer = Tar::new().file(absolute.to_str().unwrap(), "x").end();
    fence.refused(&[layer], &["absolute"]);
}

#[test]
fn parents_that_escape_by_symbolic_links() {
    if !available("parents_that_escape_by_symbolic_links") {
        return;
    }
    let fence = Fence::new();
    let outside = fence.outside().to_str().unwrap().to_owned();
    let layer = Tar::new()
        .symlink("up", "../../../../../../..")
        .symlink("out", &outside)
        .file("up/over", "1")
        .file("out/secret", "2")
        .symlink("out/link", "/etc/passwd")
        .end();
    let tree = fence.taken(&[layer]);
    // As the guest's own kernel would have it: from the image's root.
    assert_eq!(tree["over"].content, b"1");
    let inside = outside.trim_start_matches('/');
    assert_eq!(tree[&format!("{inside}/secret")].content, b"2");
    assert_eq!(tree[&format!("{inside}/link")].content, b"/etc/passwd");

    // A file of that name does not write through the link.
    let layer = Tar::new().symlink("target", &outside).file("target", "mine").end();
    let tree = Fence::new().taken(&[layer]);
    assert_eq!(tree["target"].content, b"mine");

    let rings = Tar::new().symlink("a", "b/x").symlink("b", "a/x").file("a/y", "").end();
    Fence::new().refused(&[rings], &["`a/y`", "symbolic links"]);
}

#[test]
fn parents_that_escape_by_hard_links() {
    if !available("parents_that_escape_by_hard_links") {
        return;
    }
    let fence = Fence::new();
    let secret = fence.outside().join("secret");
    let layer = Tar::new().hard_link("stolen", secret.to_str().unwrap()).file("stolen", "x").end();
    fence.refused(&[layer], &["`stolen`", "hard link"]);
    for target in ["../outside/secret", "a/../../outside/secret", "gone", ".", "stolen"] {
        let layer = Tar::new().dir("a").hard_link("stolen", target).end();
        Fence::new().refused(&[layer], &["`stolen`", "hard link"]);
    }

    // Through a link, and to a link: both stay inside.
    let fence = Fence::new();
    let outside = fence.outside().to_str().unwrap().to_owned();
    let layer = Tar::new().symlink("out", &outside).hard_link("stolen", "out/secret").end();
    fence.refused(&[layer], &["`stolen`", "not there"]);
    let layer = Tar::new().symlink("link", "/etc/passwd").hard_link("same", "link").end();
    let tree = Fence::new().taken(&[layer]);
    assert_eq!(
        (tree["same"].inode, tree["same"].content.as_slice()),
        (tree["link"].inode, b"/etc/passwd".as_slice())
    );
}

#[test]
fn a_directory_that_becomes_a_link_between_layers() {
    if !available("a_directory_that_becomes_a_link_between_layers") {
        return;
    }
    let fence = Fence::new();
    let outside = fence.outside().to_str().unwrap().to_owned();
    let layers = [
        Tar::new().dir("d").file("d/below", "1").end(),
        Tar::new().symlink("d", &outside).end(),
        Tar::new().file("d/pwned", "2").file("d/.wh.secret", "").end(),
    ];
    let tree = fence.taken(&layers);
    assert_eq!(tree["d"].content, outside.as_bytes());
    assert!(!tree.contains_key("d/below"));
    let inside = outside.trim_start_matches('/');
    assert_eq!(tree[&format!("{inside}/pwned")].content, b"2");

    // The other way round, in one layer too.
    let layers = [
        Tar::new().dir("real").file("real/a", "1").symlink("d", "real").end(),
        Tar::new().dir("d").file("d/b", "2").end(),
    ];
    let tree = Fence::new().taken(&layers);
    assert_eq!(names(&tree), ["d", "d/b", "real", "real/a"]);
}

#[test]
fn device_nodes_are_inodes_and_nothing_more() {
    if !available("device_nodes_are_inodes_and_nothing_more") {
        return;
    }
    let node = |kind, name: &str, major: u32, minor: u32| {
        let mut tar = Tar::new().entry(kind, name.as_bytes(), b"", b"").0;
        let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        tar
    };
    let mut layer = node(EntryType::Char, "mem", 1, 1);
    layer.extend(node(EntryType::Block, "disk", 254, 0));
    layer.extend(node(EntryType::Fifo, "pipe", 0, 0));
    let tree = Fence::new().taken(&[Tar(layer).end()]);
    assert_eq!((tree["mem"].mode & 0o170_000, tree["mem"].device), (0o020_000, Some((1, 1))));
    assert_eq!((tree["disk"].mode & 0o170_000, tree["disk"].device), (0o060_000, Some((254, 0))));
    assert_eq!(tree["pipe"].mode & 0o170_000, 0o010_000);

    // A parent that is one, and a number that Linux has not.
    let mut layer = node(EntryType::Char, "null", 1, 3);
    layer.extend(Tar::new().file("null/x", "").0);
    Fence::new().refused(&[Tar(layer).end()], &["`null/x`", "not a directory"]);
    let layer = node(EntryType::Char, "odd", 1 << 20, 1);
    Fence::new().refused(&[Tar(layer).end()], &["`odd`", "device number"]);
}

#[test]
fn names_of_ten_thousand_bytes() {
    let one = "n".repeat(10_000);
    let many = "nn/".repeat(3_333) + "n";
    for name in [&one, &many] {
        let pax = Tar::new().pax(&[("path", name.as_bytes())]).file("x", "").end();
        Fence::new().refused(&[pax], &["bytes"]);
        let text = format!("{name}\0");
        let gnu = Tar::new()
            .entry(EntryType::GNULongName, b"././@LongLink", b"", text.as_bytes())
            .file("x", "")
            .end();
        Fence::new().refused(&[gnu], &["bytes"]);
        let link = Tar::new().pax(&[("linkpath", name.as_bytes())]).symlink("x", "y").end();
        Fence::new().refused(&[link], &["`x`", "too long"]);
        let hard = Tar::new().pax(&[("linkpath", name.as_bytes())]).hard_link("x", "y").end();
        Fence::new().refused(&[hard], &["`x`", "hard link"]);
    }
}

#[test]
fn a_million_entries() {
    if !available("a_million_entries") {
        return;
    }
    let fence = Fence::new();
    let record = fence.cache.import(with_thousands(300).path()).unwrap_or_else(|e| panic!("{e}"));
    assert_clean(&record.root_disk);
    fence.untouched();
    // An agent's memory is not a layer's to fill.
    Fence::new().refused_from(with_thousands(1_000).path(), &["layer 1", "92 MiB", "500,000"]);
}

/// A layer of so many directories with 1,000 entries each, made and compressed
/// as it goes: of a thousand the tar has 1 GB.
fn with_thousands(dirs: usize) -> tempfile::TempDir {
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut whole = sha2::Sha256::default();
    let mut write = |bytes: &[u8]| {
        sha2::Digest::update(&mut whole, bytes);
        packed.write_all(bytes).unwrap();
    };
    for dir in 0..dirs {
        write(&Tar::new().dir(&format!("d{dir}")).0);
        let entry = Tar::new().file("name", "").0;
        let mut header = tar::Header::from_byte_slice(&entry[..512]).clone();
        for file in 0..999 {
            let name = format!("d{dir}/{file}");
            header.as_old_mut().name = [0; 100];
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            write(header.as_bytes());
        }
    }
    write(&[0; 1024]);
    let packed = packed.finish().unwrap();
    let diff_id = inn_units::Digest::from_sha256(sha2::Digest::finalize(whole).into());
    support::layout_with(&[(packed, diff_id)], host_architecture())
}

#[test]
fn a_bomb_of_zeros() {
    let zeros = vec![0u8; 16 << 20];
    let mut header = Tar::new().file("bomb", "");
    header.0[124..136].copy_from_slice(b"77777777777\0");
    let header = rechecked(header.0);
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.write_all(&header).unwrap();
    (0..192).for_each(|_| zstd.write_all(&zeros).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&header).unwrap();
    (0..192).for_each(|_| gzip.write_all(&zeros).unwrap());
    for bomb in [zstd.finish().unwrap(), gzip.finish().unwrap()] {
        let image = layout_of(&[(bomb, Vec::new())], host_architecture());
        Fence::new().refused_from(image.path(), &["layer 1", "200 times"]);
    }
}

#[test]
fn sizes_that_lie() {
    // Of an entry: more than there is, less, more than any disk, and none.
    let sized = |octal: &[u8; 12]| {
        let mut tar = Tar::new().file("lie", &"x".repeat(1000));
        tar.0[124..136].copy_from_slice(octal);
        tar.0 = rechecked(tar.0);
        tar.file("next", "").end()
    };
    Fence::new().refused(&[sized(b"00000010000\0")], &["layer 1", "truncated"]);
    Fence::new().refused(&[sized(b"00000000001\0")], &["layer 1", "damaged"]);
    Fence::new().refused(&[sized(b"77777777777\0")], &["layer 1"]);
    Fence::new().refused(&[sized(b"-0000000001\0")], &["layer 1", "size is not a number"]);
    let pax = Tar::new().pax(&[("size", b"18446744073709551615")]).file("lie", "x").end();
    Fence::new().refused(&[pax], &["layer 1"]);
    let sparse = Tar::new()
        .pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"0,1")])
        .file("lie", "x")
        .end();
    Fence::new().refused(&[sparse], &["layer 1"]);

    // Of a blob: the file is longer or shorter than the manifest says.
    let tar = Tar::new().file("a", "1").end();
    for (content, why) in
        [([tar.as_slice(), b"more"].concat(), "longer"), (tar[..700].to_vec(), "truncated")]
    {
        let image = layout(std::slice::from_ref(&tar));
        fs::write(image.path().join("blobs/sha256").join(digest(&tar).hex()), content).unwrap();
        Fence::new().refused_from(image.path(), &[why]);
    }
}

#[test]
fn duplicate_entries() {
    if !available("duplicate_entries") {
        return;
    }
    let layer = Tar::new()
        .file("f", "first")
        .file("f", "second, and longer")
        .dir("d")
        .file("d/in", "1")
        .dir("d")
        .symlink("s", "a")
        .symlink("s", "b")
        .file("was-file", "x")
        .dir("was-file")
        .file("./f", "last")
        .end();
    let tree = Fence::new().taken(&[layer]);
    // What comes last counts, and a directory that comes again keeps its own.
    assert_eq!(names(&tree), ["d", "d/in", "f", "s", "was-file"]);
    assert_eq!((tree["f"].content.as_slice(), tree["f"].links), (b"last".as_slice(), 1));
    assert_eq!((tree["s"].content.as_slice(), tree["was-file"].mode), (b"b".as_slice(), 0o40_755));

    // One name ten thousand times, with content each: the last one's is kept.
    let mut layer = Tar::new();
    for n in 0..10_000 {
        layer = layer.file("again", &format!("{n:04}"));
    }
    let tree = Fence::new().taken(&[layer.end()]);
    assert_eq!(
        (names(&tree), tree["again"].content.as_slice()),
        (vec!["again"], b"9999".as_slice())
    );
}

#[test]
fn whiteouts_of_nothing() {
    if !available("whiteouts_of_nothing") {
        return;
    }
    let whiteouts = Tar::new()
        .file(".wh.never", "")
        .file("no/where/.wh.x", "")
        .file("gone/.wh..wh..opq", "")
        .file("there/.wh.x", "")
        .file(".wh..wh.aufs", "")
        .end();
    let layers = [Tar::new().dir("there").end(), whiteouts];
    let tree = Fence::new().taken(&layers);
    assert!(tree.contains_key("there"));
    assert!(
        !tree.keys().any(|name| name.contains(".wh.") || name.contains("never")),
        "{:?}",
        names(&tree)
    );
    for name in [".wh.", ".wh..", ".wh...", "a/.wh."] {
        let layer = Tar::new().dir("a").file(name, "").end();
        Fence::new().refused(&[layer], &["whiteout that names nothing"]);
    }
    // One that would take away what is outside.
    let fence = Fence::new();
    let outside = fence.outside().to_str().unwrap().to_owned();
    let layers = [
        Tar::new().symlink("out", &outside).end(),
        Tar::new().file("out/.wh.secret", "").file("out/.wh..wh..opq", "").end(),
    ];
    fence.taken(&layers);
    Fence::new().refused(&[Tar::new().file("../.wh.outside", "").end()], &["`..`"]);
}

#[test]
fn a_whiteout_of_what_its_own_layer_brings() {
    if !available("a_whiteout_of_what_its_own_layer_brings") {
        return;
    }
    // OCI image spec 1.1, layer.md: whiteouts apply to lower layers only.
    let lower = Tar::new().file("a", "low").file("d/low", "").end();
    let upper = Tar::new()
        .file("a", "high")
        .file(".wh.a", "")
        .file("b", "high")
        .file(".wh.b", "")
        .file("d/high", "")
        .file(".wh.d", "")
        .end();
    let tree = Fence::new().taken(&[lower, upper]);
    assert_eq!(names(&tree), ["a", "b", "d", "d/high"]);
    assert_eq!(tree["a"].content, b"high");
}

#[test]
fn names_that_are_no_utf_8() {
    if !available("names_that_are_no_utf_8") {
        return;
    }
    // Too long to be kept in the inode, from which debugfs shows it as a text.
    let target = [b"\xff\xfe/".as_slice(), &[0x80; 70]].concat();
    let layer = Tar::new()
        .entry(EntryType::Regular, b"caf\xe9", b"", b"latin")
        .entry(EntryType::Directory, b"\xff\xfe", b"", b"")
        .entry(EntryType::Regular, b"\xff\xfe/\x80", b"", b"deep")
        .entry(EntryType::Symlink, b"link", &target, b"")
        .entry(EntryType::Link, b"hard", b"caf\xe9", b"")
        .pax(&[("path", b"pax-\xc3\x28"), ("SCHILY.xattr.user.raw", b"\xff\0\xfe")])
        .file("x", "1")
        .end();
    let tree = Fence::new().taken(&[layer]);
    assert_eq!(tree.len() - 1, 6, "{:?}", names(&tree));
    assert_eq!((tree["hard"].links, tree["hard"].content.as_slice()), (2, b"latin".as_slice()));
    assert_eq!(tree["link"].content, target);
    let pax = tree.iter().find(|(name, _)| name.starts_with("pax-")).unwrap().1;
    assert_eq!(pax.xattrs["user.raw"], b"\xff\0\xfe");

    // In a refusal such a name is shown, and harmless to whoever reads it.
    let layer = Tar::new().entry(EntryType::Regular, b"a\x1b[31m\xff/../x", b"", b"").end();
    Fence::new().refused(&[layer], &["`..`", "\\u{1b}"]);
}
