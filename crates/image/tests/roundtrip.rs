//! Images that other tools made, against what other tools make of them:
//! `umoci unpack` of the same image has to be what our root disk holds, file
//! by file.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use inn_image::{ImportRequest, Unwatched};
use rustix::fs::{FileType, Mode};
use support::debugfs::{assert_clean, available, read_tree};
use support::{Cache, Found, request};
use tempfile::TempDir;

#[expect(clippy::disallowed_methods, reason = "tests call the tools that they compare with")]
fn tool(program: &str, args: &[&OsStr]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn run(program: &str, args: &[&str]) {
    tool(program, &args.iter().map(OsStr::new).collect::<Vec<_>>());
}

/// Root and the tools; otherwise says what is missing.
fn ready(test: &str) -> bool {
    let found = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).exists())
    };
    if let Some(missing) = ["umoci", "skopeo", "tar"].iter().find(|name| !found(name)) {
        println!("SKIPPED {test}: {missing} is not installed");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED {test}: only root can make devices and owners to compare with");
        return false;
    }
    available(test)
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(bits)).unwrap();
}

/// The lowest layer: one of each, as GNU tar packs it.
fn lowest(root: &Path) {
    for dir in ["bin", "etc/opt", "tmp", "replaced/by/a", "opaque/old/deep", "var"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    mode(&root.join("tmp"), 0o1777);
    fs::write(root.join("bin/su"), vec![0x7f; 70_000]).unwrap();
    std::os::unix::fs::chown(root.join("bin/su"), Some(1234), Some(70_000)).unwrap();
    mode(&root.join("bin/su"), 0o6755);
    fs::hard_link(root.join("bin/su"), root.join("bin/sudo")).unwrap();
    fs::write(root.join("bin/ping"), "ping").unwrap();
    // cap_net_raw+ep (linux/capability.h, VFS_CAP_REVISION_2)
    let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    set_xattr(&root.join("bin/ping"), "security.capability", &capability);
    set_xattr(&root.join("etc/opt"), "user.note", b"two\nlines");
    set_xattr(&root.join("etc"), "user.large", &[b'x'; 3000]);
    std::os::unix::fs::symlink("/bin/su", root.join("absolute")).unwrap();
    std::os::unix::fs::symlink("x".repeat(150), root.join("dangling")).unwrap();
    node(&root.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node(&root.join("disk"), FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    node(&root.join("fifo"), FileType::Fifo, 0);
    let long = format!("var/{}/{}", "d".repeat(200), "é".repeat(120));
    fs::create_dir_all(root.join(&long).parent().unwrap()).unwrap();
    fs::write(root.join(&long), "long").unwrap();
    fs::write(root.join("etc/removed"), "1").unwrap();
    fs::write(root.join("etc/changed"), "1").unwrap();
    fs::write(root.join("opaque/old/deep/file"), "1").unwrap();
    fs::write(root.join("replaced/by/a/file"), "1").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    let old = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: -100_000, tv_nsec: 250_000_000 },
    };
    rustix::fs::utimensat(rustix::fs::CWD, root.join("empty"), &old, rustix::fs::AtFlags::empty())
        .unwrap();
}

/// What the second layer changes, as `umoci repack` finds it.
fn changed(root: &Path) {
    fs::remove_file(root.join("etc/removed")).unwrap();
    fs::write(root.join("etc/changed"), "22").unwrap();
    fs::remove_dir_all(root.join("replaced")).unwrap();
    fs::write(root.join("replaced"), "a file").unwrap();
    fs::remove_file(root.join("absolute")).unwrap();
    fs::create_dir(root.join("absolute")).unwrap();
    fs::write(root.join("absolute/inside"), "2").unwrap();
    mode(&root.join("tmp"), 0o700);
    fs::write(root.join("bin/new"), vec![b'n'; 5000]).unwrap();
    fs::hard_link(root.join("bin/new"), root.join("bin/newer")).unwrap();
    set_xattr(&root.join("bin/new"), "user.upper", b"2");
}

/// An OCI layout, three layers high, and what umoci unpacks from it.
struct Made {
    dir: TempDir,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let image = format!("{}:base", at("layout").display());
        fs::create_dir(at("root")).unwrap();
        lowest(&at("root"));
        let tar = at("layer.tar");
        let pack = ["--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-cf"];
        let mut args: Vec<&OsStr> = pack.iter().map(OsStr::new).collect();
        let (root, dot) = (at("root"), OsStr::new("."));
        args.extend([tar.as_os_str(), OsStr::new("-C"), root.as_os_str(), dot]);
        tool("tar", &args);
        run("umoci", &["init", "--layout", at("layout").to_str().unwrap()]);
        run("umoci", &["new", "--image", &image]);
        run("umoci", &["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]);
        run("umoci", &["unpack", "--image", &image, at("middle").to_str().unwrap()]);
        changed(&at("middle/rootfs"));
        run("umoci", &["repack", "--image", &image, at("middle").to_str().unwrap()]);
        fs::create_dir_all(at("insert/new")).unwrap();
        fs::write(at("insert/new/file"), "3").unwrap();
        run(
            "umoci",
            &["insert", "--image", &image, "--opaque", at("insert").to_str().unwrap(), "/opaque"],
        );
        run("umoci", &["insert", "--image", &image, "--whiteout", "/etc/opt"]);
        run(
            "umoci",
            &[
                "config",
                "--image",
                &image,
                "--config.entrypoint",
                "/bin/su",
                "--config.env",
                "K=V",
                "--config.user",
                "1:2",
            ],
        );
        run("umoci", &["unpack", "--image", &image, at("expected").to_str().unwrap()]);
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The image in another form.
    fn copied(&self, to: &str, options: &[&str]) {
        let from = format!("oci:{}:base", self.at("layout").display());
        let to = to.replace('@', self.dir.path().to_str().unwrap());
        let policy = ["--insecure-policy", "copy", "-q"];
        run("skopeo", &[policy.as_slice(), options, &[from.as_str(), to.as_str()]].concat());
    }
}

/// A directory as the root disk would show it. Inode numbers only tell which
/// names are one file: each stands as the first of its names.
fn unpacked(root: &Path) -> BTreeMap<String, Found> {
    let mut tree = BTreeMap::new();
    let mut dirs = vec![(root.to_owned(), String::new())];
    tree.insert(String::new(), stat(root));
    while let Some((dir, name)) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let last = path.file_name().unwrap().to_str().unwrap();
            let name = if name.is_empty() { last.to_owned() } else { format!("{name}/{last}") };
            if path.is_dir() && !path.is_symlink() {
                dirs.push((path.clone(), name.clone()));
            }
            tree.insert(name, stat(&path));
        }
    }
    tree
}

fn stat(path: &Path) -> Found {
    let data = fs::symlink_metadata(path).unwrap();
    let kind = data.file_type();
    let device = kind.is_block_device() || kind.is_char_device();
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let xattrs = names[..len].split(|&c| c == 0).filter(|name| !name.is_empty()).map(|name| {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), value[..len].to_vec())
    });
    Found {
        mode: data.mode(),
        uid: data.uid(),
        gid: data.gid(),
        links: u32::try_from(data.nlink()).unwrap(),
        mtime: (data.mtime(), u32::try_from(data.mtime_nsec()).unwrap()),
        content: match () {
            () if kind.is_file() => fs::read(path).unwrap(),
            () if kind.is_symlink() => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
            () => Vec::new(),
        },
        device: device.then(|| (rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()))),
        xattrs: xattrs.collect(),
        inode: data.ino(),
    }
}

/// With inode numbers replaced by the first name of each inode.
fn comparable(tree: BTreeMap<String, Found>) -> BTreeMap<String, (Found, String)> {
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    tree.into_iter()
        .map(|(path, mut found)| {
            let first = first.entry(found.inode).or_insert_with(|| path.clone()).clone();
            found.inode = 0;
            (path, (found, first))
        })
        .collect()
}

fn assert_same(expected: BTreeMap<String, Found>, disk: &Path, what: &str) {
    assert_clean(disk);
    let (expected, got) = (comparable(expected), comparable(read_tree(disk)));
    let names = |tree: &BTreeMap<String, (Found, String)>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(&expected), "{what}");
    for (path, (expected, first)) in &expected {
        let (got, got_first) = &got[path];
        assert!(got.content == expected.content, "{what}: the content of {path:?} differs");
        let plain = |found: &Found| Found { content: Vec::new(), ..found.clone() };
        assert_eq!((plain(got), got_first), (plain(expected), first), "{what}: {path:?}");
    }
}

#[test]
fn every_form_of_an_image_becomes_what_umoci_unpacks() {
    if !ready("every_form_of_an_image_becomes_what_umoci_unpacks") {
        return;
    }
    let made = Made::new();
    made.copied("docker-archive:@/docker.tar:base:1", &[]);
    made.copied("oci-archive:@/oci.tar:base", &[]);
    made.copied("oci:@/zstd:base", &["--dest-compress-format", "zstd"]);
    let expected = unpacked(&made.at("expected/rootfs"));
    assert!(expected.len() > 20, "{:?}", expected.keys());
    assert_eq!(expected["bin/su"].links, 2);
    assert!(!expected.contains_key("opaque/old"), "{:?}", expected.keys());
    let cache = Cache::new();
    for form in ["layout", "docker.tar", "oci.tar", "zstd"] {
        let record = cache.import(&made.at(form)).unwrap();
        assert_eq!(record.config.entrypoint, ["/bin/su"], "{form}");
        assert!(record.config.env.contains(&"K=V".to_owned()), "{form}");
        assert_eq!(record.config.user.as_deref(), Some("1:2"), "{form}");
        assert_same(expected.clone(), &record.root_disk, form);
    }
    cache.assert_no_leftovers();
    // zstd really was: another manifest, other layers.
    let blobs = cache.files("blobs/sha256");
    let is_zstd = |path: &PathBuf| fs::read(path).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    assert!(blobs.iter().any(is_zstd));
}

#[test]
fn an_image_of_another_machine_is_refused_by_name() {
    if !ready("an_image_of_another_machine_is_refused_by_name") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = format!("{}:base", dir.path().join("layout").display());
    run("umoci", &["init", "--layout", dir.path().join("layout").to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["config", "--image", &image, "--architecture", "mips64le"]);
    let sentence = Cache::new().refusal(&dir.path().join("layout"));
    assert!(sentence.contains("mips64le"), "{sentence}");
    // Without any layer, for this machine: an empty root.
    run("umoci", &["config", "--image", &image, "--architecture", support::host_architecture()]);
    let cache = Cache::new();
    let wanted =
        ImportRequest { reference: Some("base".into()), ..request(&dir.path().join("layout")) };
    let record = cache.store.import(&wanted, &Unwatched).unwrap();
    assert_clean(&record.root_disk);
}
