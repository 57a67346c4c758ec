//! Takes connections and serves them.
//!
//! ```text
//!   accept ─▶ place ─▶ requests, one after the other ─▶ closed
//!     │                      │ stop: after the answer at work
//!     └── stop: no more      ▼
//!                          closed
//! ```
//! One task accepts for each listener, one serves each connection.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::auth::{Peer, Way};
use super::connections::{Connections, Full, Place, Wire};
use super::pace::Paced;
use super::shared_io::SharedIo;
use super::tls::Tls;
use crate::access::id_of_certificate;
use crate::config::{AccessConfig, SharedConfig};

/// After an accept that failed for want of file descriptors: they come back
/// as connections end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// For the first request of a connection that was accepted just before the end.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What a connection without a place is told before it is closed.
const NO_PLACE: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// The headers that hyper takes without an allocation.
const NAMED_HEADERS: usize = 100;

/// What every connection is served by.
#[derive(Debug)]
pub(super) struct Door {
    app: Router,
    config: Arc<SharedConfig>,
    connections: Arc<Connections>,
    /// Over TCP, if there is a certificate.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) stop: CancellationToken,
    /// Those who serve a connection.
    pub(super) tasks: TaskTracker,
}

/// How heads are read, as it is configured by now.
fn http(config: &AccessConfig) -> http1::Builder {
    let number = |n| usize::try_from(n).unwrap_or(usize::MAX);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(number(config.header_size));
    // Any other number costs an allocation for each request.
    if number(config.headers) != NAMED_HEADERS {
        http.max_headers(number(config.headers));
    }
    http
}

impl Door {
    pub(super) fn new(
        app: Router,
        config: Arc<SharedConfig>,
        tls: Option<Arc<Tls>>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (connections, tasks) = Default::default();
        Arc::new(Self { app, config, connections, tls, stop, tasks })
    }

    /// Takes connections until it is stopped.
    pub(super) async fn accept<L: Listen>(self: Arc<Self>, listener: L) {
        loop {
            let accepted = tokio::select! {
                // Cancel safe: a connection is taken whole or waits for the
                // next agent.
                accepted = listener.next() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) if is_the_connection_s(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn take<S: Stream>(self: &Arc<Self>, stream: S, peer: Peer) {
        let place = if peer.owns_the_host() {
            Ok(Place::uncounted())
        } else {
            self.connections.take(peer.key(), &self.config.live().access)
        };
        match place {
            Ok(place) => {
                let wire = Wire::new(stream, place, peer.cut.clone());
                let door = Arc::clone(self);
                match (&peer.way, &self.tls) {
                    (Way::Tcp { .. }, Some(tls)) => {
                        let acceptor = TlsAcceptor::from(tls.current());
                        self.tasks.spawn(door.serve_tls(acceptor, wire, peer));
                    }
                    _ => drop(self.tasks.spawn(door.serve(wire, peer))),
                }
            }
            Err(full) => {
                let most = match full {
                    Full::All => "api.connections",
                    Full::Peer => "api.connections_per_peer",
                };
                tracing::debug!(from = %peer.key(), most, "no place for a connection");
                // Whoever does not take it at once gets a closed connection.
                if self.tls.is_none() {
                    stream.say(NO_PLACE);
                }
            }
        }
    }

    async fn serve_tls<S>(self: Arc<Self>, acceptor: TlsAcceptor, io: Wire<S>, mut peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Cancel safe: whoever does not get through is closed.
        let stream =
            match timeout(self.config.live().access.header_timeout, acceptor.accept(io)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    return tracing::debug!(from = %peer.key(), %error, "no TLS");
                }
                Err(_) => return tracing::debug!(from = %peer.key(), "no TLS in time"),
            };
        if let Way::Tcp { certificate, .. } = &mut peer.way {
            let shown = stream.get_ref().1.peer_certificates();
            *certificate = shown.and_then(<[_]>::first).map(|first| id_of_certificate(first));
        }
        self.serve(stream, peer).await;
    }

    async fn serve<S>(self: Arc<Self>, io: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let app = self.app.clone();
        let from = peer.key();
        let asked = CancellationToken::new();
        let begun = asked.clone();
        let io = SharedIo::new(io);
        let (heard, config) = (io.heard(), Arc::clone(&self.config));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            begun.cancel();
            heard.store(false, Ordering::Relaxed);
            let window = config.live().access.body_timeout;
            let mut request =
                request.map(|body| Body::new(Paced::new(body, window, Arc::clone(&heard))));
            request.extensions_mut().insert(ConnectInfo(peer.clone()));
            app.clone().oneshot(request)
        });
        let http = http(&self.config.live().access);
        let connection = http.serve_connection(TokioIo::new(io.clone()), service).with_upgrades();
        let mut connection = pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                // Not cancelled: it is driven on until it ends.
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%from, %error, "a connection broke");
                        if error.is_timeout() {
                            io.say_no_head().await;
                        }
                    }
                    return;
                }
                // Cancel safe: it stays stopped, and the wait begins anew.
                () = self.is_to_end(&asked), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

impl Door {
    /// No more requests are wanted. But one that was accepted before may have
    /// its first on the way: closed at once, it would be reset.
    async fn is_to_end(&self, asked: &CancellationToken) {
        self.stop.cancelled().await;
        let _nothing_came = timeout(FIRST_REQUEST, asked.cancelled()).await;
    }
}

/// Where connections come from.
pub(super) trait Listen: Send + 'static {
    type Stream: Stream;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Writes as much as is taken at once.
    fn say(&self, text: &[u8]);
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred().ok().map(|cred| cred.uid());
        Ok((stream, Peer::new(Way::Unix { uid })))
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        // Keystrokes and their echo must not wait to fill a segment.
        stream.set_nodelay(true)?;
        Ok((stream, Peer::new(Way::Tcp { address: address.ip(), certificate: None })))
    }
}

impl Stream for UnixStream {
    fn say(&self, text: &[u8]) {
        let _ = self.try_write(text);
    }
}

impl Stream for TcpStream {
    fn say(&self, text: &[u8]) {
        let _ = self.try_write(text);
        // What was sent already and is not read would have the answer reset.
        let _ = self.try_read(&mut [0; 4096]);
    }
}

/// accept(2): errors of a connection that is gone by the time it is taken.
fn is_the_connection_s(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput)
}
