//! Between the async streams of the API and the blocking world of tar.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, stream};
use inn_client::ByteStream;
use tokio::sync::mpsc;

/// Chunks between the two sides: enough that neither waits for the other's
/// every system call.
const DEPTH: usize = 8;
const CHUNK: usize = 64 << 10;

/// Bytes that have passed, for a progress bar.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// What has passed, where something goes on in the middle.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads, in a blocking thread, what a stream brings.
#[derive(Debug)]
pub(crate) struct StreamReader {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl StreamReader {
    pub(crate) fn new(mut stream: ByteStream, count: Count) -> Self {
        let (send, parts) = mpsc::channel(DEPTH);
        tokio::spawn(async move {
            while let Some(part) = stream.next().await {
                if let Ok(data) = &part {
                    count.add(data.len());
                }
                if send.send(part.map_err(io::Error::other)).await.is_err() {
                    return;
                }
            }
        });
        Self { parts, current: Bytes::new() }
    }
}

impl Read for StreamReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.current = part?,
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..n]);
        Ok(n)
    }
}

/// Runs `produce` in a blocking thread; what it writes is the stream. Its
/// error ends the stream as an error, so that the other end sees no whole file.
pub(crate) fn stream_from(
    produce: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    count: Count,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (send, parts) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let sink = StreamWriter { parts: send.clone(), count };
        let mut buffered = io::BufWriter::with_capacity(CHUNK, sink);
        let done = produce(&mut buffered).and_then(|()| buffered.flush());
        if let Err(e) = done {
            // Nobody listens any more when this fails.
            let _ = send.blocking_send(Err(e));
        }
    });
    stream::unfold(parts, |mut parts| async move { Some((parts.recv().await?, parts)) })
}

struct StreamWriter {
    parts: mpsc::Sender<io::Result<Bytes>>,
    count: Count,
}

impl Write for StreamWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = Bytes::copy_from_slice(data);
        self.parts.blocking_send(Ok(part)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.count.add(data.len());
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
