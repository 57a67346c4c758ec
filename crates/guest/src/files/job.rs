//! Jobs on threads, and the bytes between them and their stream.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Buf, Bytes, BytesMut};
use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{
    Channel, Eof, FailureKind, FileInfo, Transferred, UploadState, end::Outcome, reply,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use twox_hash::XxHash3_128;

use crate::refusal::Refusal;
use crate::stream::{Gone, Input, Stream};

/// Pieces between a job and its task: the disk works while the wire does.
const AHEAD: usize = 8;

enum Produced {
    Info(FileInfo),
    Data(Bytes, u64),
}

/// Where a job puts what it reads. Fails once nobody listens.
pub(super) struct Out {
    pieces: mpsc::Sender<Produced>,
    buffer: BytesMut,
    sum: Sum,
}

impl Out {
    /// Ahead of all data.
    pub(super) fn info(&mut self, info: FileInfo) -> Result<(), Gone> {
        self.pieces.blocking_send(Produced::Info(info)).map_err(|_| Gone)
    }

    /// One Data of its own, outside the checksum; at `offset` where the
    /// transfer is sparse.
    pub(super) fn piece(&mut self, bytes: Bytes, offset: u64) -> Result<(), Gone> {
        self.pieces.blocking_send(Produced::Data(bytes, offset)).map_err(|_| Gone)
    }

    /// The content's next bytes.
    pub(super) fn content(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.sum.add(&bytes);
        self.piece(bytes, 0)
    }

    /// Sends what was written and is left, and says what was sent.
    pub(super) fn finish(&mut self) -> Result<Transferred, Gone> {
        if !self.buffer.is_empty() {
            let rest = self.buffer.split().freeze();
            self.piece(rest, 0)?;
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
            self.piece(full, 0).map_err(nobody_listens)?;
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
    replies: mpsc::Sender<UploadState>,
    over: Arc<AtomicBool>,
    rest: Bytes,
    eof: Option<Eof>,
    sum: Sum,
}

impl In {
    /// The next Data and its offset, outside the checksum; `None` at the end.
    pub(super) fn piece(&mut self) -> Result<Option<(u64, Bytes)>, Gone> {
        if self.eof.is_some() {
            return Ok(None);
        }
        match self.pieces.blocking_recv() {
            Some(Input::Data { bytes, offset }) => Ok(Some((offset, bytes))),
            Some(Input::Eof(eof)) => {
                self.eof = Some(eof);
                Ok(None)
            }
            None => Err(Gone),
        }
    }

    /// The content's next bytes.
    pub(super) fn content(&mut self) -> Result<Option<Bytes>, Gone> {
        let piece = self.piece()?;
        Ok(piece.map(|(_, bytes)| {
            self.sum.add(&bytes);
            bytes
        }))
    }

    /// What the host said at the end, once that has come.
    pub(super) fn eof(&self) -> Option<&Eof> {
        self.eof.as_ref()
    }

    /// Answers where the data are to begin, ahead of them.
    pub(super) fn begin_at(&mut self, offset: u64) -> Result<(), Gone> {
        self.replies.blocking_send(UploadState { offset }).map_err(|_| Gone)
    }

    /// Becomes true once the host does not listen.
    pub(super) fn over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.over)
    }

    /// After all was read: whether it is what the host sent.
    pub(super) fn verified(&mut self, what: &str) -> Result<Transferred, Refusal> {
        self.rest.clear();
        while self.content().map_err(gone)?.is_some() {}
        let transferred = self.sum.transferred();
        let wanted = self.eof.as_ref().map(|eof| &eof.xxh3_128);
        if wanted.is_some_and(|sum| !sum.is_empty() && *sum != transferred.xxh3_128) {
            return Err(damaged(what));
        }
        Ok(transferred)
    }
}

impl io::Read for In {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.content().map_err(nobody_listens)? {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.advance(count);
        Ok(count)
    }
}

/// The host's checksum says so.
pub(super) fn damaged(what: &str) -> Refusal {
    Refusal::new(FailureKind::Failed, format!("accept {what}: it arrived damaged"))
}

/// For the sake of form: nobody is there to read it.
pub(super) fn gone(Gone: Gone) -> Refusal {
    Refusal::new(FailureKind::Failed, "go on without the host")
}

pub(super) fn nobody_listens(Gone: Gone) -> io::Error {
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
                Produced::Info(info) => stream.reply(reply::Kind::FileInfo(info)),
                Produced::Data(bytes, offset) => {
                    if stream.send(Channel::Main, bytes, offset).await.is_err() {
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

/// Runs a job that only answers.
pub(super) fn ask(stream: Stream, job: impl FnOnce() -> Verdict + Send + 'static) {
    let job = spawn_blocking(job);
    drop(spawn_local(async move { finish(&stream, job).await }));
}

/// Runs a job that consumes bytes, and `after` it.
pub(super) fn receive(
    stream: Stream,
    job: impl FnOnce(&mut In) -> Verdict + Send + 'static,
    after: impl FnOnce() + 'static,
) {
    let (pieces, arriving) = mpsc::channel(AHEAD);
    let (replies, mut answers) = mpsc::channel(1);
    let mut input = In {
        pieces: arriving,
        replies,
        over: stream.over(),
        rest: Bytes::new(),
        eof: None,
        sum: Sum::default(),
    };
    let job = spawn_blocking(move || job(&mut input));
    drop(spawn_local(async move {
        loop {
            // All arms may be cancelled: no input is taken before it is passed
            // on, and no answer before it is sent.
            let input = tokio::select! {
                input = stream.input() => input,
                Some(state) = answers.recv() => {
                    stream.reply(reply::Kind::UploadState(state));
                    continue;
                }
                () = pieces.closed() => break,
            };
            let Ok(input) = input else { break };
            let (length, last) = match &input {
                Input::Data { bytes, .. } => (bytes.len(), false),
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
        // An answer that came together with the end of all input.
        while let Some(state) = answers.recv().await {
            stream.reply(reply::Kind::UploadState(state));
        }
        finish(&stream, job).await;
        after();
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
struct Sum {
    bytes: u64,
    hash: Box<XxHash3_128>,
}

impl Default for Sum {
    fn default() -> Self {
        Self { bytes: 0, hash: Box::new(XxHash3_128::new()) }
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.write(bytes);
    }

    fn transferred(&self) -> Transferred {
        let digest = self.hash.finish_128().to_be_bytes();
        Transferred {
            bytes: self.bytes,
            xxh3_128: Bytes::copy_from_slice(&digest),
            ..Transferred::default()
        }
    }
}

/// One job's output as another's input, for tests.
#[cfg(test)]
pub(super) fn pass<P: Send, C>(
    produce: impl FnOnce(&mut Out) -> P + Send,
    consume: impl FnOnce(&mut In) -> C,
) -> (P, C) {
    let (pieces, mut produced) = mpsc::channel(AHEAD);
    let mut out = Out { pieces, buffer: BytesMut::new(), sum: Sum::default() };
    let (feed, arriving) = mpsc::channel(AHEAD);
    let (replies, _answers) = mpsc::channel(1);
    let over = Arc::default();
    let (rest, eof, sum) = (Bytes::new(), None, Sum::default());
    let mut input = In { pieces: arriving, replies, over, rest, eof, sum };
    std::thread::scope(|scope| {
        let producer = scope.spawn(move || produce(&mut out));
        scope.spawn(move || {
            while let Some(piece) = produced.blocking_recv() {
                if let Produced::Data(bytes, offset) = piece {
                    let _gave_up = feed.blocking_send(Input::Data { bytes, offset });
                }
            }
            let _gave_up = feed.blocking_send(Input::Eof(Eof::default()));
        });
        let consumed = consume(&mut input);
        // Whoever still produces finds nobody.
        drop(input);
        (producer.join().expect("the producer does not panic"), consumed)
    })
}
