use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use inn_api::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::ClientError;
use crate::query::Target;
use crate::tls::{Tls, TlsFiles};

/// Longest time between a request and the head of its answer, on top of any
/// wait that the request itself asks for. Generous: a node that is short of
/// CPU is slow and not broken.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Largest JSON answer. A list of ten thousand VMs has about 10 MiB.
const JSON_LIMIT: usize = 64 << 20;

/// As W3C's Trace Context names it.
pub(crate) const TRACEPARENT: &str = "traceparent";

pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A body as it comes in.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Where the agent is; making one does no I/O.
#[derive(Clone)]
pub struct Client {
    address: Address,
    /// Goes with each request.
    traceparent: Option<HeaderValue>,
}

#[derive(Clone)]
enum Address {
    #[cfg_attr(not(unix), allow(dead_code))]
    Unix(PathBuf),
    Tcp {
        authority: String,
        token: Option<String>,
        tls: Option<Tls>,
    },
}

impl Client {
    /// The agent behind a unix socket, which knows us by our uid.
    #[cfg(unix)]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Address::Unix(path.into()))
    }

    /// The agent behind `http://HOST:PORT`, which knows us by a token.
    pub fn tcp(base_url: &str, token: Option<String>) -> Result<Self, ClientError> {
        Self::over_tcp(base_url, token, "http", 80, None)
    }

    /// The agent behind `https://HOST:PORT`. Reads the files.
    pub fn tls(
        base_url: &str,
        token: Option<String>,
        files: &TlsFiles,
    ) -> Result<Self, ClientError> {
        Self::over_tcp(base_url, token, "https", 443, Some(files))
    }

    fn over_tcp(
        base_url: &str,
        token: Option<String>,
        scheme: &str,
        port: u16,
        files: Option<&TlsFiles>,
    ) -> Result<Self, ClientError> {
        let refuse =
            |what: &str| ClientError::Address { given: base_url.to_owned(), what: what.to_owned() };
        let uri: Uri = base_url.parse().map_err(|_| refuse("it is no URL"))?;
        if uri.scheme_str() != Some(scheme) {
            return Err(refuse(&format!("it must begin with {scheme}://")));
        }
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        let tls = files.map(|files| Tls::open(authority.host(), files)).transpose()?;
        let port = authority.port_u16().unwrap_or(port);
        let authority = format!("{}:{port}", authority.host());
        Ok(Self::at(Address::Tcp { authority, token, tls }))
    }

    fn at(address: Address) -> Self {
        Self { address, traceparent: None }
    }

    /// Requests are part of this trace from here on (W3C Trace Context, 3.2).
    /// What is no traceparent is left for the agent to ignore.
    #[must_use]
    pub fn in_trace(self, traceparent: &str) -> Self {
        Self { traceparent: HeaderValue::try_from(traceparent).ok(), ..self }
    }

    pub(crate) async fn connect(&self) -> Result<Box<dyn Io>, ClientError> {
        match &self.address {
            #[cfg(unix)]
            Address::Unix(path) => match crate::socket::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(source) => Err(self.unreachable(source)),
            },
            #[cfg(not(unix))]
            Address::Unix(_) => Err(self.unreachable(std::io::ErrorKind::Unsupported.into())),
            Address::Tcp { authority, tls, .. } => {
                match tokio::net::TcpStream::connect(authority.as_str()).await {
                    Ok(stream) => {
                        // Interactive input must not wait to fill a segment.
                        stream.set_nodelay(true).map_err(|e| self.unreachable(e))?;
                        match tls {
                            None => Ok(Box::new(stream)),
                            Some(tls) => {
                                match timeout(ANSWER_DEADLINE, tls.connect(stream)).await {
                                    Ok(Ok(stream)) => Ok(Box::new(stream)),
                                    Ok(Err(e)) => Err(self.unreachable(e)),
                                    Err(_) => Err(self.unreachable(ErrorKind::TimedOut.into())),
                                }
                            }
                        }
                    }
                    Err(source) => Err(self.unreachable(source)),
                }
            }
        }
    }

    fn unreachable(&self, source: std::io::Error) -> ClientError {
        let target = match &self.address {
            Address::Unix(path) => path.display().to_string(),
            Address::Tcp { authority, .. } => authority.clone(),
        };
        ClientError::Unreachable { target, source }
    }

    /// What goes into `Host` and into a WebSocket's URL.
    pub(crate) fn host(&self) -> &str {
        match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp { authority, .. } => authority,
        }
    }

    pub(crate) fn traceparent(&self) -> Option<&HeaderValue> {
        self.traceparent.as_ref()
    }

    pub(crate) fn bearer(&self) -> Option<String> {
        match &self.address {
            Address::Tcp { token: Some(token), .. } => Some(format!("Bearer {token}")),
            _ => None,
        }
    }

    /// Sends a request; an answer outside 2xx comes back as its problem.
    /// `patience` is how long the agent may take beyond the usual; none means
    /// for ever, for uploads, whose answer comes after the last byte.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &Target,
        body: Option<(&'static str, Body)>,
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.send_with(method, target, HeaderMap::new(), body, patience).await
    }

    pub(crate) async fn send_with(
        &self,
        method: Method,
        target: &Target,
        headers: HeaderMap,
        body: Option<(&'static str, Body)>,
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>, ClientError> {
        let during = format!("{method} {}", target.as_str());
        let io = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(|e| ClientError::broken(&during, e))?;
        // Ends with the answer's body. Its error is the sender's as well.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request =
            Request::builder().method(method).uri(target.as_str()).header(HOST, self.host());
        if let Some(bearer) = self.bearer() {
            request = request.header(AUTHORIZATION, bearer);
        }
        if let Some(traceparent) = self.traceparent() {
            request = request.header(TRACEPARENT, traceparent);
        }
        let body = match body {
            Some((media_type, body)) => {
                request = request.header(CONTENT_TYPE, media_type);
                body
            }
            None => full(Bytes::new()),
        };
        let mut request =
            request.body(body).map_err(|e| ClientError::protocol(&during, e.to_string()))?;
        request.headers_mut().extend(headers);
        let answer = sender.send_request(request);
        let response = match patience {
            Some(more) => {
                let limit = ANSWER_DEADLINE.saturating_add(more);
                tokio::time::timeout(limit, answer).await.map_err(|_| ClientError::Silent {
                    during: during.clone(),
                    seconds: limit.as_secs(),
                })?
            }
            None => answer.await,
        };
        let response = response.map_err(|e| ClientError::broken(&during, e))?;
        tracing::debug!(request = during, status = response.status().as_u16(), "answered");
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = read_all(&during, response).await?;
        Err(problem_in(&during, status, &body))
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Option<&(impl Serialize + Sync)>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let during = format!("{method} {}", target.as_str());
        let response = self.request(method, target, body, patience).await?;
        self.json(&during, response).await
    }

    /// A request whose success has nothing to say.
    pub(crate) async fn done(
        &self,
        method: Method,
        target: &Target,
        body: Option<&(impl Serialize + Sync)>,
        patience: Duration,
    ) -> Result<(), ClientError> {
        self.request(method, target, body, patience).await.map(drop)
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        target: &Target,
        body: Option<&(impl Serialize + Sync)>,
        patience: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let body = match body {
            Some(body) => {
                let json = serde_json::to_vec(body).map_err(|e| {
                    let during = format!("{method} {}", target.as_str());
                    ClientError::protocol(&during, e.to_string())
                })?;
                Some(("application/json", full(json.into())))
            }
            None => None,
        };
        self.send(method, target, body, Some(patience)).await
    }

    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        during: &str,
        response: Response<Incoming>,
    ) -> Result<T, ClientError> {
        let body = read_all(during, response).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::protocol(during, e.to_string()))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.call(Method::GET, target, None::<&()>, Duration::ZERO).await
    }

    /// The answer's body as it is, of at most as much as JSON may have.
    pub(crate) async fn text(&self, target: &Target) -> Result<String, ClientError> {
        let during = format!("GET {}", target.as_str());
        let response = self.send(Method::GET, target, None, Some(Duration::ZERO)).await?;
        let body = read_all(&during, response).await?;
        String::from_utf8(body.into()).map_err(|e| ClientError::protocol(&during, e.to_string()))
    }

    /// The answer's body as a stream, once its head has said success.
    pub(crate) async fn stream(&self, target: &Target) -> Result<ByteStream, ClientError> {
        let during = format!("GET {}", target.as_str());
        let response = self.send(Method::GET, target, None, Some(Duration::ZERO)).await?;
        let frames = response.into_body().into_data_stream();
        Ok(Box::pin(frames.map(move |part| part.map_err(|e| ClientError::broken(&during, e)))))
    }
}

// Not derived, so that no log ever holds the token.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address: &dyn fmt::Debug = match &self.address {
            Address::Unix(path) => path,
            Address::Tcp { authority, .. } => authority,
        };
        f.debug_struct("Client").field("address", address).finish_non_exhaustive()
    }
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

async fn read_all(during: &str, response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), JSON_LIMIT);
    match tokio::time::timeout(ANSWER_DEADLINE, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) => Err(ClientError::broken(during, e)),
        Err(_) => Err(ClientError::Silent {
            during: during.to_owned(),
            seconds: ANSWER_DEADLINE.as_secs(),
        }),
    }
}

/// The problem in an answer, or what stands there instead of one.
pub(crate) fn problem_in(during: &str, status: u16, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.into(),
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
            ClientError::protocol(during, format!("status {status} {text}"))
        }
    }
}
