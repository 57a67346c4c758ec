//! Between the async streams of the API and the blocking world of tar.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, stream};
use inn_client::ByteStream;
use tokio::sync::mpsc;

/// Chunks between the two sides: enough that neither waits for the other's
/// every system call.
const DEPTH: usize = 8;
const CHUNK: usize = 64 << 10;

/// Bytes that have passed, for a progress bar and for the result.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<Mutex<Passing>>);

/// What one attempt adds to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passing(Arc<AtomicU64>);

impl Count {
    /// For the attempt that is under way.
    pub(crate) fn passing(&self) -> Passing {
        self.now().clone()
    }

    /// For a new attempt, which goes on after `n`. What an earlier one still
    /// has in its pipes is counted no more.
    pub(crate) fn go_on(&self, n: u64) -> Passing {
        let passing = Passing(Arc::new(AtomicU64::new(n)));
        *self.now() = passing.clone();
        passing
    }

    pub(crate) fn get(&self) -> u64 {
        self.now().0.load(Ordering::Relaxed)
    }

    fn now(&self) -> MutexGuard<'_, Passing> {
        // One pointer is replaced.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passing {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Reads, in a blocking thread, what a stream brings.
#[derive(Debug)]
pub(crate) struct StreamReader {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl StreamReader {
    pub(crate) fn new(mut stream: ByteStream, count: Passing) -> Self {
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
    count: Passing,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (send, parts) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let sink = StreamWriter { parts: send.clone() };
        let mut buffered = io::BufWriter::with_capacity(CHUNK, sink);
        let done = produce(&mut buffered).and_then(|()| buffered.flush());
        if let Err(e) = done {
            // Nobody listens any more when this fails.
            let _ = send.blocking_send(Err(e));
        }
    });
    // Counted ahead of whoever learns that all has arrived.
    stream::unfold((parts, count), |(mut parts, count)| async move {
        let part = parts.recv().await?;
        if let Ok(data) = &part {
            count.add(data.len());
        }
        Some((part, (parts, count)))
    })
}

struct StreamWriter {
    parts: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for StreamWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = Bytes::copy_from_slice(data);
        self.parts.blocking_send(Ok(part)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
