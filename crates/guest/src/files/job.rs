//! Jobs on threads, and the bytes between them and their stream.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{Channel, FailureKind, FileInfo, Transferred, end::Outcome, reply};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use xxhash_rust::xxh3::Xxh3;

use crate::refusal::Refusal;
use crate::stream::{Input, Stream};

/// Pieces between a job and its task: the disk works while the wire does.
const AHEAD: usize = 4;

enum Piece {
    Info(FileInfo),
    Data(Bytes),
}

/// Where a job puts what it reads. Fails once nobody listens.
pub(super) struct Out {
    pieces: mpsc::Sender<Piece>,
    buffer: BytesMut,
    sum: Sum,
}

impl Out {
    /// Ahead of all data.
    pub(super) fn info(&mut self, info: FileInfo) -> io::Result<()> {
        self.pieces.blocking_send(Piece::Info(info)).map_err(|_| nobody_listens())
    }

    /// One message of its own, outside the checksum.
    pub(super) fn message(&mut self, bytes: Bytes) -> io::Result<()> {
        self.pieces.blocking_send(Piece::Data(bytes)).map_err(|_| nobody_listens())
    }

    /// Sends what is left and says what was sent.
    pub(super) fn finish(&mut self) -> io::Result<Transferred> {
        if !self.buffer.is_empty() {
            let rest = self.buffer.split().freeze();
            self.message(rest)?;
        }
        Ok(self.sum.transferred())
    }
}

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.reserve(MAX_DATA - self.buffer.len());
        let now = &bytes[..bytes.len().min(MAX_DATA - self.buffer.len())];
        self.sum.add(now);
        self.buffer.extend_from_slice(now);
        if self.buffer.len() == MAX_DATA {
            let full = self.buffer.split().freeze();
            self.message(full)?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a job finds what it writes.
pub(super) struct In {
    pieces: mpsc::Receiver<Input>,
    rest: Bytes,
    ended: bool,
    sum: Sum,
}

impl In {
    /// After all was read: whether it is what the host sent.
    pub(super) fn verified(&mut self, what: &str) -> Result<Transferred, Refusal> {
        let drained = io::copy(self, &mut io::sink());
        drained.map_err(|error| Refusal::io(format!("receive {what}"), &error))?;
        let transferred = self.sum.transferred();
        // The rest holds the host's checksum by now.
        if !self.rest.is_empty() && self.rest != transferred.xxh3_128 {
            let what = format!("accept {what}: it arrived damaged");
            return Err(Refusal::new(FailureKind::Failed, what));
        }
        Ok(transferred)
    }
}

impl io::Read for In {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Input::Data(bytes)) => self.rest = bytes,
                Some(Input::Eof(checksum)) => {
                    self.ended = true;
                    self.rest = checksum;
                    return Ok(0);
                }
                None => return Err(nobody_listens()),
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.sum.add(&self.rest[..count]);
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.advance(count);
        Ok(count)
    }
}

fn nobody_listens() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the host went away")
}

type Verdict = Result<Outcome, Refusal>;

/// Runs a job that produces bytes.
pub(super) fn send(stream: Stream, job: impl FnOnce(&mut Out) -> Verdict + Send + 'static) {
    let (pieces, mut arriving) = mpsc::channel(AHEAD);
    let mut out = Out { pieces, buffer: BytesMut::new(), sum: Sum::default() };
    let job = spawn_blocking(move || job(&mut out));
    drop(spawn_local(async move {
        while let Some(piece) = arriving.recv().await {
            match piece {
                Piece::Info(info) => stream.reply(reply::Kind::FileInfo(info)),
                Piece::Data(bytes) => {
                    if stream.send(Channel::Main, bytes, 0).await.is_err() {
                        // The job's next piece finds nobody.
                        break;
                    }
                }
            }
        }
        drop(arriving);
        finish(&stream, job).await;
    }));
}

/// Runs a job that consumes bytes.
pub(super) fn receive(stream: Stream, job: impl FnOnce(&mut In) -> Verdict + Send + 'static) {
    let (pieces, arriving) = mpsc::channel(AHEAD);
    let mut input = In { pieces: arriving, rest: Bytes::new(), ended: false, sum: Sum::default() };
    let job = spawn_blocking(move || job(&mut input));
    drop(spawn_local(async move {
        loop {
            // Both arms may be cancelled: no input is taken before it is
            // passed on.
            let input = tokio::select! {
                input = stream.input() => input,
                () = pieces.closed() => break,
            };
            let Ok(input) = input else { break };
            let (length, last) = match &input {
                Input::Data(bytes) => (bytes.len(), false),
                Input::Eof(_) => (0, true),
            };
            if pieces.send(input).await.is_err() {
                break;
            }
            if last {
                break;
            }
            stream.consumed(length);
        }
        drop(pieces);
        finish(&stream, job).await;
    }));
}

async fn finish(stream: &Stream, job: JoinHandle<Verdict>) {
    match job.await {
        Ok(Ok(outcome)) => stream.end(outcome),
        Ok(Err(refusal)) => stream.end(refusal),
        // Only a panic, which a release build does not survive.
        Err(_) => stream.end(Refusal::new(FailureKind::Failed, "finish the transfer")),
    }
}

/// Bytes and checksum of what passed.
pub(super) struct Sum {
    bytes: u64,
    hash: Box<Xxh3>,
}

impl Default for Sum {
    fn default() -> Self {
        Self { bytes: 0, hash: Box::new(Xxh3::new()) }
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn transferred(&self) -> Transferred {
        let digest = self.hash.digest128().to_be_bytes();
        Transferred {
            bytes: self.bytes,
            xxh3_128: Bytes::copy_from_slice(&digest),
            ..Transferred::default()
        }
    }
}
