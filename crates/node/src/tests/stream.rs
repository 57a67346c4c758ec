//! Server-sent events, read one after the other.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::agent::TestAgent;

#[derive(Debug)]
pub(super) struct Stream {
    body: Incoming,
    text: String,
    connection: JoinHandle<hyper::Result<()>>,
}

#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) event: String,
    pub(super) id: String,
    pub(super) data: String,
}

impl Told {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Stream {
    pub(super) async fn open(agent: &TestAgent, path: &str, last: Option<&str>) -> Self {
        let io = UnixStream::connect(agent.node.config.paths.api_socket()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "localhost");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new(), connection }
    }

    pub(super) async fn next(&mut self) -> Told {
        let next = async {
            loop {
                if let Some((told, rest)) = self.text.split_once("\n\n") {
                    let (told, rest) = (parse(told), rest.to_owned());
                    self.text = rest;
                    if !told.event.is_empty() {
                        return told;
                    }
                    continue;
                }
                let frame = self.body.frame().await.expect("it goes on").unwrap();
                let data = frame.into_data().unwrap();
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event comes")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn parse(text: &str) -> Told {
    let mut told = Told::default();
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => value.clone_into(&mut told.event),
            Some(("id", value)) => value.clone_into(&mut told.id),
            Some(("data", value)) => value.clone_into(&mut told.data),
            _ => {}
        }
    }
    told
}
