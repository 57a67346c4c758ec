//! Sparse transfers and uploads from the host's side: what it takes, what it
//! sends, and what it does not let a guest tell it.

use bytes::Bytes;
use inn_guest_proto::wire::{self, Data, Failure, FailureKind, FileInfo, Transferred, end, reply};
use inn_guest_proto::{BlockSum, GuestEvent};
use inn_node::guest::{
    FileReader, GuestError, GuestSession, Piece, ReadSpec, RefusedKind, UploadId, WriteSpec,
};

use crate::guest::patiently;
use crate::scripted::Scripted;

const SIZE: u64 = 1 << 40;

fn sum(parts: &[(u64, &[u8])], length: u64) -> Bytes {
    let mut sum = BlockSum::default();
    for (place, bytes) in parts {
        sum.skip(place - sum.position());
        sum.add(bytes);
    }
    sum.skip(length - sum.position());
    Bytes::copy_from_slice(&sum.finish())
}

fn data(offset: u64, bytes: &'static [u8]) -> Data {
    Data { offset, bytes: bytes.into(), ..Data::default() }
}

fn transferred(bytes: u64, block_sum: Bytes, length: u64) -> end::Outcome {
    end::Outcome::Transferred(Transferred { bytes, block_sum, length, ..Transferred::default() })
}

/// Answers one sparse read of a file of [`SIZE`] from 1000 on.
async fn read(
    session: &GuestSession,
    guest: &mut Scripted,
    pieces: &[Data],
    outcome: end::Outcome,
) -> Result<(Vec<Piece>, FileReader), GuestError> {
    let asked = session.clone();
    let reading = tokio::spawn(async move {
        let spec = ReadSpec { offset: 1000, sparse: true, ..ReadSpec::default() };
        let mut reader = asked.read_file("/sparse", spec).await?;
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await? {
            all.push(piece);
        }
        assert_eq!(reader.next().await?, None, "its end is for ever");
        Ok((all, reader))
    });
    let (stream, kind) = guest.request().await;
    let wire::request::Kind::ReadFile(request) = kind else { panic!("{kind:?}") };
    assert!(request.sparse && request.offset == 1000);
    let info = FileInfo { size: SIZE, ..FileInfo::default() };
    guest.reply(stream, reply::Kind::FileInfo(info)).await;
    for piece in pieces {
        guest.send(stream, piece.clone()).await;
    }
    guest.end(stream, outcome).await;
    patiently(reading).await.unwrap()
}

#[tokio::test]
async fn holes_are_told_and_the_sum_is_of_the_content() {
    let (session, mut guest) = Scripted::open().await;
    let length = SIZE - 1000;
    let sent = [data(1000, b"one"), data(1003, b"two"), data(70_000, b"three"), data(80_000, b"")];
    let right = sum(&[(0, b"onetwo"), (69_000, b"three")], length);
    let outcome = transferred(11, right.clone(), length);
    let (pieces, reader) = read(&session, &mut guest, &sent, outcome).await.unwrap();
    let expected = [
        Piece::Data("one".into()),
        Piece::Data("two".into()),
        Piece::Hole(68_994),
        Piece::Data("three".into()),
        Piece::Hole(length - 69_005),
    ];
    assert_eq!(pieces, expected);
    assert_eq!(reader.block_sum().unwrap(), right[..]);

    // All of it a hole.
    let outcome = transferred(0, sum(&[], length), length);
    let (pieces, _) = read(&session, &mut guest, &[], outcome).await.unwrap();
    assert_eq!(pieces, [Piece::Hole(length)]);
}

#[tokio::test]
async fn what_arrives_otherwise_than_it_was_sent_is_damaged() {
    let (session, mut guest) = Scripted::open().await;
    let right = sum(&[(0, b"x")], 1);
    let wrong = sum(&[(0, b"y")], 1);
    for outcome in [
        transferred(1, wrong, 1),
        transferred(2, right.clone(), 1),
        transferred(1, right.slice(..7), 1),
        transferred(1, Bytes::new(), 1),
    ] {
        let result = read(&session, &mut guest, &[data(1000, b"x")], outcome).await;
        assert!(matches!(result, Err(GuestError::Damaged { .. })), "{result:?}");
    }
    let ends = transferred(1, right, 1);
    assert!(read(&session, &mut guest, &[data(1000, b"x")], ends).await.is_ok());
}

#[tokio::test]
async fn pieces_outside_of_the_file_break_the_protocol() {
    let (session, mut guest) = Scripted::open().await;
    let nothing = || transferred(0, sum(&[], 0), 0);
    for pieces in [
        vec![data(999, b"x")],
        vec![data(1000, b"xx"), data(1001, b"x")],
        vec![data(2000, b"x"), data(1500, b"x")],
        vec![data(SIZE, b"x")],
        vec![data(SIZE - 1, b"xx")],
        vec![data(u64::MAX, b"x")],
    ] {
        let result = read(&session, &mut guest, &pieces, nothing()).await;
        assert!(matches!(result, Err(GuestError::Protocol(_))), "{pieces:?}: {result:?}");
    }
    for length in [SIZE, u64::MAX] {
        let beyond = transferred(0, sum(&[], 0), length);
        let result = read(&session, &mut guest, &[], beyond).await;
        assert!(matches!(result, Err(GuestError::Protocol(_))), "{length}: {result:?}");
    }
}

fn upload(length: Option<u64>) -> WriteSpec {
    WriteSpec { upload: Some(UploadId(*b"upload 1")), length, ..WriteSpec::default() }
}

#[tokio::test]
async fn an_upload_goes_on_where_the_guest_says() {
    let (session, mut guest) = Scripted::open().await;
    let kept = 100_000;
    let whole = sum(&[(0, b"kept"), (kept, b"sent"), (200_000, b"more")], 300_000);
    let of_stream = sum(&[(kept, b"sent"), (200_000, b"more")], 300_000);
    let writing = tokio::spawn(async move {
        let mut writer = session.write_file("/up", upload(Some(300_000))).await?;
        assert_eq!(writer.start(), kept);
        writer.write("sent".into()).await?;
        writer.skip(200_000 - kept - 4)?;
        writer.write("more".into()).await?;
        writer.skip(300_000 - 200_004)?;
        writer.finish().await
    });
    let (stream, kind) = guest.request().await;
    let wire::request::Kind::WriteFile(request) = kind else { panic!("{kind:?}") };
    assert_eq!((&request.upload[..], request.sparse), (&b"upload 1"[..], true));
    assert_eq!(request.length, Some(300_000));
    guest.reply(stream, reply::Kind::UploadState(wire::UploadState { offset: kept })).await;
    assert_eq!(guest.data().await, data(kept, b"sent"));
    assert_eq!(guest.data().await, data(200_000, b"more"));
    let GuestEvent::Eof { eof, .. } = patiently(guest.event()).await else { panic!("no eof") };
    assert_eq!((eof.block_sum, eof.length), (of_stream, 300_000));
    assert!(eof.xxh3_128.is_empty());
    guest.end(stream, transferred(8, whole.clone(), 300_000)).await;
    let written = patiently(writing).await.unwrap().unwrap();
    assert_eq!((written.length, written.block_sum.unwrap().as_slice()), (300_000, &whole[..]));
}

#[tokio::test]
async fn an_upload_from_the_start_is_compared_here() {
    let (session, mut guest) = Scripted::open().await;
    let right = sum(&[(0, b"sent")], 4);
    for (told, bytes, length, good) in [
        (right.clone(), 4, 4, true),
        (sum(&[(0, b"lost")], 4), 4, 4, false),
        (right.clone(), 3, 4, false),
        (right, 4, 5, false),
    ] {
        let asked = session.clone();
        let writing = tokio::spawn(async move {
            let mut writer = asked.write_file("/up", upload(None)).await?;
            writer.write("sent".into()).await?;
            writer.finish().await
        });
        let (stream, _) = guest.request().await;
        guest.reply(stream, reply::Kind::UploadState(wire::UploadState::default())).await;
        guest.data().await;
        guest.event().await;
        guest.end(stream, transferred(bytes, told, length)).await;
        match patiently(writing).await.unwrap() {
            Ok(_) => assert!(good),
            Err(GuestError::Damaged { .. }) => assert!(!good),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_guest_cannot_have_kept_more_than_there_is() {
    let (session, mut guest) = Scripted::open().await;
    for (length, kept) in [(Some(10), 11), (None, u64::MAX), (None, 1 << 63)] {
        let asked = session.clone();
        let writing = tokio::spawn(async move { asked.write_file("/up", upload(length)).await });
        let (stream, _) = guest.request().await;
        guest.reply(stream, reply::Kind::UploadState(wire::UploadState { offset: kept })).await;
        let result = patiently(writing).await.unwrap();
        assert!(matches!(result, Err(GuestError::Protocol(_))), "{result:?}");
        guest.event().await;
        guest.end(stream, end::Outcome::Done(wire::Done {})).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_told_whatever_was_going_on() {
    let (session, mut guest) = Scripted::open().await;
    let writing = tokio::spawn(async move {
        let mut writer = session.write_file("/up", upload(None)).await?;
        loop {
            writer.write(vec![1; 100_000].into()).await?;
        }
        #[expect(unreachable_code, reason = "says what the loop's errors are")]
        Ok::<(), GuestError>(())
    });
    let (stream, _) = guest.request().await;
    guest.reply(stream, reply::Kind::UploadState(wire::UploadState::default())).await;
    guest.data().await;
    let failure =
        Failure { what: "write /up".to_owned(), kind: FailureKind::NoSpace.into(), errno: 28 };
    guest.end(stream, end::Outcome::Failure(failure)).await;
    let error = patiently(writing).await.unwrap().unwrap_err();
    assert!(matches!(&error, GuestError::Refused { kind: RefusedKind::NoSpace, .. }), "{error:?}");
    assert_eq!(error.to_string(), "the guest cannot write /up: no space left on device");
}

#[tokio::test]
async fn only_a_sparse_write_has_holes() {
    let (session, _guest) = Scripted::open().await;
    let mut writer = session.write_file("/a", WriteSpec::default()).await.unwrap();
    assert!(matches!(writer.skip(1), Err(GuestError::Refused { .. })));
    let sparse = WriteSpec { sparse: true, ..WriteSpec::default() };
    let mut writer = session.write_file("/a", sparse).await.unwrap();
    writer.skip(1 << 62).unwrap();
    assert!(matches!(writer.skip(1 << 62), Err(GuestError::Refused { .. })), "off_t ends");
}
