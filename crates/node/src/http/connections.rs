//! How many connections there may be, and what one of them is made of.
//!
//! ```text
//!   accepted ─▶ a place? ──no──▶ 429 in one write, closed
//!                 │ yes
//!                 ▼
//!               Wire (holds the place) ─▶ TLS, HTTP ─▶ perhaps a WebSocket
//!                 └── cut, when the token that it was opened with ends
//! ```
//! A WebSocket outlives the HTTP connection that it came by, so that the place
//! goes with the bytes' way and not with the task that serves it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::config::AccessConfig;

/// Who counts as one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PeerKey {
    Uid(u32),
    /// Of IPv6 the first 64 bits: what one host has at least (RFC 6177).
    Address(IpAddr),
}

impl PeerKey {
    pub(super) fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into()
            }
            other => other,
        })
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// The connections that there are.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_peer: HashMap<PeerKey, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Peer,
}

/// One connection's place; free again once this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// `None`: not counted.
    taken: Option<(Arc<Connections>, PeerKey)>,
}

impl Connections {
    /// Of so many as the configuration allows by now.
    pub(super) fn take(
        self: &Arc<Self>,
        peer: PeerKey,
        config: &AccessConfig,
    ) -> Result<Place, Full> {
        let number = |n| usize::try_from(n).unwrap_or(usize::MAX);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = open.by_peer.get(&peer).copied().unwrap_or_default();
        if of_peer >= number(config.connections_per_peer) {
            return Err(Full::Peer);
        }
        if open.all >= number(config.connections) {
            return Err(Full::All);
        }
        open.all += 1;
        open.by_peer.insert(peer, of_peer + 1);
        Ok(Place { taken: Some((Arc::clone(self), peer)) })
    }
}

impl Place {
    /// Of those who own the host: no flood of others' connections shall keep
    /// them out.
    pub(super) const fn uncounted() -> Self {
        Self { taken: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((connections, peer)) = self.taken.take() else { return };
        let mut open = connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        match open.by_peer.get_mut(&peer) {
            Some(1) | None => drop(open.by_peer.remove(&peer)),
            Some(n) => *n -= 1,
        }
    }
}

/// A connection's bytes, which hold its place and can be cut.
#[derive(Debug)]
pub(super) struct Wire<S> {
    io: S,
    cut: CancellationToken,
    until_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

impl<S> Wire<S> {
    pub(super) fn new(io: S, place: Place, cut: CancellationToken) -> Self {
        Self { io, until_cut: Box::pin(cut.clone().cancelled_owned()), cut, _place: place }
    }

    fn is_cut() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "cut: what it was opened with has ended")
    }
}

impl<S> Drop for Wire<S> {
    fn drop(&mut self) {
        // Whoever waits to cut it need not wait any longer.
        self.cut.cancel();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.until_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Self::is_cut()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(Self::is_cut()));
        }
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(Self::is_cut()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn places_are_bounded_for_each_and_for_all_and_come_back() {
        let config = AccessConfig { connections: 3, connections_per_peer: 2, ..Default::default() };
        let connections = Arc::new(Connections::default());
        let peer = |n: u8| PeerKey::of(IpAddr::from([10, 0, 0, n]));
        let first = connections.take(peer(1), &config).unwrap();
        let _second = connections.take(peer(1), &config).unwrap();
        assert_eq!(connections.take(peer(1), &config).unwrap_err(), Full::Peer);
        let third = connections.take(PeerKey::Uid(5), &config).unwrap();
        assert_eq!(connections.take(peer(2), &config).unwrap_err(), Full::All);
        drop(Place::uncounted());
        drop(first);
        let fourth = connections.take(peer(2), &config).unwrap();
        drop((third, fourth));
        assert_eq!(connections.open.lock().unwrap().by_peer.len(), 1, "no trace of the others");
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_are_one_peer() {
        let of = |text: &str| PeerKey::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
    }

    #[tokio::test]
    async fn a_cut_wakes_who_reads() {
        let (near, mut far) = tokio::io::duplex(64);
        let cut = CancellationToken::new();
        let mut wire = Wire::new(near, Place::uncounted(), cut.clone());
        far.write_all(b"x").await.unwrap();
        assert_eq!(wire.read_u8().await.unwrap(), b'x');
        let reading = tokio::spawn(async move {
            let error = wire.read_u8().await.unwrap_err();
            (error.kind(), wire.write_u8(1).await.unwrap_err().kind())
        });
        cut.cancel();
        let aborted = io::ErrorKind::ConnectionAborted;
        assert_eq!(reading.await.unwrap(), (aborted, aborted));
    }
}
