//! Names, links, attributes, and what a watch tells of them.

use std::os::unix::fs::MetadataExt;

use inn_node::guest::{
    FileAttributes, FileChange, FileChangeKind, FileKind, FileWatch, GuestError, RefusedKind,
};

use crate::guest::{TestGuest, patiently};

fn kind<T: std::fmt::Debug>(result: Result<T, GuestError>) -> RefusedKind {
    match result {
        Err(GuestError::Refused { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn renaming_replaces_only_on_request() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let (from, to) = (guest.path("from"), guest.path("to"));
    std::fs::write(&from, "from").unwrap();
    std::fs::write(&to, "to").unwrap();
    let refused = session.rename(&from, &to, false).await;
    assert_eq!(kind(refused), RefusedKind::AlreadyExists);
    assert_eq!(std::fs::read(&to).unwrap(), b"to");
    session.rename(&from, &to, true).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"from");
    assert_eq!(kind(session.rename(&from, &to, true).await), RefusedKind::NotFound);
    assert_eq!(kind(session.rename("from", &to, true).await), RefusedKind::Invalid);
    session.rename(&to, &guest.path("new"), false).await.unwrap();
}

#[tokio::test]
async fn links_point_where_they_were_told() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let link = guest.path("link");
    session.symlink(&link, "../anywhere", false).await.unwrap();
    assert_eq!(kind(session.symlink(&link, "x", false).await), RefusedKind::AlreadyExists);
    session.symlink(&link, "there", true).await.unwrap();
    let info = session.stat(&link, false).await.unwrap();
    assert_eq!((info.kind, info.target.as_deref()), (FileKind::Symlink, Some("there")));
    assert_eq!(std::fs::read_dir(guest.dir.path()).unwrap().count(), 2, "and the socket");
}

#[tokio::test]
async fn attributes_change_alone() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let path = guest.path("file");
    std::fs::write(&path, "x").unwrap();
    let before = std::fs::metadata(&path).unwrap();
    let mode = FileAttributes { mode: Some(0o4701), ..FileAttributes::default() };
    session.set_attributes(&path, mode).await.unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o4701, before.mtime()));
    let modified = FileAttributes { modified: Some((-5, 7)), ..FileAttributes::default() };
    session.set_attributes(&path, modified).await.unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o4701, -5, 7));
    let owner =
        FileAttributes { owner: Some((meta.uid(), meta.gid())), ..FileAttributes::default() };
    session.set_attributes(&path, owner).await.unwrap();
    let info = session.stat(&path, true).await.unwrap();
    assert_eq!((info.inode, info.links, info.uid), (meta.ino(), 1, meta.uid()));
    assert!(info.allocated >= 512);
    let missing = session.set_attributes(&guest.path("none"), mode).await;
    assert_eq!(kind(missing), RefusedKind::NotFound);
}

/// The next change that is about this path.
async fn change_of(watch: &mut FileWatch, path: &str, kind: FileChangeKind) -> FileChange {
    loop {
        let told = patiently(watch.next()).await.unwrap().expect("the watch goes on");
        assert!(!told.overflow);
        let wanted = |change: &FileChange| change.path == path && change.kind == kind;
        if let Some(change) = told.changes.into_iter().find(wanted) {
            return change;
        }
    }
}

#[tokio::test]
async fn a_watch_tells_what_changes_below_it() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let dir = guest.path("watched");
    std::fs::create_dir(&dir).unwrap();
    let mut watch = patiently(session.watch_files(&dir, true)).await.unwrap();
    assert_eq!(watch.info().kind, FileKind::Directory);
    let (deep, file) = (format!("{dir}/deep"), format!("{dir}/deep/file"));
    std::fs::create_dir(&deep).unwrap();
    assert!(change_of(&mut watch, &deep, FileChangeKind::Created).await.directory);
    std::fs::write(&file, "x").unwrap();
    assert!(!change_of(&mut watch, &file, FileChangeKind::Created).await.directory);
    std::fs::write(&file, "xy").unwrap();
    change_of(&mut watch, &file, FileChangeKind::Modified).await;
    let mode = FileAttributes { mode: Some(0o600), ..FileAttributes::default() };
    session.set_attributes(&file, mode).await.unwrap();
    change_of(&mut watch, &file, FileChangeKind::Attributes).await;
    let moved = format!("{dir}/moved");
    session.rename(&file, &moved, false).await.unwrap();
    let change = change_of(&mut watch, &moved, FileChangeKind::Renamed).await;
    assert_eq!(change.from.as_deref(), Some(file.as_str()));
    std::fs::remove_file(&moved).unwrap();
    change_of(&mut watch, &moved, FileChangeKind::Removed).await;
}

#[tokio::test]
async fn a_watch_of_one_file_and_of_nothing() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let file = guest.path("file");
    std::fs::write(&file, "x").unwrap();
    let mut watch = patiently(session.watch_files(&file, false)).await.unwrap();
    assert_eq!((watch.info().kind, watch.info().size), (FileKind::File, 1));
    std::fs::write(&file, "xyz").unwrap();
    change_of(&mut watch, &file, FileChangeKind::Modified).await;
    let missing = patiently(session.watch_files(&guest.path("none"), false)).await;
    assert_eq!(kind(missing), RefusedKind::NotFound);
}
