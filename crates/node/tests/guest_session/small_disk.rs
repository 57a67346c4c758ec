//! A guest whose disk is full says so, and the half-written file is gone.

use bytes::Bytes;
use inn_node::guest::{GuestError, GuestSession, RefusedKind, UploadId, WriteSpec};

use crate::files::noise;
use crate::guest::{TestGuest, patiently};

async fn write(session: &GuestSession, path: &str, spec: WriteSpec) -> Result<(), GuestError> {
    let mut writer = patiently(session.write_file(path, spec)).await?;
    for piece in noise(3_000_000).chunks(100_000) {
        patiently(writer.write(Bytes::copy_from_slice(piece))).await?;
    }
    patiently(writer.finish()).await.map(drop)
}

async fn is_full_and_clean(session: &GuestSession, dir: &str, result: Result<(), GuestError>) {
    let error = result.expect_err("3 MB do not fit into 1 MiB");
    let GuestError::Refused { kind: RefusedKind::NoSpace, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(error.to_string().contains("no space left on device"), "{error}");
    let names = patiently(session.list(dir)).await.unwrap();
    let names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["there"], "what was half written is gone");
}

#[tokio::test]
async fn a_full_disk_keeps_what_was_there_and_nothing_else() {
    let guest = TestGuest::start_with_small_disk();
    let session = guest.session().await;
    let (dir, path) = (guest.path("small"), guest.path("small/there"));
    let mut old = session.write_file(&path, WriteSpec::default()).await.unwrap();
    patiently(old.write("old".into())).await.unwrap();
    patiently(old.finish()).await.unwrap();
    let sparse = WriteSpec { sparse: true, ..WriteSpec::default() };
    let upload = WriteSpec { upload: Some(UploadId([1; 8])), ..WriteSpec::default() };
    for spec in [WriteSpec::default(), sparse, upload.clone()] {
        let result = write(&session, &path, spec).await;
        is_full_and_clean(&session, &dir, result).await;
    }
    assert_eq!(session.stat(&path, true).await.unwrap().size, 3);
    // New ones as well.
    let result = write(&session, &guest.path("small/new"), upload).await;
    is_full_and_clean(&session, &dir, result).await;
    // It can still be written to: nothing holds the space.
    let mut small = session.write_file(&path, WriteSpec::default()).await.unwrap();
    patiently(small.write(Bytes::from(noise(500_000)))).await.unwrap();
    patiently(small.finish()).await.unwrap();
}

#[tokio::test]
async fn a_length_that_does_not_fit_is_refused_at_once() {
    let guest = TestGuest::start_with_small_disk();
    let session = guest.session().await;
    let spec = WriteSpec { length: Some(3_000_000), ..WriteSpec::default() };
    let writer = session.write_file(&guest.path("small/new"), spec).await.unwrap();
    match patiently(writer.finish()).await {
        Err(GuestError::Refused { kind: RefusedKind::NoSpace, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tree_that_does_not_fit_is_told() {
    let guest = TestGuest::start_with_small_disk();
    let session = guest.session().await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(3_000_000);
    builder.append_data(&mut header, "large", noise(3_000_000).as_slice()).unwrap();
    let mut writer = session.write_tree(&guest.path("small/tree")).await.unwrap();
    let written = patiently(writer.write(builder.into_inner().unwrap().into())).await;
    let error = match written {
        Err(error) => error,
        Ok(()) => patiently(writer.finish()).await.expect_err("it does not fit"),
    };
    assert!(matches!(&error, GuestError::Refused { kind: RefusedKind::NoSpace, .. }), "{error:?}");
}
