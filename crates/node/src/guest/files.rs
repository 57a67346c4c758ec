use bytes::Bytes;
use inn_guest_proto::wire::{Eof, Transferred, end, reply};
use xxhash_rust::xxh3::Xxh3;

use super::link::{StreamEvent, StreamOver, StreamReader, StreamWriter};
use super::session::unexpected;
use super::{FileInfo, GuestError, convert};

/// The content of a file or tree on its way out of the guest. Dropping it
/// stops the transfer.
#[derive(Debug)]
pub struct FileReader {
    path: String,
    info: FileInfo,
    reader: StreamReader,
    sum: Sum,
}

impl FileReader {
    /// Waits for the guest to say that it can read it.
    pub(super) async fn begin(path: &str, mut reader: StreamReader) -> Result<Self, GuestError> {
        match reader.next().await? {
            StreamEvent::Reply(reply) => match reply.kind {
                Some(reply::Kind::FileInfo(info)) => Ok(Self {
                    path: path.to_owned(),
                    info: convert::file_info(info),
                    reader,
                    sum: Sum::default(),
                }),
                _ => Err(convert::misdirected("another reply to a read")),
            },
            StreamEvent::End(end) => Err(unexpected(&convert::outcome(end)?)),
            StreamEvent::Data(_) | StreamEvent::Failed(_) => {
                Err(convert::misdirected("data before a reply"))
            }
        }
    }

    /// Of what is read: the size is the file's, even if only a part is read.
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// The next piece; `None` once all has arrived and its checksum is right.
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GuestError> {
        if self.reader.ended {
            return Ok(None);
        }
        match self.reader.next().await? {
            StreamEvent::Data(data) => {
                self.sum.add(&data.bytes);
                Ok(Some(data.bytes))
            }
            StreamEvent::End(end) => match convert::outcome(end)? {
                end::Outcome::Transferred(done) => {
                    self.sum.verify(&self.path, &done)?;
                    Ok(None)
                }
                other => Err(unexpected(&other)),
            },
            StreamEvent::Reply(_) | StreamEvent::Failed(_) => {
                Err(convert::misdirected("a second reply"))
            }
        }
    }
}

/// The content of a file or tree on its way into the guest. Dropping it before
/// [`finish`](Self::finish) leaves a file that was to be replaced as it was.
#[derive(Debug)]
pub struct FileWriter {
    path: String,
    reader: StreamReader,
    writer: StreamWriter,
    sum: Sum,
}

impl FileWriter {
    pub(super) fn new(path: &str, reader: StreamReader, writer: StreamWriter) -> Self {
        Self { path: path.to_owned(), reader, writer, sum: Sum::default() }
    }

    /// Waits while the guest writes slower than this sends.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), GuestError> {
        while !bytes.is_empty() {
            let before = bytes.clone();
            if let Err(StreamOver) = self.writer.send_some(&mut bytes).await {
                return Err(self.early_end().await);
            }
            self.sum.add(&before[..before.len() - bytes.len()]);
        }
        Ok(())
    }

    /// Waits until the guest has it all, verified, in its place. Bytes written.
    pub async fn finish(mut self) -> Result<u64, GuestError> {
        let eof = Eof { xxh3_128: self.sum.digest(), ..Eof::default() };
        if let Err(StreamOver) = self.writer.send_eof(eof).await {
            return Err(self.early_end().await);
        }
        match self.outcome().await? {
            end::Outcome::Transferred(done) => {
                self.sum.verify(&self.path, &done)?;
                Ok(done.bytes)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The guest ended the stream before all was sent: why.
    async fn early_end(&mut self) -> GuestError {
        match self.outcome().await {
            Ok(outcome) => unexpected(&outcome),
            Err(error) => error,
        }
    }

    async fn outcome(&mut self) -> Result<end::Outcome, GuestError> {
        loop {
            if let StreamEvent::End(end) = self.reader.next().await? {
                return convert::outcome(end);
            }
        }
    }
}

/// Bytes and checksum of what passed.
struct Sum {
    bytes: u64,
    hash: Box<Xxh3>,
}

impl Default for Sum {
    fn default() -> Self {
        Self { bytes: 0, hash: Box::new(Xxh3::new()) }
    }
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sum").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn digest(&self) -> Bytes {
        Bytes::copy_from_slice(&self.hash.digest128().to_be_bytes())
    }

    fn verify(&self, path: &str, theirs: &Transferred) -> Result<(), GuestError> {
        if theirs.bytes != self.bytes || theirs.xxh3_128 != self.digest() {
            return Err(GuestError::Damaged { what: path.to_owned() });
        }
        Ok(())
    }
}
