//! Firecracker's API: HTTP on a unix socket, by one connection.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use inn_host::socket;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::requests::Request;

/// Each is answered in a millisecond, but a host may be swapping.
const ANSWER: Duration = Duration::from_secs(20);

/// For a machine to be built, or all of its memory to be written: its memory is
/// mapped, its kernel read, and a KVM that is there and does nothing shows itself
/// here first.
const START: Duration = Duration::from_secs(60);

/// Of a fault's description.
const LONGEST_ANSWER: usize = 64 << 10;

/// Between two looks for a socket that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Api {
    sender: SendRequest<Full<Bytes>>,
    /// The connection's own task.
    driver: JoinHandle<()>,
    pid: Option<u32>,
    uid: u32,
}

impl Api {
    /// As soon as somebody listens at the socket, which Firecracker makes.
    pub(crate) async fn appeared(path: &Path) -> io::Result<Self> {
        loop {
            match Self::connect(path).await {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    sleep(LOOK_EVERY).await;
                }
                connected => return connected,
            }
        }
    }

    pub(crate) async fn connect(path: &Path) -> io::Result<Self> {
        let stream: UnixStream = socket::connect(path).await?;
        let peer = stream.peer_cred()?;
        let (pid, uid) = (peer.pid().and_then(|pid| u32::try_from(pid).ok()), peer.uid());
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // Whoever asks learns of its end by the answer that does not come.
            let _ended = connection.await;
        });
        Ok(Self { sender, driver, pid, uid })
    }

    /// The process that listens there: unix(7), SO_PEERCRED.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whom it ran as when it began to listen.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Every failure names the request.
    pub(crate) async fn ask(&mut self, request: &Request) -> io::Result<()> {
        let Request { method, path, .. } = request;
        let limit = match path.as_str() {
            "/actions" | "/snapshot/create" | "/snapshot/load" => START,
            _ => ANSWER,
        };
        match timeout(limit, self.answer(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(io::Error::new(error.kind(), format!("{method} {path}: {error}")))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{method} {path}: no answer within {} s", limit.as_secs()),
            )),
        }
    }

    async fn answer(&mut self, request: &Request) -> io::Result<()> {
        let lost = |error: hyper::Error| {
            io::Error::new(io::ErrorKind::ConnectionReset, format!("no answer: {error}"))
        };
        let built = hyper::Request::builder()
            .method(request.method)
            .uri(&request.path)
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(request.body.clone())))
            .map_err(io::Error::other)?;
        self.sender.ready().await.map_err(lost)?;
        let answer = self.sender.send_request(built).await.map_err(lost)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
        if status.is_success() {
            return Ok(());
        }
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(io::Error::other(fault(&body).unwrap_or_else(|| status.to_string())))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// `{"fault_message": "…"}`, its text in one line.
fn fault(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let lines = body.get("fault_message")?.as_str()?.split_whitespace();
    Some(lines.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_in_its_own_words() {
        let body = b"{\"fault_message\":\"Invalid vCPU count.\\n It is 99\"}";
        assert_eq!(fault(body).unwrap(), "Invalid vCPU count. It is 99");
        assert_eq!(fault(b"{}"), None);
        assert_eq!(fault(b"oops"), None);
    }
}
