//! The node's session as a whole: its task, every request in flight, and what
//! a guest makes of them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use inn_guest_proto::wire::envelope::Body;
use inn_guest_proto::wire::{Data, End, Hello, Reply, UploadState, Version, reply};
use inn_guest_proto::{MARKER, NONCE_BYTES, RESYNC_ZEROS, VERSION, capability};
use inn_guest_session::{
    ExecSpec, GuestSession, MAX_ADDRESSES, MAX_INTERFACES, MAX_MOUNTS, Piece as FilePiece,
    ReadSpec, Telemetry, UploadId, WriteSpec,
};
use inn_units::ExecId;

use crate::frames::{Channel, Piece, encode};
use crate::told;

/// What the guest does next.
#[derive(Debug, Arbitrary)]
enum Turn {
    Piece(Piece),
    /// Told on one of the streams that are open.
    Data(u8),
    Reply(u8),
    End(u8),
}

/// The requests that are in flight, in the order of their streams.
const STREAMS: u8 = 10;

/// A call that has not come back by then never will: nothing here waits for
/// anything but the channel, which is closed.
const STUCK: Duration = Duration::from_secs(10);

pub fn node_session(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build()
                .expect("a runtime of one thread");
    }
    RUNTIME.with(|runtime| runtime.block_on(hear_out(Unstructured::new(data))));
}

async fn hear_out(mut u: Unstructured<'_>) {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("a socket");
    let ours = tokio::net::UnixStream::from_std(ours).expect("a socket");
    theirs.set_nonblocking(true).expect("a socket");
    let (session, ()) = tokio::join!(GuestSession::establish(ours), greet(&mut theirs));
    let Ok(session) = session else { return };
    let calls = tokio::spawn(all_calls(session));
    // Every request is on its way before the guest says a word.
    for _ in 0..STREAMS * 4 {
        tokio::task::yield_now().await;
    }
    let mut channel = Channel::default();
    while !u.is_empty()
        && let Ok(turn) = u.arbitrary::<Turn>()
        && let Ok(bytes) = said(turn, &mut u, &mut channel)
    {
        // A full socket is a node that waits: it gets its turn below.
        if theirs.write_all(&bytes).is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(theirs);
    tokio::time::timeout(STUCK, calls).await.expect("a call is stuck").expect("a call panicked");
}

/// Reads the node's opening and answers it.
async fn greet(theirs: &mut UnixStream) {
    let mut opening = vec![0; RESYNC_ZEROS + MARKER.len() + NONCE_BYTES];
    let mut read = 0;
    while read < opening.len() {
        match theirs.read(&mut opening[read..]) {
            Ok(count) => read += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("the node hung up before it was greeted: {error}"),
        }
    }
    let nonce = &opening[RESYNC_ZEROS + MARKER.len()..];
    let names =
        [capability::TELEMETRY, capability::EXEC_2, capability::FILES_2, capability::MACHINE];
    let hello = Hello {
        version: Some(Version { major: VERSION.major, minor: VERSION.minor }),
        capabilities: names.map(str::to_owned).to_vec(),
        ..Hello::default()
    };
    let answer = [MARKER.as_slice(), nonce, &encode(0, Body::Hello(hello))].concat();
    theirs.write_all(&answer).expect("an empty socket takes it");
}

fn said(turn: Turn, u: &mut Unstructured<'_>, channel: &mut Channel) -> arbitrary::Result<Vec<u8>> {
    let stream = |number: u8| u32::from(number % STREAMS) + 1;
    Ok(match turn {
        Turn::Piece(piece) => channel.bytes(piece),
        Turn::Data(number) => {
            let bytes = told::inside_data(u)?.into();
            let (kind, offset) = (u.int_in_range(0..=3)?, u.arbitrary()?);
            encode(stream(number), Body::Data(Data { channel: kind, bytes, offset }))
        }
        Turn::Reply(number) => {
            let kind = if u.arbitrary()? {
                reply::Kind::FileInfo(told::file_info(u)?)
            } else {
                reply::Kind::UploadState(UploadState { offset: u.arbitrary()? })
            };
            encode(stream(number), Body::Reply(Reply { kind: Some(kind) }))
        }
        Turn::End(number) => {
            encode(stream(number), Body::End(End { outcome: Some(told::outcome(u)?) }))
        }
    })
}

async fn all_calls(session: GuestSession) {
    let exec = async {
        let Ok(mut exec) = session.exec(ExecSpec::new(ExecId::from_bytes([1; 8]), argv())).await
        else {
            return;
        };
        while let Ok(Some(_)) = exec.next().await {}
    };
    let read = async {
        let spec = ReadSpec { sparse: true, ..ReadSpec::default() };
        let Ok(mut reader) = session.read_file("/f", spec).await else { return };
        let mut length = 0u64;
        while let Ok(Some(piece)) = reader.next().await {
            length += match piece {
                FilePiece::Data(bytes) => bytes.len() as u64,
                FilePiece::Hole(zeros) => zeros,
            };
            assert!(length <= reader.info().size, "more than the file has");
        }
    };
    let write = async {
        let spec =
            WriteSpec { upload: Some(UploadId([2; 8])), sparse: true, ..WriteSpec::default() };
        let Ok(mut writer) = session.write_file("/g", spec).await else { return };
        if writer.write(vec![1; 100].into()).await.is_ok() {
            let _whatever = writer.finish().await;
        }
    };
    let readings = async {
        let Ok(mut watch) = session.watch_telemetry(Duration::from_millis(1)).await else { return };
        // Readings are taken at their pace; one shows what all are held to.
        if let Ok(Some(reading)) = watch.next().await {
            bounded(&reading);
        }
    };
    let watched = async {
        let Ok(mut watch) = session.watch_files("/d", true).await else { return };
        while let Ok(Some(_)) = watch.next().await {}
    };
    let reading = async {
        if let Ok(reading) = session.telemetry().await {
            bounded(&reading);
        }
    };
    let rest = async {
        let _whatever = tokio::join!(
            session.list("/d"),
            session.list_execs(),
            session.ssh_keys("root"),
            session.stat("/f", true),
        );
    };
    tokio::join!(exec, read, write, readings, watched, reading, rest);
}

fn argv() -> Vec<String> {
    vec!["true".to_owned()]
}

fn bounded(reading: &Telemetry) {
    assert!(reading.mounts.len() <= MAX_MOUNTS && reading.interfaces.len() <= MAX_INTERFACES);
    assert!(reading.interfaces.iter().all(|i| i.addresses.len() <= MAX_ADDRESSES));
    assert!(reading.cpu_permille <= 1000);
    assert!(reading.memory_available <= reading.memory_total);
    assert!(reading.mounts.iter().all(|mount| mount.used <= mount.total));
}
