//! Sparse files, and uploads that go on, in the real guest.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use inn_guest_proto::BlockSum;
use inn_node::guest::{
    FileReader, GuestError, GuestSession, Piece, ReadSpec, RefusedKind, UploadId, WriteSpec,
};

use crate::files::noise;
use crate::guest::{TestGuest, patiently};

const MIB: u64 = 1 << 20;

fn block_sum(content: &[u8]) -> [u8; 8] {
    let mut sum = BlockSum::default();
    sum.add(content);
    sum.finish()
}

async fn pieces(reader: &mut FileReader) -> Result<Vec<Piece>, GuestError> {
    let mut all = Vec::new();
    while let Some(piece) = patiently(reader.next()).await? {
        all.push(piece);
    }
    Ok(all)
}

fn sparse_from(offset: u64) -> ReadSpec {
    ReadSpec { offset, sparse: true, ..ReadSpec::default() }
}

#[tokio::test]
async fn holes_go_in_and_come_back_as_holes() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let path = guest.path("sparse");
    let content = noise(300_000);
    let (hole, length) = (200 * MIB, 500 * MIB);
    let spec = WriteSpec { sparse: true, length: Some(length), ..WriteSpec::default() };
    let mut writer = session.write_file(&path, spec).await.unwrap();
    patiently(writer.write(Bytes::from(content.clone()))).await.unwrap();
    writer.skip(hole).unwrap();
    patiently(writer.write(Bytes::from(content.clone()))).await.unwrap();
    writer.skip(length - hole - 600_000).unwrap();
    let written = patiently(writer.finish()).await.unwrap();
    assert_eq!(written.length, length);

    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), length);
    assert!(meta.blocks() * 512 < 10 * MIB, "{} blocks", meta.blocks());
    let mut file = std::fs::File::open(&path).unwrap();
    let mut back = vec![0; content.len()];
    for place in [0, hole + 300_000] {
        file.seek(SeekFrom::Start(place)).unwrap();
        file.read_exact(&mut back).unwrap();
        assert!(back == content, "at {place}");
    }

    let mut reader = session.read_file(&path, sparse_from(0)).await.unwrap();
    let (mut told, mut data) = (0, Vec::new());
    for piece in pieces(&mut reader).await.unwrap() {
        match piece {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            Piece::Hole(zeros) => told += zeros,
        }
    }
    assert_eq!(told + data.len() as u64, length);
    assert!(data.len() as u64 <= 10 * MIB, "{} bytes were sent", data.len());
    // The same file, whichever way its sum came about.
    assert_eq!(reader.block_sum(), written.block_sum);
}

#[tokio::test]
async fn a_sum_is_the_same_whichever_way_a_file_is_read() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let path = guest.path("file");
    let mut content = noise(400_000);
    content[70_000..270_000].fill(0);
    std::fs::write(&path, &content).unwrap();
    for offset in [0, 1, 65_536, 100_000, 400_000] {
        let from = usize::try_from(offset).unwrap();
        let mut plain =
            session.read_file(&path, ReadSpec { offset, ..ReadSpec::default() }).await.unwrap();
        pieces(&mut plain).await.unwrap();
        let mut sparse = session.read_file(&path, sparse_from(offset)).await.unwrap();
        pieces(&mut sparse).await.unwrap();
        let expected = Some(block_sum(&content[from..]));
        assert_eq!((plain.block_sum(), sparse.block_sum()), (expected, expected), "{offset}");
    }
    let beyond = session.read_file(&path, sparse_from(500_000)).await.unwrap();
    assert_eq!(pieces(&mut { beyond }).await.unwrap(), []);
    // A file that the kernel makes up as it is read has no length.
    let mut made_up = session.read_file("/proc/self/status", sparse_from(0)).await.unwrap();
    assert!(!pieces(&mut made_up).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_changed_is_not_the_one_that_was_meant() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let path = guest.path("file");
    std::fs::write(&path, "before").unwrap();
    let version = session.stat(&path, true).await.unwrap().version();
    let expecting = ReadSpec { expect: Some(version), ..ReadSpec::default() };
    let mut reader = session.read_file(&path, expecting).await.unwrap();
    assert_eq!(pieces(&mut reader).await.unwrap(), [Piece::Data("before".into())]);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b", after").unwrap();
    match session.read_file(&path, expecting).await {
        Err(GuestError::Refused { kind: RefusedKind::Changed, .. }) => {}
        other => panic!("{other:?}"),
    }
}

const UPLOAD: UploadId = UploadId(*b"upload 1");

fn upload(length: u64) -> WriteSpec {
    WriteSpec {
        upload: Some(UPLOAD),
        length: Some(length),
        mode: Some(0o640),
        modified: Some((1_600_000_000, 5)),
        make_parents: true,
        ..WriteSpec::default()
    }
}

/// Sends a part and loses the session before the end of it.
async fn break_off(session: GuestSession, path: &str, content: &[u8], at: usize) {
    let mut writer =
        patiently(session.write_file(path, upload(content.len() as u64))).await.unwrap();
    let start = usize::try_from(writer.start()).unwrap();
    patiently(writer.write(Bytes::copy_from_slice(&content[start..at]))).await.unwrap();
    patiently(session.close()).await;
    patiently(session.closed()).await;
}

#[tokio::test]
async fn an_upload_goes_on_after_its_session_was_lost() {
    let mut guest = TestGuest::start();
    let content = noise(24_000_000);
    let path = guest.path("a/b/file");
    let mut kept = 0;
    for (at, agent_dies) in [(8_000_000, false), (12_000_000, true), (20_000_000, false)] {
        break_off(guest.session().await, &path, &content, at).await;
        if agent_dies {
            guest.restart();
        }
        let session = guest.session().await;
        let now = patiently(session.upload_state(&path, UPLOAD)).await.unwrap();
        assert!(now >= kept && now <= at as u64, "{now} of {at}");
        kept = now;
    }
    // What was in flight is lost, and no more than that.
    assert!(kept >= 16_000_000, "{kept}");
    assert!(!std::path::Path::new(&path).exists());

    let session = guest.session().await;
    let mut writer = patiently(session.write_file(&path, upload(24_000_000))).await.unwrap();
    let start = usize::try_from(writer.start()).unwrap();
    assert!(start as u64 >= kept);
    patiently(writer.write(Bytes::copy_from_slice(&content[start..]))).await.unwrap();
    let written = patiently(writer.finish()).await.unwrap();
    // The whole, of which this stream carried the last part only.
    assert_eq!((written.length, written.block_sum), (24_000_000, Some(block_sum(&content))));
    assert!(std::fs::read(&path).unwrap() == content);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o640, 1_600_000_000, 5));
    assert_eq!(std::fs::read_dir(guest.path("a/b")).unwrap().count(), 1, "nothing beside it");
    assert_eq!(patiently(session.upload_state(&path, UPLOAD)).await.unwrap(), 0);
}

#[tokio::test]
async fn an_upload_of_another_content_is_noticed() {
    let guest = TestGuest::start();
    let content = noise(8_000_000);
    let path = guest.path("file");
    break_off(guest.session().await, &path, &content, 6_000_000).await;
    let session = guest.session().await;
    let mut writer = patiently(session.write_file(&path, upload(8_000_000))).await.unwrap();
    let start = usize::try_from(writer.start()).unwrap();
    assert!(start > 0);
    patiently(writer.write(Bytes::from(vec![7; 8_000_000 - start]))).await.unwrap();
    // Each end is content with what passed; the client sees that it is not
    // what it has.
    let written = patiently(writer.finish()).await.unwrap();
    assert_ne!(written.block_sum, Some(block_sum(&vec![7; 8_000_000])));
    let there = std::fs::read(&path).unwrap();
    assert_eq!(written.block_sum, Some(block_sum(&there)));
}

#[tokio::test]
async fn a_dropped_upload_leaves_nothing() {
    let guest = TestGuest::start();
    let path = guest.path("d/file");
    break_off(guest.session().await, &path, &noise(8_000_000), 6_000_000).await;
    let session = guest.session().await;
    patiently(async {
        while session.upload_state(&path, UPLOAD).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    patiently(session.drop_upload(&path, UPLOAD)).await.unwrap();
    assert_eq!(patiently(session.upload_state(&path, UPLOAD)).await.unwrap(), 0);
    assert_eq!(std::fs::read_dir(guest.path("d")).unwrap().count(), 0);
    // Twice is as good as once.
    patiently(session.drop_upload(&path, UPLOAD)).await.unwrap();
}
