use bytes::Bytes;
use inn_guest_proto::wire::{Data, Eof, end, reply};

use super::link::{StreamEvent, StreamOver, StreamReader, StreamWriter};
use super::session::unexpected;
use super::sum::Sum;
use super::{FileInfo, GuestError, Piece, RefusedKind, Written, convert};

/// How a transfer's content is told: see guest-proto's VERSIONING.md, "Sparse
/// transfers" and "Uploads".
#[derive(Debug)]
pub(super) enum Content {
    Plain,
    /// Tar is a format, not a content with a block sum.
    Tree,
    /// `offset` of the file is where the content begins.
    SparsePart {
        offset: u64,
        limit: Option<u64>,
    },
    Upload {
        length: Option<u64>,
    },
}

/// The content of a file or tree on its way out of the guest. Dropping it
/// stops the transfer.
#[derive(Debug)]
pub struct FileReader {
    path: String,
    info: FileInfo,
    reader: StreamReader,
    sum: Sum,
    sparse: Option<Sparse>,
    /// What follows a hole that was just handed out.
    after_hole: Option<Bytes>,
    block_sum: Option<[u8; 8]>,
}

/// The part of the file that a sparse transfer is about, in terms of the file.
#[derive(Debug)]
struct Sparse {
    start: u64,
    end: u64,
}

impl FileReader {
    /// Waits for the guest to say that it can read it.
    pub(super) async fn begin(
        path: &str,
        mut reader: StreamReader,
        content: &Content,
    ) -> Result<Self, GuestError> {
        let reply::Kind::FileInfo(info) = reader.reply().await? else {
            return Err(convert::misdirected("another reply to a read"));
        };
        let info = convert::file_info(info);
        let sparse = match content {
            Content::SparsePart { offset, limit } => {
                // A guest sends no more than the size it told: holes cost it
                // nothing, and a host that fills them would do so for ever.
                let end = limit.map_or(u64::MAX, |limit| offset.saturating_add(limit));
                Some(Sparse { start: *offset, end: end.min(info.size).max(*offset) })
            }
            Content::Plain | Content::Tree | Content::Upload { .. } => None,
        };
        let sum = match content {
            Content::Tree => Sum::of_tree(),
            Content::Plain => Sum::of_plain(),
            Content::SparsePart { .. } | Content::Upload { .. } => Sum::of_sparse(0),
        };
        let path = path.to_owned();
        Ok(Self { path, info, reader, sum, sparse, after_hole: None, block_sum: None })
    }

    /// Of what is read: the size is the file's, even if only a part is read.
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// Of all that was read of a file, once that has ended: see
    /// [`inn_guest_proto::BlockSum`]. `None` of a tree.
    pub fn block_sum(&self) -> Option<[u8; 8]> {
        self.block_sum
    }

    /// The next piece; `None` once all has arrived and its checksum is right.
    /// There are holes only in a sparse transfer. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Piece>, GuestError> {
        if let Some(bytes) = self.after_hole.take() {
            return Ok(Some(Piece::Data(bytes)));
        }
        while !self.reader.ended {
            match self.reader.next().await? {
                // Nothing, at its price in credit.
                StreamEvent::Data(data) if data.bytes.is_empty() => {}
                StreamEvent::Data(data) => return self.piece(data).map(Some),
                StreamEvent::End(end) => match convert::outcome(end)? {
                    end::Outcome::Transferred(done) => {
                        let hole = self.hole_up_to(done.length)?;
                        self.block_sum = self.sum.verify(&self.path, &done)?;
                        return Ok(hole.map(Piece::Hole));
                    }
                    other => return Err(unexpected(&other)),
                },
                StreamEvent::Reply(_) | StreamEvent::Failed(_) => {
                    return Err(convert::misdirected("a second reply"));
                }
            }
        }
        Ok(None)
    }

    fn piece(&mut self, data: Data) -> Result<Piece, GuestError> {
        let mut hole = None;
        if let Some(Sparse { start, end }) = self.sparse {
            let beyond = || convert::misdirected("a piece that lies outside of the file");
            let last = data.offset.checked_add(data.bytes.len() as u64).ok_or_else(beyond)?;
            let place = data.offset.checked_sub(start).ok_or_else(beyond)?;
            if last > end {
                return Err(beyond());
            }
            hole = self.hole_up_to(place)?;
        }
        self.sum.add(&data.bytes);
        Ok(match hole {
            None => Piece::Data(data.bytes),
            Some(hole) => {
                self.after_hole = Some(data.bytes);
                Piece::Hole(hole)
            }
        })
    }

    /// What lies between the content so far and a place in it, if anything.
    fn hole_up_to(&mut self, place: u64) -> Result<Option<u64>, GuestError> {
        let Some(Sparse { start, end }) = self.sparse else { return Ok(None) };
        let hole = place
            .checked_sub(self.sum.position())
            .filter(|_| place <= end - start)
            .ok_or_else(|| convert::misdirected("a hole that lies outside of the file"))?;
        self.sum.skip(hole);
        Ok((hole > 0).then_some(hole))
    }
}

/// The content of a file or tree on its way into the guest. Dropping it before
/// [`finish`](Self::finish) leaves a file that was to be replaced as it was;
/// of an upload the guest keeps what has arrived.
#[derive(Debug)]
pub struct FileWriter {
    path: String,
    reader: StreamReader,
    writer: StreamWriter,
    sum: Sum,
    sparse: bool,
    start: u64,
}

impl FileWriter {
    /// Of an upload, waits for the guest to say where the data begin.
    pub(super) async fn begin(
        path: &str,
        mut reader: StreamReader,
        writer: StreamWriter,
        content: &Content,
    ) -> Result<Self, GuestError> {
        let start = match content {
            Content::Upload { length } => match reader.reply().await? {
                reply::Kind::UploadState(state) => convert::upload_offset(state, *length)?,
                _ => return Err(convert::misdirected("another reply to an upload")),
            },
            Content::Plain | Content::Tree | Content::SparsePart { .. } => 0,
        };
        let (sum, sparse) = match content {
            Content::Tree => (Sum::of_tree(), false),
            Content::Plain => (Sum::of_plain(), false),
            Content::SparsePart { .. } | Content::Upload { .. } => (Sum::of_sparse(start), true),
        };
        Ok(Self { path: path.to_owned(), reader, writer, sum, sparse, start })
    }

    /// Where the data begin: what the guest has kept of an upload that broke
    /// off need not be sent again. 0 of everything else.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Waits while the guest writes slower than this sends.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), GuestError> {
        while !bytes.is_empty() {
            let before = bytes.clone();
            let place = if self.sparse { self.sum.position() } else { 0 };
            if let Err(StreamOver) = self.writer.send_some(&mut bytes, place).await {
                return Err(self.early_end().await);
            }
            self.sum.add(&before[..before.len() - bytes.len()]);
        }
        Ok(())
    }

    /// Leaves a hole of so many zeros. Only in a sparse write or an upload.
    pub fn skip(&mut self, zeros: u64) -> Result<(), GuestError> {
        let fits = self.sum.position().checked_add(zeros).is_some_and(|end| end <= MAX_LENGTH);
        if !self.sparse || !fits {
            return Err(GuestError::Refused {
                what: format!("leave a hole of {zeros} bytes in {}", self.path),
                kind: RefusedKind::Invalid,
                errno: None,
            });
        }
        self.sum.skip(zeros);
        Ok(())
    }

    /// Waits until the guest has it all, verified, in its place.
    pub async fn finish(mut self) -> Result<Written, GuestError> {
        if let Err(StreamOver) = self.writer.send_eof(self.eof()).await {
            return Err(self.early_end().await);
        }
        match self.outcome().await? {
            end::Outcome::Transferred(done) if self.start > 0 => {
                // The guest has verified what we sent, and its sum is of more.
                let block_sum = self.sum.verify_length(&self.path, &done)?;
                Ok(Written { length: self.sum.position(), block_sum: Some(block_sum) })
            }
            end::Outcome::Transferred(done) => {
                let block_sum = self.sum.verify(&self.path, &done)?;
                Ok(Written { length: self.sum.position(), block_sum })
            }
            other => Err(unexpected(&other)),
        }
    }

    fn eof(&self) -> Eof {
        if !self.sparse {
            return Eof { xxh3_128: self.sum.plain(), ..Eof::default() };
        }
        let block_sum = self.sum.blocks().map(|sum| Bytes::copy_from_slice(&sum));
        Eof {
            block_sum: block_sum.unwrap_or_default(),
            length: self.sum.position(),
            ..Eof::default()
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

/// off_t is signed.
const MAX_LENGTH: u64 = i64::MAX.unsigned_abs();
