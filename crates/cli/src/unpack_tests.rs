use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt as _, symlink};

use cap_std::ambient_authority;
use proptest::prelude::*;
use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;

/// One entry, with its name written past the tar crate's own checks.
#[derive(Debug, Clone)]
struct Raw {
    kind: EntryType,
    name: String,
    target: String,
    mode: u32,
    body: Vec<u8>,
}

fn file(name: &str, body: &str) -> Raw {
    Raw {
        kind: EntryType::Regular,
        name: name.into(),
        target: String::new(),
        mode: 0o644,
        body: body.into(),
    }
}

fn link(kind: EntryType, name: &str, target: &str) -> Raw {
    Raw { kind, target: target.into(), ..file(name, "") }
}

fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        old.linkname[..entry.target.len()].copy_from_slice(entry.target.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_mtime(1_700_000_000);
        header.set_size(entry.body.len() as u64);
        header.set_cksum();
        builder.append(&header, entry.body.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A directory to unpack into, beside a secret that must stay as it is.
struct Place {
    root: TempDir,
    dir: Dir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        fs::create_dir(root.path().join("into")).unwrap();
        let dir = Dir::open_ambient_dir(root.path().join("into"), ambient_authority()).unwrap();
        Self { root, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("into").join(name)
    }

    fn unpack(&self, entries: &[Raw]) -> Result<Unpacked, UnpackError> {
        unpack(archive(entries).as_slice(), &self.dir)
    }

    fn assert_untouched_outside(&self) {
        let mut names: Vec<_> =
            fs::read_dir(self.root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["into", "secret"]);
        let secret = self.root.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    }
}

#[test]
fn an_honest_tree_arrives_with_modes_times_and_links() {
    let place = Place::new();
    let mut dir = file("sub/", "");
    dir.kind = EntryType::Directory;
    dir.mode = 0o555;
    let mut tool = file("./sub/tool", "#!/bin/sh\n");
    tool.mode = 0o4755;
    let done = place
        .unpack(&[
            dir,
            tool,
            link(EntryType::Symlink, "sub/again", "tool"),
            link(EntryType::Symlink, "sub/up", "../sub/tool"),
            link(EntryType::Link, "hard", "sub/tool"),
        ])
        .unwrap();
    assert_eq!((done.files, done.bytes, done.left_out), (4, 10, 0));
    let tool = fs::metadata(place.path("sub/tool")).unwrap();
    assert_eq!(tool.permissions().mode() & 0o7777, 0o755, "set-id bits are dropped");
    assert_eq!(tool.mtime(), 1_700_000_000);
    assert_eq!(tool.nlink(), 2);
    assert_eq!(fs::read_to_string(place.path("sub/up")).unwrap(), "#!/bin/sh\n");
    assert_eq!(fs::metadata(place.path("sub")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn names_that_leave_are_refused() {
    for name in ["../evil", "a/../../evil", "/etc/evil", "..", "a/.."] {
        let place = Place::new();
        let error = place.unpack(&[file(name, "evil")]).unwrap_err();
        assert!(matches!(error, UnpackError::Outside(_)), "{name}: {error}");
        place.assert_untouched_outside();
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    for (name, target) in [("out", ".."), ("out", "../secret"), ("out", "/etc"), ("out", "a/../..")]
    {
        let place = Place::new();
        // The link is left out, so the file lands in a directory of that name.
        let done = place
            .unpack(&[link(EntryType::Symlink, name, target), file("out/secret", "evil")])
            .unwrap();
        assert_eq!(done.left_out, 1, "{target}");
        assert_eq!(fs::read_to_string(place.path("out/secret")).unwrap(), "evil");
        place.assert_untouched_outside();
    }
    // A link that was there before, of the user's own making.
    let place = Place::new();
    symlink("..", place.path("mine")).unwrap();
    let error = place.unpack(&[file("mine/secret", "evil")]).unwrap_err();
    assert!(matches!(error, UnpackError::Outside(_)), "{error}");
    place.assert_untouched_outside();
}

#[test]
fn a_file_replaces_a_link_and_does_not_follow_it() {
    let place = Place::new();
    symlink("../secret", place.path("report")).unwrap();
    place.unpack(&[file("report", "mine")]).unwrap();
    assert_eq!(fs::read_to_string(place.path("report")).unwrap(), "mine");
    assert!(fs::symlink_metadata(place.path("report")).unwrap().is_file());
    place.assert_untouched_outside();
}

#[test]
fn links_cannot_be_chained_to_the_outside() {
    let place = Place::new();
    // `up` is the root itself, so `s/t/up/..` would be above it.
    let done = place
        .unpack(&[
            file("s/t/keep", ""),
            link(EntryType::Symlink, "s/t/up", "../.."),
            link(EntryType::Symlink, "x", "s/t/up/../secret"),
            link(EntryType::Symlink, "s/y", "../../secret"),
            // Another name for `up`, from where it would lead out.
            link(EntryType::Link, "z", "s/t/up"),
        ])
        .unwrap();
    assert_eq!(done.left_out, 3, "{:?}", done.remarks);
    // Through `up`, `..` of the entry itself would be counted from elsewhere.
    let error = place.unpack(&[link(EntryType::Symlink, "s/t/up/z", "../secret")]).unwrap_err();
    assert!(matches!(error, UnpackError::Outside(_)), "{error}");
    place.assert_untouched_outside();
}

#[test]
fn hard_links_reach_only_what_is_inside() {
    for target in ["../secret", "/etc/passwd"] {
        let place = Place::new();
        let error = place.unpack(&[link(EntryType::Link, "stolen", target)]).unwrap_err();
        assert!(matches!(error, UnpackError::Outside(_)), "{target}: {error}");
        place.assert_untouched_outside();
    }
    let place = Place::new();
    symlink("../secret", place.path("mine")).unwrap();
    let done = place.unpack(&[link(EntryType::Link, "stolen", "mine")]).unwrap();
    assert_eq!((done.files, done.left_out), (0, 1));
    assert!(fs::symlink_metadata(place.path("stolen")).is_err());
    place.assert_untouched_outside();
}

#[test]
fn devices_and_pipes_are_left_out_and_said_so() {
    let place = Place::new();
    let done = place
        .unpack(&[
            link(EntryType::Char, "null", ""),
            link(EntryType::Block, "sda", ""),
            link(EntryType::Fifo, "pipe\x1b[2J", ""),
            file("kept", "x"),
        ])
        .unwrap();
    assert_eq!((done.files, done.left_out), (1, 3));
    assert!(done.remarks[0].contains("null"), "{:?}", done.remarks);
    assert!(!done.remarks[2].contains('\x1b'), "{:?}", done.remarks);
    assert!(!place.path("null").exists());
}

#[test]
fn a_cut_archive_is_an_error() {
    let place = Place::new();
    let mut bytes = archive(&[file("a", &"x".repeat(5000))]);
    bytes.truncate(2000);
    assert!(unpack(bytes.as_slice(), &place.dir).is_err());
}

fn any_raw() -> impl Strategy<Value = Raw> {
    let name = "(\\.\\./|/)?([ab]|\\.\\.|\\.|c/d)(/([ab]|\\.\\.|secret)){0,3}";
    let target = "(\\.\\./){0,3}/?([ab]|\\.\\.|c/d|secret)?(/([ab]|\\.\\.|secret)){0,3}";
    let kinds = vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
    ];
    (prop::sample::select(kinds), name, target).prop_map(|(kind, name, target)| {
        let body = if kind == EntryType::Regular { b"evil".to_vec() } else { Vec::new() };
        Raw { kind, name, target, mode: 0o7777, body }
    })
}

proptest! {
    #[test]
    fn no_sequence_of_entries_leaves(entries in prop::collection::vec(any_raw(), 0..12)) {
        let place = Place::new();
        // Each alone, so that a refused one does not hide those behind it.
        for entry in entries {
            let _ = place.unpack(&[entry]);
        }
        place.assert_untouched_outside();
        // And no link that was made leads a later reader out.
        let root = fs::canonicalize(place.path("")).unwrap();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    dirs.push(entry.path());
                } else if kind.is_symlink()
                    && let Ok(real) = fs::canonicalize(entry.path())
                {
                    prop_assert!(real.starts_with(&root), "{} leads to {}", entry.path().display(), real.display());
                }
            }
        }
    }
}
