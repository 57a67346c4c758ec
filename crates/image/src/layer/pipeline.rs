//! A layer's way from its blob into the tree, over three threads:
//!
//! ```text
//!   blob ─> decompress ──chunks──> parse and write   (the caller's thread)
//!                      └─chunks──> SHA-256 = diff_id
//! ```
//!
//! Dropping the receiving end of a channel ends the thread behind it, so a
//! failure anywhere ends all three; `std::thread::scope` waits for them.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use inn_units::{Bytes, Digest, GIB};
use sha2::{Digest as _, Sha256};

use super::apply::{self, Making};
use super::tar::{SkipRead, TarReader};
use crate::arrival::{Arrival, Tail};
use crate::course::Course;
use crate::error::ImageError;

/// What is decompressed at once: well within the second-level cache.
const CHUNK: usize = 256 * 1024;
/// Chunks on their way to one thread: enough that a pause of one (a write
/// that waits for the disk) does not stop the other, small in memory (2 MiB).
const CHUNKS_AHEAD: usize = 8;
/// A layer may grow to this size whatever its ratio.
const ALWAYS_ALLOWED: u64 = GIB;
/// Text and programs compress to a third or a tenth; deflate ends at 1,032.
const MAX_RATIO: u64 = 200;

/// What a file takes in memory, without its name: an inode of 104 bytes, its
/// place in a directory that is half full, and what the allocator adds.
pub(crate) const ENTRY: u64 = 184;
/// Of all files of an image, in MiB.
pub(crate) const MEMORY: u64 = 92;

/// What one image may bring at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) entries: u64,
    /// Of file data, and of the root disk.
    pub(crate) bytes: Bytes,
    /// Of what is held in memory of all of them: [`ENTRY`], names, link targets
    /// and attributes.
    pub(crate) metadata: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        // With it an agent stays below 150 MiB: some 500,000 files.
        Self { entries: 2_000_000, bytes: Bytes::gib(64), metadata: Bytes::mib(MEMORY) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes (RFC 1952, 2.3.1; RFC 8878, 3.1.1), since media
    /// types are missing in some archives and wrong in others.
    pub(crate) fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// A decompressing reader, with a buffer of its own where it needs one.
    pub(crate) fn reader<'a, R: Read + Send + 'a>(
        self,
        from: R,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(from),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(
                CHUNK, from,
            ))),
            Self::Zstd => Box::new(zstd::Decoder::new(from)?),
        })
    }
}

/// A layer that is here or on its way.
#[derive(Debug)]
pub(crate) struct LayerBlob<'a> {
    pub(crate) arrival: &'a Arrival,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    /// Counted from 1, the lowest layer first.
    pub(crate) number: u32,
    /// The disk that is being made, for messages.
    pub(crate) disk: &'a Path,
}

impl LayerBlob<'_> {
    fn index(&self) -> usize {
        self.number as usize - 1
    }
}

type Chunk = Arc<Vec<u8>>;

/// Applies a layer, perhaps while it still arrives, and checks what it
/// decompressed to. That its digest held is for the caller to ask.
pub(crate) fn unpack(
    making: &mut Making<'_>,
    layer: &LayerBlob<'_>,
    course: &Course,
) -> Result<(), ImageError> {
    let what = format!("layer {} ({})", layer.number, layer.digest);
    let open = |source| apply::tar_error(&what, super::TarError::Io(source));
    let mut blob = Tail::new(layer.arrival, course);
    let mut head = Vec::new();
    blob.by_ref().take(4).read_to_end(&mut head).map_err(open)?;
    let compression = Compression::detect(&head);
    let ceiling = ALWAYS_ALLOWED.max(layer.size.saturating_mul(MAX_RATIO));
    // Bytes that are verified under the same digest are not hashed again.
    let hashed = compression != Compression::None || layer.digest != layer.diff_id;
    let index = layer.index();
    let counted = Counted { blob: io::Cursor::new(head).chain(blob), course, index };
    let reader = compression.reader(counted).map_err(open)?;

    let digest = std::thread::scope(|scope| {
        let (to_parser, chunks) = sync_channel(CHUNKS_AHEAD);
        let (to_hasher, to_hash) = sync_channel(CHUNKS_AHEAD);
        let hasher = scope.spawn(move || hash(&to_hash));
        let too_large = what.clone();
        scope.spawn(move || {
            let to_hasher = hashed.then_some(to_hasher);
            decompress(reader, ceiling, &too_large, &to_parser, to_hasher.as_ref());
        });
        let mut tar = TarReader::new(Chunks { chunks, current: Chunk::default(), at: 0, course });
        apply::apply(making, layer, &what, &mut tar)?;
        // What follows the archive's end belongs to the digest, too.
        let mut rest = tar.into_inner();
        io::copy(&mut rest, &mut io::sink())
            .map_err(|err| apply::tar_error(&what, super::TarError::Io(err)))?;
        drop(rest);
        Ok::<_, ImageError>(hasher.join().expect("hashing does not panic"))
    })?;
    if hashed && digest != layer.diff_id {
        let what = format!("the content of {what}");
        return Err(ImageError::DigestMismatch { what, expected: layer.diff_id, got: digest });
    }
    Ok(())
}

fn hash(chunks: &Receiver<Chunk>) -> Digest {
    let mut hash = Sha256::new();
    for chunk in chunks {
        hash.update(chunk.as_slice());
    }
    Digest::from_sha256(hash.finalize().into())
}

fn decompress(
    mut reader: Box<dyn Read + Send + '_>,
    ceiling: u64,
    what: &str,
    to_parser: &SyncSender<io::Result<Chunk>>,
    to_hasher: Option<&SyncSender<Chunk>>,
) {
    let mut total = 0u64;
    loop {
        let mut chunk = vec![0; CHUNK];
        let filled = fill(&mut reader, &mut chunk);
        let message = filled.and_then(|n| {
            chunk.truncate(n);
            total += n as u64;
            if total > ceiling {
                let limit = format!("it decompresses to more than {MAX_RATIO} times its size");
                return Err(io::Error::other(ImageError::TooLarge {
                    what: what.to_owned(),
                    limit,
                }));
            }
            Ok(Arc::new(chunk))
        });
        let last = message.as_ref().map_or(true, |chunk| chunk.is_empty());
        if let (Some(hasher), Ok(chunk)) = (to_hasher, &message)
            && hasher.send(chunk.clone()).is_err()
        {
            return;
        }
        // A closed channel means that the parser has failed and said why.
        if to_parser.send(message).is_err() || last {
            return;
        }
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match reader.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            // Inside a compressed stream this is damage, never a short tar.
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its compressed data ends too early",
                ));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(n)
}

/// The blob, telling how much of it was read.
struct Counted<'a, R> {
    blob: R,
    course: &'a Course,
    index: usize,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.blob.read(into)?;
        self.course.unpacked(self.index, n as u64);
        Ok(n)
    }
}

/// The parser's end of the channel.
struct Chunks<'a> {
    chunks: Receiver<io::Result<Chunk>>,
    current: Chunk,
    at: usize,
    course: &'a Course,
}

impl SkipRead for Chunks<'_> {}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            self.course.check().map_err(io::Error::other)?;
            // Closed: the last chunk, an empty one, was received before.
            self.current = self.chunks.recv().unwrap_or_else(|_| Ok(Chunk::default()))?;
            self.at = 0;
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let n = chunk.len().min(into.len());
        into[..n].copy_from_slice(&chunk[..n]);
        self.consume(n);
        Ok(n)
    }
}
