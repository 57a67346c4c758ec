use super::*;
use std::fs;

struct Watched {
    dir: tempfile::TempDir,
    watch: Watch,
}

impl Watched {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let watch = Watch::open(dir.path(), true).unwrap();
        Self { dir, watch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The kernel queues an event before the call that causes it returns.
    fn take(&mut self) -> Vec<String> {
        let (batch, all) = self.watch.take();
        assert!(all && batch.end.is_none() && !batch.changes.overflow);
        let inside = |path: &str| {
            let root = self.dir.path().to_str().unwrap();
            path.strip_prefix(root).unwrap().trim_start_matches('/').to_owned()
        };
        let show = |change: &FileChange| {
            let kind = format!("{:?}", change.kind()).to_lowercase();
            let from =
                if change.from.is_empty() { String::new() } else { inside(&change.from) + "→" };
            let slash = if change.directory { "/" } else { "" };
            format!("{kind} {from}{}{slash}", inside(&change.path))
        };
        batch.changes.changes.iter().map(show).collect()
    }
}

#[test]
fn changes_come_in_order_and_the_same_twice_once() {
    let mut it = Watched::new();
    fs::write(it.path("a/new"), "1").unwrap();
    fs::write(it.path("a/new"), "12").unwrap();
    fs::remove_file(it.path("file")).unwrap();
    assert_eq!(it.take(), ["created a/new", "modified a/new", "removed file"]);
    assert_eq!(it.take(), [""; 0]);
}

#[test]
fn a_rename_within_is_one_change_and_one_out_of_it_a_removal() {
    let mut it = Watched::new();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(it.path("file"), it.path("a/file")).unwrap();
    assert_eq!(it.take(), ["renamed file→a/file"]);
    fs::rename(it.path("a/file"), elsewhere.path().join("file")).unwrap();
    assert_eq!(it.take(), ["removed a/file"]);
    fs::rename(elsewhere.path().join("file"), it.path("back")).unwrap();
    assert_eq!(it.take(), ["created back"]);
}

/// The reader often runs between the two events of a rename.
#[test]
fn halves_of_a_rename_find_each_other() {
    const RENAMES: usize = 2_000;
    let mut it = Watched::new();
    let (there, back) = (it.path("file"), it.path("a/file"));
    let renames = std::thread::spawn(move || {
        for n in 0..RENAMES {
            let (from, to) = if n % 2 == 0 { (&there, &back) } else { (&back, &there) };
            fs::rename(from, to).unwrap();
        }
    });
    let mut seen = 0;
    while seen < RENAMES {
        for change in it.take() {
            assert!(change.starts_with("renamed "), "{change}");
            seen += 1;
        }
    }
    renames.join().unwrap();
}

#[test]
fn directories_are_watched_as_they_appear_move_and_go() {
    let mut it = Watched::new();
    fs::create_dir_all(it.path("new/deep")).unwrap();
    fs::write(it.path("new/deep/early"), "").unwrap();
    assert_eq!(it.take(), ["created new/", "created new/deep/", "created new/deep/early"]);
    fs::write(it.path("new/deep/late"), "").unwrap();
    assert_eq!(it.take(), ["created new/deep/late"]);
    fs::rename(it.path("new"), it.path("a/moved")).unwrap();
    fs::write(it.path("a/moved/deep/after"), "").unwrap();
    assert_eq!(it.take(), ["renamed new→a/moved/", "created a/moved/deep/after"]);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(it.path("a/moved"), elsewhere.path().join("moved")).unwrap();
    assert_eq!(it.take(), ["removed a/moved/"]);
    fs::write(elsewhere.path().join("moved/deep/unseen"), "").unwrap();
    assert_eq!(it.take(), [""; 0]);
}

#[test]
fn it_ends_with_what_is_watched() {
    let it = Watched::new();
    let (mut watch, root) = (it.watch, it.dir.path().to_owned());
    fs::remove_dir_all(&root).unwrap();
    let (batch, _) = watch.take();
    assert_eq!(batch.end, Some(WatchEnd::Gone));
    let last = batch.changes.changes.last().unwrap();
    assert_eq!((last.kind(), Path::new(&last.path)), (FileChangeKind::Removed, root.as_path()));
}

#[test]
fn one_file_can_be_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    let mut watch = Watch::open(&path, false).unwrap();
    fs::write(&path, "more").unwrap();
    let (batch, _) = watch.take();
    let change = &batch.changes.changes[0];
    assert_eq!((change.kind(), Path::new(&change.path)), (FileChangeKind::Modified, &*path));
    assert!(matches!(Watch::open(&dir.path().join("no"), true), Err(WatchError::Io(_))));
}
