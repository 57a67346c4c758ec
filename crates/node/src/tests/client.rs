//! As little of an HTTP client as these tests need.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::PATIENCE;

#[derive(Debug, Clone)]
pub(super) struct TestClient {
    socket: PathBuf,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) location: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) trailers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The JSON of a success.
    #[track_caller]
    pub(super) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.json()
    }

    /// The code of a problem, which has to be a proper one.
    #[track_caller]
    pub(super) fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("urn:innkeeper:problem:{code}"));
        (self.status, code, problem["detail"].as_str().unwrap().to_owned())
    }
}

impl Answer {
    /// A header's text, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl TestClient {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), "").await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = Request::put(path).header("content-type", "application/json");
        self.send(request, &body.to_string()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request, &body.to_string()).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = Request::patch(path).header("content-type", "application/json");
        self.send(request, &body.to_string()).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path), "").await
    }

    pub(super) async fn send(&self, request: hyper::http::request::Builder, body: &str) -> Answer {
        let stream = inn_host::socket::connect(&self.socket).await.unwrap();
        send(stream, request.header("host", "localhost"), body).await
    }

    pub(super) async fn websocket(&self, path: &str) -> WebSocketStream<UnixStream> {
        self.try_websocket(path).await.unwrap()
    }

    pub(super) async fn try_websocket(
        &self,
        path: &str,
    ) -> Result<WebSocketStream<UnixStream>, Error> {
        let protocol = path.contains("/exec").then_some(inn_api::exec::SUBPROTOCOL);
        self.websocket_of(path, protocol).await
    }

    pub(super) async fn websocket_of(
        &self,
        path: &str,
        protocol: Option<&str>,
    ) -> Result<WebSocketStream<UnixStream>, Error> {
        let protocol = protocol.map(|protocol| ("sec-websocket-protocol", protocol));
        self.websocket_with(path, protocol.as_slice()).await
    }

    pub(super) async fn websocket_with(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<WebSocketStream<UnixStream>, Error> {
        let stream = inn_host::socket::connect(&self.socket).await.unwrap();
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
    }

    /// Runs a command to its end: stdout, stderr and the status.
    pub(super) async fn exec(&self, path: &str, stdin: &str) -> (String, String, Value) {
        let mut socket = self.websocket(path).await;
        if !stdin.is_empty() {
            let mut data = vec![0];
            data.extend(stdin.as_bytes());
            socket.send(Message::Binary(data.into())).await.unwrap();
            socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap();
            match message.unwrap() {
                Message::Binary(data) => match data[0] {
                    1 => out.extend(&data[1..]),
                    2 => err.extend(&data[1..]),
                    3 => {
                        let text = |bytes| String::from_utf8(bytes).unwrap();
                        let status = serde_json::from_slice(&data[1..]).unwrap();
                        return (text(out), text(err), status);
                    }
                    other => panic!("channel {other}"),
                },
                other => panic!("{other:?}"),
            }
        }
    }
}

pub(super) async fn send_tcp(
    address: std::net::SocketAddr,
    request: hyper::http::request::Builder,
) -> Answer {
    send(TcpStream::connect(address).await.unwrap(), request, "").await
}

pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: hyper::http::request::Builder,
    body: &str,
) -> Answer {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let answered = async {
        let response = sender.send_request(request).await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let (content_type, location) = (header("content-type"), header("location"));
        let body = response.into_body().collect().await.unwrap();
        Answer {
            status,
            content_type: content_type.unwrap_or_default(),
            location,
            headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answered).await.unwrap();
    connection.abort();
    answer
}
