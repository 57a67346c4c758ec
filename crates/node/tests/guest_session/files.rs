use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use bytes::Bytes;
use inn_node::guest::{
    FileKind, FileReader, GuestError, GuestSession, Piece, ReadSpec, RefusedKind, WriteSpec,
};

use crate::guest::{TestGuest, patiently};

pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn read_all(mut reader: FileReader) -> Result<Vec<u8>, GuestError> {
    let mut all = Vec::new();
    while let Some(piece) = patiently(reader.next()).await? {
        match piece {
            Piece::Data(bytes) => all.extend_from_slice(&bytes),
            Piece::Hole(zeros) => all.resize(all.len() + usize::try_from(zeros).unwrap(), 0),
        }
    }
    Ok(all)
}

async fn write_all(
    session: &GuestSession,
    path: &str,
    spec: WriteSpec,
    content: &[u8],
) -> Result<u64, GuestError> {
    let mut writer = session.write_file(path, spec).await?;
    for piece in content.chunks(100_000) {
        patiently(writer.write(Bytes::copy_from_slice(piece))).await?;
    }
    patiently(writer.finish()).await.map(|written| written.length)
}

#[tokio::test]
async fn a_file_goes_in_and_comes_back() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let content = noise(5_000_000);
    let path = guest.path("a/b/file");
    let spec = WriteSpec { mode: Some(0o4750), make_parents: true, ..WriteSpec::default() };
    assert_eq!(write_all(&session, &path, spec, &content).await.unwrap(), 5_000_000);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o4750);
    assert!(std::fs::read(&path).unwrap() == content);
    assert_eq!(std::fs::read_dir(guest.path("a/b")).unwrap().count(), 1, "nothing beside it");

    let reader = session.read_file(&path, ReadSpec::default()).await.unwrap();
    assert_eq!((reader.info().size, reader.info().mode), (5_000_000, 0o4750));
    assert!(read_all(reader).await.unwrap() == content);
    let part = ReadSpec { offset: 4_000_000, limit: Some(70_000), ..ReadSpec::default() };
    let reader = session.read_file(&path, part).await.unwrap();
    assert!(read_all(reader).await.unwrap() == content[4_000_000..4_070_000]);
}

#[tokio::test]
async fn replacing_keeps_mode_and_link() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    std::fs::write(guest.path("target"), "old").unwrap();
    std::fs::set_permissions(guest.path("target"), PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("target", guest.path("link")).unwrap();
    write_all(&session, &guest.path("link"), WriteSpec::default(), b"new").await.unwrap();
    assert!(std::fs::symlink_metadata(guest.path("link")).unwrap().is_symlink());
    assert_eq!(std::fs::read(guest.path("target")).unwrap(), b"new");
    assert_eq!(std::fs::metadata(guest.path("target")).unwrap().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn a_write_that_stops_leaves_the_old_file() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let path = guest.path("file");
    std::fs::write(&path, "old").unwrap();
    let mut writer = session.write_file(&path, WriteSpec::default()).await.unwrap();
    patiently(writer.write(Bytes::from(noise(500_000)))).await.unwrap();
    drop(writer);
    // The half-written one beside it goes away.
    patiently(async {
        while std::fs::read_dir(guest.dir.path()).unwrap().count() > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[tokio::test]
async fn writing_within_a_file() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let path = guest.path("file");
    std::fs::write(&path, "0123456789").unwrap();
    let spec = WriteSpec { offset: Some(3), ..WriteSpec::default() };
    write_all(&session, &path, spec, b"abc").await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"012abc6789");
}

#[tokio::test]
async fn what_cannot_be_read_or_written_says_why() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let kind = |error: GuestError| match error {
        GuestError::Refused { kind, .. } => kind,
        other => panic!("{other:?}"),
    };
    let missing = session.read_file(&guest.path("nothing"), ReadSpec::default()).await;
    assert_eq!(kind(missing.unwrap_err()), RefusedKind::NotFound);
    let dir = session.read_file(&guest.path(""), ReadSpec::default()).await;
    assert_eq!(kind(dir.unwrap_err()), RefusedKind::Invalid);
    let relative = session.read_file("x", ReadSpec::default()).await;
    assert_eq!(kind(relative.unwrap_err()), RefusedKind::Invalid);
    // Refused at once, found out while writing a lot.
    let path = guest.path("no/such/dir/file");
    let refused = write_all(&session, &path, WriteSpec::default(), &noise(2_000_000)).await;
    assert_eq!(kind(refused.unwrap_err()), RefusedKind::NotFound);
}

#[tokio::test]
async fn attributes_and_directories() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let dir = guest.path("d/e");
    session.make_dir(&dir, 0o1770, true).await.unwrap();
    session.make_dir(&dir, 0o700, true).await.unwrap();
    let info = session.stat(&dir, true).await.unwrap();
    assert_eq!((info.kind, info.mode), (FileKind::Directory, 0o1770));
    assert!(session.make_dir(&dir, 0o755, false).await.is_err());
    for number in 0..3000 {
        std::fs::write(format!("{dir}/a-rather-long-file-name-{number}"), "x").unwrap();
    }
    std::os::unix::fs::symlink("/nowhere", format!("{dir}/link")).unwrap();
    let entries = patiently(session.list(&dir)).await.unwrap();
    assert_eq!(entries.len(), 3001);
    let link = entries.iter().find(|entry| entry.name == "link").unwrap();
    assert_eq!(link.info.kind, FileKind::Symlink);
    assert_eq!(link.info.target.as_deref(), Some("/nowhere"));
    assert!(session.stat(&format!("{dir}/link"), true).await.is_err());
    assert!(session.remove(&dir, false).await.is_err(), "it is not empty");
    session.remove(&dir, true).await.unwrap();
    assert!(!Path::new(&dir).exists());
}

#[tokio::test]
async fn a_tree_goes_in_and_comes_back() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, mode, content: &[u8], link: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        match link {
            Some(link) => builder.append_link(&mut header, name, link).unwrap(),
            None => builder.append_data(&mut header, name, content).unwrap(),
        }
    };
    let content = noise(300_000);
    let long = format!("d/{}/file", "x".repeat(150));
    add("d/", tar::EntryType::Directory, 0o500, b"", None);
    add("d/file", tar::EntryType::Regular, 0o640, &content, None);
    add(&long, tar::EntryType::Regular, 0o600, b"deep", None);
    add("d/hard", tar::EntryType::Link, 0o644, b"", Some("d/file"));
    add("link", tar::EntryType::Symlink, 0o777, b"", Some("d/file"));
    let archive = builder.into_inner().unwrap();

    let into = guest.path("tree");
    let mut writer = session.write_tree(&into).await.unwrap();
    patiently(writer.write(archive.into())).await.unwrap();
    patiently(writer.finish()).await.unwrap();
    let file = std::fs::metadata(format!("{into}/d/file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime(), file.nlink()), (0o640, 1_600_000_000, 2));
    assert_eq!(std::fs::metadata(format!("{into}/d")).unwrap().mode() & 0o777, 0o500);
    assert!(std::fs::read(format!("{into}/link")).unwrap() == content);

    let reader = session.read_tree(&into).await.unwrap();
    let bytes = read_all(reader).await.unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        if name == "d/file" {
            let mut back = Vec::new();
            entry.read_to_end(&mut back).unwrap();
            assert!(back == content);
        }
        names.push(name.trim_end_matches('/').to_owned());
    }
    names.sort();
    let mut expected = vec!["d", "d/file", "d/hard", &long, "link"];
    let parent = long.trim_end_matches("/file").to_owned();
    expected.push(&parent);
    expected.sort();
    assert_eq!(names, expected);

    let reader = session.read_tree(&format!("{into}/d/file")).await.unwrap();
    let bytes = read_all(reader).await.unwrap();
    let mut one = tar::Archive::new(bytes.as_slice());
    assert_eq!(one.entries().unwrap().count(), 1);
}

#[tokio::test]
async fn a_tree_cannot_leave_its_directory() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let outside = guest.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let archive = |entries: &[(&str, Option<&str>)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(if link.is_some() { 0 } else { 1 });
            // The builder refuses such names; a hostile one would not.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            if let Some(link) = link {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(link).unwrap();
                header.set_cksum();
                builder.append(&header, std::io::empty()).unwrap();
            } else {
                header.set_cksum();
                builder.append(&header, &b"x"[..]).unwrap();
            }
        }
        Bytes::from(builder.into_inner().unwrap())
    };
    for hostile in [
        archive(&[("../outside/file", None)]),
        archive(&[("link", Some(&outside)), ("link/file", None)]),
        archive(&[("link", Some("../outside")), ("link/file", None)]),
    ] {
        let mut writer = session.write_tree(&guest.path("tree")).await.unwrap();
        let _may_be_refused_already = patiently(writer.write(hostile)).await;
        match patiently(writer.finish()).await {
            Err(GuestError::Refused { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
    let truncated = archive(&[("file", None)]).slice(..600);
    let mut writer = session.write_tree(&guest.path("tree")).await.unwrap();
    patiently(writer.write(truncated)).await.unwrap();
    assert!(patiently(writer.finish()).await.is_err());
}
