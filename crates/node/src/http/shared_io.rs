//! A connection's bytes, of which somebody else has a hand free to say a last
//! word: hyper closes a connection whose request's head does not come in time
//! without one.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What somebody is told whose request's head did not come.
const NO_HEAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
    content-length: 0\r\n\r\n";

/// For it to be taken.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Clones share it.
#[derive(Debug)]
pub(super) struct SharedIo<S> {
    io: Arc<Mutex<S>>,
    /// Whether bytes have come since the last request's head.
    heard: Arc<AtomicBool>,
}

impl<S> Clone for SharedIo<S> {
    fn clone(&self) -> Self {
        Self { io: Arc::clone(&self.io), heard: Arc::clone(&self.heard) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> SharedIo<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io: Arc::new(Mutex::new(io)), heard: Arc::default() }
    }

    pub(super) fn heard(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.heard)
    }

    /// Of a connection that hyper has let go of. Who has sent nothing has asked
    /// for nothing, and hears nothing.
    pub(super) async fn say_no_head(mut self) {
        if !self.heard.load(Ordering::Relaxed) {
            return;
        }
        let said = async {
            self.write_all(NO_HEAD).await?;
            self.shutdown().await
        };
        // Who does not take it gets a closed connection.
        let _ = tokio::time::timeout(LAST_WORD, said).await;
    }

    fn io(&self) -> MutexGuard<'_, S> {
        // A panic of a stream's leaves nothing half done that matters to us.
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for SharedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.io()).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SharedIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io()).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io()).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io()).poll_shutdown(cx)
    }
}
